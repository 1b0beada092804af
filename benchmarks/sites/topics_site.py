"""The site of Tiderace's topics: one topic with or without a history, nothing else.

The load generator's clients do not speak the topics' protocol, so the site says the two
commands for them with which a client of it begins.
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
        # A ping in the middle of a run would be measured with it.
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
    """Everybody hears it, and it remembers a hundred."""

    pattern = "kept"
    history = History(size=100, ttl=60)
    permission_classes = [AllowAny]


class Passing(Topic):
    """The same without a history."""

    pattern = "passing"
    permission_classes = [AllowAny]


def endpoint(topic):
    """An endpoint whose clients hear ``topic`` and publish to it without an answer."""

    class Endpoint(TopicsEndpoint):
        async def on_message(self, user, data):
            await apublish(topic, data)

    inner = Endpoint.as_asgi()
    greeting = '{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"' + topic + '"}}'

    async def application(scope, receive, send):
        said = False

        async def receive_greeting_first():
            nonlocal said
            if said is None:
                said = True
                return {"type": "websocket.receive", "text": greeting}
            if said is False:
                said = None
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
