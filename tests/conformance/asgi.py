"""The conformance server's application: open to every origin, and to those without one.

Its HTTP API reads a body whatever it is called, since not every suite says what it sends.
"""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "conformance.settings")

import django

django.setup()

# ruff: noqa: E402 (apps first, as in every asgi.py that imports what needs them)
from django.urls import path

from tiderace.asgi import ASGIApp, Receive, Scope, Send
from tiderace.routing import ProtocolTypeRouter, URLRouter
from tiderace.topics import Refuse, TopicsEndpoint, rpc

__all__ = ["Endpoint", "application"]

JSON = (b"content-type", b"application/json")


class Endpoint(TopicsEndpoint):
    """Lets everybody in, and answers two calls."""

    allowed_origins = ["*"]
    allow_missing_origin = True

    async def on_api_call(self, method, params):
        return params

    @rpc
    async def echo(self, value=None):
        return value

    @rpc
    async def fail(self):
        raise Refuse("as asked", code=1000)


def reading_anything(application: ASGIApp) -> ASGIApp:
    """Take every request to the API for JSON."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith("/api"):
            others = [each for each in scope["headers"] if each[0] != JSON[0]]
            scope = {**scope, "headers": [*others, JSON]}
        await application(scope, receive, send)

    return wrapped


urlpatterns: list[object] = []
endpoint = Endpoint.as_asgi()
routes = URLRouter([path("connection/", endpoint), path("", endpoint)])
application = ProtocolTypeRouter(
    {"http": reading_anything(routes), "websocket": routes}
)
