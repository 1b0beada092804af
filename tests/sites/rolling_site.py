"""The site of the rolling restart: a consumer, and topics over Redis.

``ROLLING_SITE`` is JSON: the CONFIG of the layer.
"""

from __future__ import annotations

import contextlib
import json
import os

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="tests only",
    ALLOWED_HOSTS=["127.0.0.1"],
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "tiderace"],
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "tiderace.layers.redis.RedisChannelLayer",
            "CONFIG": json.loads(os.environ["ROLLING_SITE"]),
        }
    },
    TIDERACE={"DRAIN_SECONDS": 2, "DRAIN_GRACE": 1},
)
django.setup()

from django.urls import path  # noqa: E402

from support.topics.storm_site import storm_site  # noqa: E402
from tiderace.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from tiderace.health import Health  # noqa: E402
from tiderace.routing import ProtocolTypeRouter, URLRouter  # noqa: E402


class Echo(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data=text_data)


async def nothing(scope, receive, send):
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b""})


# Open as long as the process.
stack = contextlib.ExitStack()
topics = stack.enter_context(storm_site())
application = ProtocolTypeRouter(
    {
        "http": Health(nothing),
        "websocket": URLRouter(
            [path("echo/", Echo.as_asgi()), path("connection/websocket", topics)]
        ),
    }
)
