"""The site of the drills: consumers written for Channels, topics, and measurements.

``DRILL_SITE`` is JSON: ``stack`` (tiderace or channels), ``hosts`` and ``layer`` of the
channel layer, ``tiderace`` (settings), ``settings`` (of Django, in the place of those
below) and ``folder`` (for files).
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
from pathlib import Path

SPEC = json.loads(os.environ["DRILL_SITE"])
STACK = SPEC["stack"]
FOLDER = Path(SPEC["folder"])

if STACK == "tiderace":
    import tiderace

    tiderace.install_as_channels()

import django  # noqa: E402
from django.conf import settings  # noqa: E402

defaults = {
    "SECRET_KEY": "a key for drills alone, long enough for every check",
    "ALLOWED_HOSTS": ["*"],
    "ROOT_URLCONF": "benchmarks.drills.site_urls",
    "INSTALLED_APPS": [
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "channels",
    ],
    "SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies",
    "DATABASES": {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(FOLDER / "site.sqlite3"),
            "ATOMIC_REQUESTS": True,
            "OPTIONS": {"timeout": 20},
        }
    },
    "CHANNEL_LAYERS": {
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": SPEC["hosts"], "capacity": 10_000, **SPEC["layer"]},
        }
    },
    "TIDERACE": {
        "DRAIN_SECONDS": 5,
        "RUN_DIR": str(FOLDER),
        **SPEC["tiderace"],
        "TOPICS": {"USERS": "claims", **SPEC["tiderace"].get("TOPICS", {})},
    },
}
settings.configure(**{**defaults, **SPEC["settings"]})
django.setup()

from channels.generic.websocket import (  # noqa: E402
    AsyncWebsocketConsumer,
    WebsocketConsumer,
)
from channels.layers import get_channel_layer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.urls import path  # noqa: E402

COUNTS = {"connects": 0, "disconnects": 0}


class Counted(AsyncWebsocketConsumer):
    """Joins the group of its path, and counts its connections."""

    async def connect(self):
        COUNTS["connects"] += 1
        self.group = self.scope["url_route"]["kwargs"]["name"]
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()
        await self.send(text_data=json.dumps({"joined": self.channel_name}))

    async def disconnect(self, code):
        COUNTS["disconnects"] += 1
        await self.channel_layer.group_discard(self.group, self.channel_name)


class Member(Counted):
    """Sends the messages of its group, and reports of losses, to its client."""

    async def drill_number(self, event):
        await self.send(text_data=event["text"])

    async def layer_gap(self, event):
        await self.send(text_data='{"gap": true}')

    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data=text_data)


class Raises(Counted):
    """Raises an error in the handler that the path names."""

    async def connect(self):
        await super().connect()
        self.fail("connect")

    async def receive(self, text_data=None, bytes_data=None):
        self.fail("receive")

    async def drill_number(self, event):
        self.fail("event")

    async def disconnect(self, code):
        await super().disconnect(code)
        self.fail("disconnect")

    def fail(self, where):
        if self.scope["url_route"]["kwargs"]["where"] == where:
            raise RuntimeError(f"the drill: {where}")


class Hangs(Counted):
    """Never returns from the handler that the path names."""

    async def receive(self, text_data=None, bytes_data=None):
        where = self.scope["url_route"]["kwargs"]["where"]
        if where == "swallow":
            for _ in range(3):
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    continue
        elif where == "receive":
            await asyncio.sleep(3600)

    async def disconnect(self, code):
        if self.scope["url_route"]["kwargs"]["where"] == "disconnect":
            COUNTS["disconnects"] += 1
            await asyncio.sleep(3600)
        await super().disconnect(code)


class Exits(Counted):
    """Ends the process, or cancels itself, when a message arrives."""

    async def receive(self, text_data=None, bytes_data=None):
        if text_data == "exit":
            raise SystemExit("the drill: exit")
        if text_data == "cancelled":
            raise asyncio.CancelledError
        raise KeyboardInterrupt


class SyncExits(WebsocketConsumer):
    """The same in a thread."""

    def receive(self, text_data=None, bytes_data=None):
        raise SystemExit("the drill: exit in a thread")


class Leaks(Counted):
    """Starts tasks for each message; they are cancelled with the connection."""

    async def receive(self, text_data=None, bytes_data=None):
        for _ in range(3):
            self.spawn(asyncio.sleep(3600))


routes = [
    path("group/<slug:name>/", Member.as_asgi()),
    path("raises/<slug:where>/<slug:name>/", Raises.as_asgi()),
    path("hangs/<slug:where>/<slug:name>/", Hangs.as_asgi()),
    path("exits/<slug:name>/", Exits.as_asgi()),
    path("syncexits/", SyncExits.as_asgi()),
    path("leaks/<slug:name>/", Leaks.as_asgi()),
]

if STACK == "tiderace":
    from benchmarks.drills import topics
    from tiderace.routing import get_application
    from tiderace.topics import TopicsEndpoint

    routes.append(path("connection/", TopicsEndpoint.as_asgi()))
    site = get_application(routes, health=True, allow_missing_origin=True)
else:
    site = ProtocolTypeRouter(
        {"http": get_asgi_application(), "websocket": URLRouter(routes)}
    )


async def members(group):
    """Return the number of members of a group in all processes."""
    layer = get_channel_layer()
    if STACK == "tiderace":
        return await layer.group_count(group)
    connection = layer.connection(layer.consistent_hash(group))
    return await connection.zcard(layer._group_key(group))


PROCESS = Path("/proc/self")


async def measurements():
    """Return what this process holds."""
    gc.collect()
    pages = int((PROCESS / "statm").read_text().split()[1])
    values = {
        **COUNTS,
        "resident": pages * os.sysconf("SC_PAGE_SIZE"),
        "descriptors": len(list((PROCESS / "fd").iterdir())),
        "tasks": len(asyncio.all_tasks()),
    }
    if STACK == "tiderace":
        from tiderace import metrics

        values |= {each.name: each.value for each in metrics.measurements()}
    return values


async def application(scope, receive, send):
    """Serve the site, and ``/drill/...`` with values of this process as JSON."""
    if scope["type"] != "http" or not scope["path"].startswith("/drill/"):
        await site(scope, receive, send)
        return
    _, _, what, *names = scope["path"].split("/")
    values = {"measurements": measurements, "members": members}
    if STACK == "tiderace":
        values |= {"presence": topics.present, "history": topics.history}
    body = json.dumps(await values[what](*names)).encode()
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
