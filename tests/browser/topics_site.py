"""The site of the topic tests: rooms with history, presence and calls.

Its layer is Redis at ``$REDIS_URL``, else memory. Pages are the files of ``$PAGES``, else
an empty page.
"""

from __future__ import annotations

import mimetypes
import os
from pathlib import Path
from typing import Any

import django
from django.conf import settings

if url := os.environ.get("REDIS_URL"):
    LAYER: dict[str, Any] = {
        "BACKEND": "tiderace.layers.redis.RedisChannelLayer",
        "CONFIG": {"hosts": [url]},
    }
else:
    LAYER = {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}

settings.configure(
    SECRET_KEY="of a test, not a secret",
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    USE_TZ=True,
    ROOT_URLCONF="browser.topics_site",
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.staticfiles",
        "tiderace",
    ],
    STATIC_URL="/static/",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
    CHANNEL_LAYERS={"default": LAYER},
    TIDERACE={
        "TOKEN_KEYS": [{"algorithm": "HS256", "key": "secret of the browser tests"}],
        "TOPICS": {"USERS": "claims", "PING": 1.0},
    },
)
django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse  # noqa: E402
from django.template import Context, Template  # noqa: E402
from django.urls import path, re_path  # noqa: E402

from support.paths import STATIC  # noqa: E402
from tiderace.asgi import ASGIApp  # noqa: E402
from tiderace.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from tiderace.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from tiderace.topics import (  # noqa: E402
    AllowAny,
    History,
    Presence,
    Refuse,
    Topic,
    TopicsEndpoint,
    adisconnect,
    ahistory,
    apublish,
    rpc,
)
from tiderace.topics.tokens import connection_token  # noqa: E402

EMPTY = b"<!doctype html><meta charset=utf-8><link rel=icon href=data:,>"


class Room(Topic):
    """A topic to which everybody may subscribe and publish."""

    pattern = "room:<slug:name>"
    history = History(size=100, ttl=300)
    presence = Presence.PER_CONNECTION
    permission_classes = [AllowAny]

    async def can_publish(self, user: Any) -> bool:
        return True

    @rpc
    async def shout(self, text: str) -> str:
        """Return the text in capitals."""
        if not text:
            raise Refuse("nothing to shout", code=422)
        return f"{text.upper()}!"

    @rpc
    async def rename(self, to: str) -> str:
        """Return the name as a title."""
        return to.title()


class Transient(Topic):
    """The same without a history."""

    pattern = "transient:<slug:name>"
    permission_classes = [AllowAny]

    async def can_publish(self, user: Any) -> bool:
        return True


class Closed(Topic):
    """A topic to which no client may subscribe."""

    pattern = "closed:<slug:name>"


class Endpoint(TopicsEndpoint):
    """An endpoint with a method."""

    @rpc
    async def add(self, a: int, b: int) -> int:
        """Return the sum."""
        return a + b


def page(request: HttpRequest, name: str = "") -> HttpResponse:
    """Return a page of the test, or an empty one."""
    file = Path(os.environ.get("PAGES", "/nowhere")) / name
    return HttpResponse(file.read_bytes() if name and file.is_file() else EMPTY)


def page_with_position(request: HttpRequest, topic: str) -> HttpResponse:
    """Return a page with the position of a topic."""
    text = "{% load tiderace %}{% tiderace_script topics='/connection/' %}"
    text += "{% tiderace_positions topic %}"
    return HttpResponse(Template(text).render(Context({"topic": topic})))


def static(request: HttpRequest, name: str) -> FileResponse:
    kind = mimetypes.guess_type(name)[0]
    return FileResponse((STATIC / name).open("rb"), content_type=kind)


async def publish(request: HttpRequest, topic: str, text: str) -> JsonResponse:
    """Publish, and return the position."""
    position = await apublish(topic, {"text": text})
    return JsonResponse({"offset": position.offset, "epoch": position.epoch})


def token(request: HttpRequest, user: int) -> HttpResponse:
    """Return a token that expires after ``ttl`` seconds."""
    ttl = float(request.GET.get("ttl", 60))
    return HttpResponse(connection_token(User(pk=user), ttl=ttl))


def token_of_the_guide(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"token": connection_token(User(pk=1))})


async def state(request: HttpRequest) -> JsonResponse:
    """Return the history of a topic and its position."""
    page = await ahistory(request.GET["topic"])
    position = {"offset": page.position.offset, "epoch": page.position.epoch}
    return JsonResponse({"messages": page.messages, "position": position})


async def kick(request: HttpRequest, user: int) -> HttpResponse:
    await adisconnect(user, reason="out")
    return HttpResponse()


urlpatterns = [
    path("static/<path:name>", static),
    path("publish/<str:topic>/<str:text>", publish),
    path("token/<int:user>", token),
    path("kick/<int:user>", kick),
    path("realtime-token/", token_of_the_guide),
    path("state/", state),
    path("position/<str:topic>", page_with_position),
    path("", page),
    path("<str:name>", page),
]

endpoint = Endpoint.as_asgi()
site: ASGIApp = get_asgi_application()
application = ProtocolTypeRouter(
    {
        "http": URLRouter([path("connection/", endpoint), re_path("", site)]),
        "websocket": AllowedHostsOriginValidator(
            URLRouter([path("connection/", endpoint)])
        ),
    }
)
