"""The site behind the drain tests: consumers that write down how they end.

``DRAIN_SITE`` is JSON: ``tiderace`` the setting, ``journal`` a file.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import django
from django.conf import settings

OPTIONS = json.loads(os.environ["DRAIN_SITE"])
JOURNAL = Path(OPTIONS["journal"])

settings.configure(
    SECRET_KEY="tests only",
    DEBUG=OPTIONS.get("debug", False),
    ALLOWED_HOSTS=["127.0.0.1"],
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "tiderace",
    ],
    ROOT_URLCONF="sites.drain_site",
    ASGI_APPLICATION="sites.drain_site.application",
    CHANNEL_LAYERS={"default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}},
    TIDERACE=OPTIONS.get("tiderace", {}),
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
)
django.setup()

from django.http import HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402

from tiderace.generic.websocket import (  # noqa: E402
    AsyncWebsocketConsumer,
    WebsocketConsumer,
)
from tiderace.health import Health  # noqa: E402
from tiderace.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from tiderace.runtime.lifespan import on_shutdown, on_startup  # noqa: E402
from tiderace.topics import TopicsEndpoint  # noqa: E402


def write(*words: object) -> None:
    """Append one line to the journal; a single short write, so that lines never mix."""
    with JOURNAL.open("a") as file:
        file.write(" ".join(str(word) for word in words) + "\n")


@on_startup
async def started() -> None:
    write("process", os.getpid(), "starting")
    await asyncio.sleep(OPTIONS.get("startup", 0))
    write("process", os.getpid(), "started")


@on_shutdown
async def ended() -> None:
    write("process", os.getpid(), "ended")


class Plain(AsyncWebsocketConsumer):
    """Knows nothing of drains."""

    async def receive(self, text_data=None, bytes_data=None):
        word, _, seconds = text_data.partition(" ")
        await self.send(text_data=f"begun {word}")
        if word == "work":
            await asyncio.sleep(float(seconds))
            write("work", "done")

    async def disconnect(self, code):
        write("plain", "disconnect", code)


class Sync(WebsocketConsumer):
    """The same, in a thread."""

    def disconnect(self, code):
        write("sync", "disconnect", code)


class Polite(AsyncWebsocketConsumer):
    """Says goodbye in its own words."""

    async def server_drain(self, event):
        await self.send(text_data="goodbye")
        if self.scope["path"].endswith("own/"):
            await self.close(code=4100, reason="moving house")


def here(request):
    return HttpResponse(str(os.getpid()))


urlpatterns = [path("", here)]


async def http(scope, receive, send):
    from django.core.asgi import get_asgi_application

    await get_asgi_application()(scope, receive, send)


application = ProtocolTypeRouter(
    {
        "http": Health(http),
        "websocket": URLRouter(
            [
                path("plain/", Plain.as_asgi()),
                path("sync/", Sync.as_asgi()),
                path("polite/", Polite.as_asgi()),
                path("polite/own/", Polite.as_asgi()),
                path("connection/", TopicsEndpoint.as_asgi()),
            ]
        ),
    }
)
