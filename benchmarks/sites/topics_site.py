"""The site of Tiderace's topics: one topic with a history, one without.

The load generator's clients do not implement the protocol of topics, so the site sends
the commands ``connect`` and ``subscribe`` for them.
"""

from __future__ import annotations

import os

import django
from django.conf import settings

LAYER = {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
if "REDIS_URL" in os.environ:
    LAYER = {
        "BACKEND": "tiderace.layers.redis.RedisChannelLayer",
        "CONFIG": {"hosts": [os.environ["REDIS_URL"]]},
    }

settings.configure(
    SECRET_KEY="benchmark only",
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "tiderace"],
    CHANNEL_LAYERS={"default": LAYER},
    TIDERACE={
        # A ping during a run would be measured too.
        "TOPICS": {"PING": 3600.0, "COMMANDS": "1000000/s", "CONNECTS": None},
    },
)
django.setup()

from django.urls import path  # noqa: E402

from tiderace.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from tiderace.topics import (  # noqa: E402
    AllowAny,
    History,
    Topic,
    TopicsEndpoint,
    apublish,
)


class Kept(Topic):
    """A topic with a history of a hundred publications."""

    pattern = "kept"
    history = History(size=100, ttl=60)
    permission_classes = [AllowAny]


class Passing(Topic):
    """A topic without a history."""

    pattern = "passing"
    permission_classes = [AllowAny]


def endpoint(topic):
    """Return an endpoint whose clients are subscribed to ``topic`` and publish to it."""

    class Endpoint(TopicsEndpoint):
        async def on_message(self, user, data):
            await apublish(topic, data)

    inner = Endpoint.as_asgi()
    greeting = '{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"' + topic + '"}}'

    async def application(scope, receive, send):
        events = 0

        async def receive_greeting_first():
            nonlocal events
            events += 1
            if events == 2:  # after websocket.connect
                return {"type": "websocket.receive", "text": greeting}
            return await receive()

        await inner(scope, receive_greeting_first, send)

    return application


application = ProtocolTypeRouter(
    {
        "websocket": URLRouter(
            [
                path("kept/", endpoint("kept")),
                path("passing/", endpoint("passing")),
            ]
        )
    }
)
