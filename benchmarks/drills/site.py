"""The site of the drills: rooms, and the measurements of its process.

``DRILL_CONFIG`` is the layer's CONFIG as JSON.
"""

from __future__ import annotations

import json
import os

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="drills only",
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["tiderace"],
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "tiderace.layers.redis.RedisChannelLayer",
            "CONFIG": json.loads(os.environ["DRILL_CONFIG"]),
        }
    },
)
django.setup()

from django.urls import path  # noqa: E402

from tiderace import metrics  # noqa: E402
from tiderace.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from tiderace.routing import ProtocolTypeRouter, URLRouter  # noqa: E402


class Room(AsyncWebsocketConsumer):
    """Forward the numbers and the gaps of a room to the client."""

    async def connect(self):
        self.room = self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept()
        await self.send(text_data=f"joined {self.channel_name}")

    async def disconnect(self, code):
        await self.channel_layer.group_discard(self.room, self.channel_name)

    async def drill_number(self, event):
        await self.send(text_data=str(event["number"]))

    async def layer_gap(self, event):
        await self.send(text_data=f"gap {event['missed']}")


async def counted(scope, receive, send):
    """Respond with all measurements of this process."""
    values = {each.name: each.value for each in metrics.measurements()}
    body = json.dumps(values).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


application = ProtocolTypeRouter(
    {"http": counted, "websocket": URLRouter([path("<room>/", Room.as_asgi())])}
)
