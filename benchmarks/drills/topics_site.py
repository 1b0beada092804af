"""The site of the deploy drill: topics with a history, and health checks.

``DRILL_CONFIG`` is the layer's CONFIG as JSON, ``DRILL_DRAIN`` the window in seconds.
"""

from __future__ import annotations

import json
import os

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="drills only",
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "tiderace",
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "tiderace.layers.redis.RedisChannelLayer",
            "CONFIG": json.loads(os.environ["DRILL_CONFIG"]),
        }
    },
    TIDERACE={"DRAIN_SECONDS": float(os.environ.get("DRILL_DRAIN", "20"))},
)
django.setup()

from django.urls import path  # noqa: E402

from tiderace.health import Health  # noqa: E402
from tiderace.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from tiderace.topics import AllowAny, History, Topic, TopicsEndpoint  # noqa: E402


class Room(Topic):
    """Numbers, with a history of a minute."""

    pattern = "room:<int:number>"
    history = History(size=1000, ttl=60)
    permission_classes = [AllowAny]


async def nothing(scope, receive, send):
    """Respond with 404."""
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b""})


application = ProtocolTypeRouter(
    {
        "http": Health(nothing),
        "websocket": URLRouter([path("connection/", TopicsEndpoint.as_asgi())]),
    }
)
