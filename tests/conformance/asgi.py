"""The conformance server's application, without an origin check: the suites send none."""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "conformance.settings")

import django

django.setup()

# ruff: noqa: E402 (apps first, as in every asgi.py that imports what needs them)
from django.urls import path

from tiderace.routing import ProtocolTypeRouter, URLRouter
from tiderace.topics import TopicsEndpoint

__all__ = ["application"]

urlpatterns: list[object] = []
endpoint = TopicsEndpoint.as_asgi()
routes = URLRouter([path("connection/", endpoint), path("", endpoint)])
application = ProtocolTypeRouter({"http": routes, "websocket": routes})
