"""The site behind the tests of topics' transports on real servers.

``TRANSPORTS_SITE`` is JSON: ``redis`` a server's address, ``tiderace`` the setting.
Without the first every process is alone.
"""

from __future__ import annotations

import json
import os

import django
from django.conf import settings

OPTIONS = json.loads(os.environ.get("TRANSPORTS_SITE", "{}"))

if redis := OPTIONS.get("redis"):
    LAYER = {
        "BACKEND": "tiderace.layers.redis.RedisChannelLayer",
        "CONFIG": {"hosts": [redis], "prefix": "transports"},
    }
else:
    LAYER = {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}

settings.configure(
    SECRET_KEY="tests only",
    ALLOWED_HOSTS=["127.0.0.1"],
    USE_TZ=True,
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "tiderace",
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    ROOT_URLCONF="sites.transports_site",
    CHANNEL_LAYERS={"default": LAYER},
    TIDERACE=OPTIONS.get("tiderace", {}),
)
django.setup()

from django.http import HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402

from tiderace.routing import get_application  # noqa: E402
from tiderace.topics import (  # noqa: E402
    AllowAny,
    History,
    Presence,
    Topic,
    TopicsEndpoint,
    rpc,
)
from tiderace.topics.hub import current  # noqa: E402


class Room(Topic):
    pattern = "room:<slug:name>"
    history = History(size=50, ttl=60)
    presence = Presence.PER_CONNECTION
    push_joins = True
    permission_classes = [AllowAny]

    async def can_publish(self, user):
        return True


class Endpoint(TopicsEndpoint):
    """Adds numbers."""

    @rpc
    async def add(self, a: int, b: int):
        return a + b

    @rpc
    async def much_changes(self, topic: str):
        """Have presence say what it says when it does not tell of each."""
        await (
            current()
            .trackers.get("default")
            ._announcer._announce(topic, "changed", None)
        )


def page(request):
    return HttpResponse("a page of Django's")


urlpatterns = [path("", page), path("connection/page", page)]

application = get_application(
    [path("connection/", Endpoint.as_asgi())], allow_missing_origin=True
)
