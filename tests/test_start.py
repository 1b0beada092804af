"""Modules that the start of a process loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
import tiderace.management.commands.runserver
print(*sys.modules)
"""


@pytest.fixture(scope="module")
def loaded():
    """The modules that a site of consumers and topics loads, and with its runserver."""
    run = subprocess.run(
        [sys.executable, "-c", SITE], capture_output=True, text=True, check=True
    )
    return [line.split() for line in run.stdout.splitlines()]


def test_a_site_with_the_in_memory_layer_loads_no_other_layer(loaded):
    others = ("pubsub", "redis", "database")
    assert [
        name
        for name in loaded[0]
        if name.startswith(tuple(f"tiderace.layers.{each}" for each in others))
    ] == []


@pytest.mark.parametrize(
    "package", ["cryptography", "jwt", "opentelemetry", "prometheus_client", "google"]
)
def test_an_optional_package_is_loaded_when_it_is_used_first(loaded, package):
    assert package not in loaded[1]
