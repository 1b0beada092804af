"""The site of Channels and of Tiderace: consumers written for Channels.

They run unchanged on Channels, and on Tiderace after ``install_as_channels()``. Only
``OnceConsumer`` uses a feature that Channels does not have.
"""

from __future__ import annotations

import json
import os
import time

if os.environ["CONTENDER"] == "tiderace":
    import tiderace

    tiderace.install_as_channels()

import django
from django.conf import settings

LAYERS = {
    "memory": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
    "core": {"BACKEND": "channels_redis.core.RedisChannelLayer"},
    "pubsub": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer"},
}
layer_settings = LAYERS[os.environ.get("LAYER", "memory")]
if "REDIS_URL" in os.environ:
    layer_settings["CONFIG"] = {"hosts": [os.environ["REDIS_URL"]]}

settings.configure(
    SECRET_KEY="benchmark only",
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={"default": layer_settings},
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[],
)
django.setup()

from asgiref.sync import async_to_sync  # noqa: E402
from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.layers import get_channel_layer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.http import JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402


class FanConsumer(AsyncWebsocketConsumer):
    """Send each message to one group, which all sockets have joined."""

    async def connect(self):
        await self.channel_layer.group_add("fan", self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        await self.channel_layer.group_discard("fan", self.channel_name)

    async def receive(self, text_data=None, bytes_data=None):
        content = json.loads(text_data)
        await self.channel_layer.group_send("fan", {"type": "fan.message", **content})

    async def fan_message(self, event):
        await self.send(
            text_data=json.dumps({"number": event["number"], "text": event["text"]})
        )


class OnceConsumer(FanConsumer):
    """The same with ``group_broadcast``: encoded once, without a handler per member."""

    accepts_broadcasts = True

    async def receive(self, text_data=None, bytes_data=None):
        content = json.loads(text_data)
        text = json.dumps({"number": content["number"], "text": content["text"]})
        await self.channel_layer.group_broadcast("fan", text_data=text)


class RoomConsumer(FanConsumer):
    """Send each message to a group of its own."""

    async def connect(self):
        self.group = self.channel_name.replace("!", ".")
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def receive(self, text_data=None, bytes_data=None):
        content = json.loads(text_data)
        message = {"type": "fan.message", **content}
        await self.channel_layer.group_send(self.group, message)


class EchoConsumer(AsyncWebsocketConsumer):
    """Send each message back to its sender."""

    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data=text_data)


def publish(how: str, count: int) -> list[float]:
    """Send ``count`` messages from sync code; return the microseconds of each call."""
    layer = get_channel_layer()
    send = async_to_sync(layer.group_send) if how == "async" else layer.sync.group_send
    times = []
    for number in range(count):
        started = time.perf_counter()
        send("fan", {"type": "fan.message", "number": number, "text": "x" * 120})
        times.append((time.perf_counter() - started) * 1e6)
    return times


def publish_view(request, how, count):
    """Publish from a sync view."""
    return JsonResponse({"times": publish(how, count)})


urlpatterns = [path("publish/<str:how>/<int:count>/", publish_view)]

application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter(
            [
                path("fan/", FanConsumer.as_asgi()),
                path("once/", OnceConsumer.as_asgi()),
                path("echo/", EchoConsumer.as_asgi()),
                path("room/", RoomConsumer.as_asgi()),
            ]
        ),
    }
)

if __name__ == "__main__":
    # A command without an event loop, as in Celery's workers. Arguments: how, count.
    import sys

    print(json.dumps({"times": publish(sys.argv[1], int(sys.argv[2]))}))
