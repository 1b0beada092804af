"""Modules that the start of a process loads."""

from __future__ import annotations

import subprocess
import sys

SITE = """
import sys
import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "tiderace"],
    CHANNEL_LAYERS={"default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}},
)
django.setup()
import tiderace.generic.websocket, tiderace.routing, tiderace.server.protocol, tiderace.topics
print(*sys.modules)
"""


def test_a_site_with_the_in_memory_layer_loads_no_other_layer():
    run = subprocess.run(
        [sys.executable, "-c", SITE], capture_output=True, text=True, check=True
    )

    loaded = run.stdout.split()
    others = ("pubsub", "redis", "database")
    assert [
        name
        for name in loaded
        if name.startswith(tuple(f"tiderace.layers.{each}" for each in others))
    ] == []
