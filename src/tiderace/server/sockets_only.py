"""Serves the sockets and topics of a project whose pages another server serves."""

from __future__ import annotations

import logging
from typing import Any

import django
from django.conf import settings

from tiderace import metrics
from tiderace.asgi import (
    ASGIApp,
    Receive,
    Scope,
    Send,
    client_address,
    log_fields,
    path_below_prefix,
    printable,
    refuse,
)
from tiderace.health import Health
from tiderace.route_inspection import serves_http
from tiderace.routing import get_default_application

__all__ = ["SocketsOnly", "default_application"]

logger = logging.getLogger("tiderace.routing")

# Characters of a client's path that a log line shows.
_SHOWN_PATH = 200


class SocketsOnly:
    """Serves WebSockets, topics, HTTP consumers and probes; answers the rest with 404.

    Args:
        application: the project's ASGI application.
        prefix: of the paths that are served, without a slash at the end: the
            application gets them without it.
    """

    def __init__(self, application: ASGIApp, prefix: str = "") -> None:
        self.application = application
        self._prefix = prefix
        self._probes = Health(application)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Serve the connection, and return what the application returns."""
        if scope["type"] not in ("http", "websocket"):
            return await self.application(scope, receive, send)
        path = path_below_prefix(scope) or ""
        is_http = scope["type"] == "http"
        if is_http and self._probes.serves_http(path):
            return await self._probes(scope, receive, send)
        inside = path.startswith(f"{self._prefix}/")
        path = path.removeprefix(self._prefix)
        if not inside or (is_http and not serves_http(self.application, path)):
            return await self._refuse(scope, receive, send)
        if self._prefix:
            # Change the server's own scope, not a copy: a router removes secrets from it.
            scope["path"] = path
        return await self.application(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        metrics.ROUTES_NOT_FOUND.add()
        if settings.DEBUG:
            logger.warning(
                "%s path %r from %s is answered with 404: tiderace_serve serves "
                "WebSockets and topics%s; the site's own server has the pages",
                scope["type"],
                printable(scope["path"])[:_SHOWN_PATH],
                client_address(scope),
                f" below {self._prefix}/" if self._prefix else " alone",
                extra=log_fields(scope, "no_route"),
            )
        await refuse(scope, receive, send, 404, "Not Found: no page is served here.")


def default_application(prefix: str = "") -> SocketsOnly:
    """Return the sockets and topics of ``ASGI_APPLICATION``, in a new process.

    Raises:
        ImproperlyConfigured: the setting, the module or the name does not exist.
    """
    django.setup(set_prefix=False)
    return SocketsOnly(get_default_application(), prefix)
