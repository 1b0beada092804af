"""The site of processes that open and close topics over one layer.

``OCCUPANCY_SITE`` is JSON: ``layer``, the CONFIG of the layer, with ``hosts``, ``path``, or
``dsn`` for a database of Django's; and ``log``, a file to which the hooks write.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import django
from django.conf import settings

OPTIONS = json.loads(os.environ["OCCUPANCY_SITE"])
LAYER = OPTIONS["layer"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
if (database := LAYER.pop("dsn", None)) is not None:
    DATABASES["layer"], LAYER["using"] = database, "layer"
BACKEND = (
    "redis.RedisChannelLayer" if "hosts" in LAYER else "database.DatabaseChannelLayer"
)

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
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    DATABASES=DATABASES,
    CHANNEL_LAYERS={
        "default": {"BACKEND": f"tiderace.layers.{BACKEND}", "CONFIG": LAYER}
    },
    # A process that is killed is noticed within seconds.
    TIDERACE={"PRESENCE_TTL": 4, "PRESENCE_REFRESH": 1, "PRESENCE_LEASE": 2},
)
django.setup()

from django.urls import path  # noqa: E402

from tiderace.routing import get_application  # noqa: E402
from tiderace.topics import AllowAny, Topic, TopicsEndpoint  # noqa: E402


class Poll(Topic):
    pattern = "poll:<slug:name>"
    permission_classes = [AllowAny]
    closing_grace = 0

    def topic_opened(self):
        self._write("opened")

    def topic_closed(self):
        self._write("closed")

    def _write(self, change):
        with Path(OPTIONS["log"]).open("a") as log:
            log.write(f"{change} {self.topic} {os.getpid()}\n")


application = get_application(
    [path("connection/", TopicsEndpoint.as_asgi())], allow_missing_origin=True
)
