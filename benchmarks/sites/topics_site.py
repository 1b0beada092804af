"""The site of Tiderace's topics: with a history, without, and with the newest values."""

from __future__ import annotations

import asyncio
import json
import os
import time

import django
from django.conf import settings

TEXT = "x" * 40
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
        "TOPICS": {
            # A ping during a run would be measured too.
            "PING": float(os.environ.get("PING", 3600.0)),
            "COMMANDS": "1000000/s",
            "CONNECTS": None,
        },
    },
)
django.setup()

from django.urls import path  # noqa: E402

from tiderace.auth import AuthMiddlewareStack  # noqa: E402
from tiderace.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from tiderace.topics import (  # noqa: E402
    AllowAny,
    Growing,
    History,
    Latest,
    Topic,
    TopicsEndpoint,
    agrow,
    apublish,
)


class Kept(Topic):
    """A topic with a history of a hundred publications."""

    pattern = "kept"
    history = History(size=100, ttl=60)
    permission_classes = [AllowAny]


class Room(Topic):
    """One of many topics with a history."""

    pattern = "room:<int:number>"
    # Longer than a storm of many clients takes on a busy machine.
    history = History(size=100, ttl=600)
    permission_classes = [AllowAny]


class Passing(Topic):
    """A topic without a history."""

    pattern = "passing"
    permission_classes = [AllowAny]


class Newest(Topic):
    """A topic whose subscribers get the newest value of each key, five times a second."""

    pattern = "newest"
    deliver = Latest(rate="5/s", key="key")
    permission_classes = [AllowAny]


class Answer(Topic):
    """A topic with the answers of a language model."""

    pattern = "answer:<int:number>"
    growing = Growing()
    history = History(size=1, ttl=60)
    permission_classes = [AllowAny]


async def answer(scope, receive, send):
    """Write as many answers at once as the client asks for; reply with the time that
    it took, and end them when the client answers.

    One task appends a token to each of them in turn, so that the processor time is that
    of the messages and not that of their authors.
    """
    await receive()
    await send({"type": "websocket.accept"})
    order = json.loads((await receive())["text"])
    count, rate, tokens = order["answers"], order["rate"], order["tokens"]
    messages = [agrow(f"answer:{number}", id="answer") for number in range(count)]
    for message in messages:
        await message.begin()
    started = time.monotonic()
    for token in range(tokens):
        for number, message in enumerate(messages):
            if number % 50 == 0:
                at = started + (token + number / count) / rate
                await asyncio.sleep(max(0.0, at - time.monotonic()))
            await message.append(f"{number}-{token} ")
    took = time.monotonic() - started
    await send({"type": "websocket.send", "text": json.dumps(took)})
    await receive()  # the last subscriber is there
    for message in messages:
        await message.finish()
    await send({"type": "websocket.close"})


async def rooms(scope, receive, send):
    """Publish to rooms as often as each of the client's orders says, with a reply."""
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        order = json.loads(event["text"])
        for _ in range(order["count"]):
            await asyncio.sleep(order["pause"])
            for number in range(order["rooms"]):
                await apublish(f"room:{number}", {"text": TEXT})
        await send({"type": "websocket.send", "text": "done"})


async def drive(scope, receive, send):
    """Publish at the rate that the client asks for; reply with the number at the end."""
    await receive()
    await send({"type": "websocket.accept"})
    order = json.loads((await receive())["text"])
    rate, count = order["rate"], int(order["rate"] * order["seconds"])
    started = time.monotonic()
    for number in range(count):
        delay = started + number / rate - time.monotonic()
        if delay > 0.001:
            await asyncio.sleep(delay)
        data = {"key": number % order["keys"], "number": number, "text": TEXT}
        await apublish("newest", data)
    await send({"type": "websocket.send", "text": str(count)})
    await send({"type": "websocket.close"})


def endpoint(topic):
    """Return an endpoint whose clients publish to ``topic`` with ``send``."""

    class Endpoint(TopicsEndpoint):
        async def on_message(self, user, data):
            await apublish(topic, data)

    return Endpoint.as_asgi()


application = ProtocolTypeRouter(
    {
        "http": URLRouter([path("topics/", TopicsEndpoint.as_asgi())]),
        "websocket": URLRouter(
            [
                path("kept/", endpoint("kept")),
                path("passing/", endpoint("passing")),
                path("newest/", endpoint("newest")),
                path("drive/", drive),
                path("rooms/", rooms),
                path("clients/", AuthMiddlewareStack(TopicsEndpoint.as_asgi())),
                path("topics/", TopicsEndpoint.as_asgi()),
                path("answer/", answer),
            ]
        ),
    }
)
