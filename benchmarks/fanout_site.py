"""The site that `fanout.py` measures: a consumer written for Channels, word for word.

It runs on the real Channels as it stands, and on Tiderace after the one line of the
migration; nothing else differs.
"""

from __future__ import annotations

import json
import os
import time

if os.environ.get("CONTENDER") == "tiderace":
    import tiderace

    tiderace.install_as_channels()

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="benchmark only",
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
)
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402


class FanConsumer(AsyncWebsocketConsumer):
    """Every socket is in one group; what one says, all hear."""

    async def connect(self):
        await self.channel_layer.group_add("fan", self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        await self.channel_layer.group_discard("fan", self.channel_name)

    async def receive(self, text_data=None, bytes_data=None):
        said = json.loads(text_data)
        await self.channel_layer.group_send("fan", {"type": "fan.message", **said})

    async def fan_message(self, event):
        await self.send(
            text_data=json.dumps({"number": event["number"], "text": event["text"]})
        )


async def cpu_time(scope, receive, send):
    """Answer with the processor seconds this process has used, all threads counted."""
    body = json.dumps(time.process_time()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


application = ProtocolTypeRouter(
    {
        "http": cpu_time,
        "websocket": URLRouter([path("fan/", FanConsumer.as_asgi())]),
    }
)
