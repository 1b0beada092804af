"""Reports each request and WebSocket of an ASGI application, for an access log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from tiderace.asgi import client_address, printable, redacted_query

if TYPE_CHECKING:
    from tiderace.asgi import ASGIApp, Event, Receive, Scope, Send

ActionLogger: TypeAlias = Callable[[str, str, dict[str, Any]], None]


class AccessLog:
    """Serves ``application``, and calls ``log(protocol, action, details)``.

    Actions: ``http`` has ``complete`` (details: method, path with query, status,
    time_taken in seconds, client); ``websocket`` has ``connecting``, ``connected``,
    ``rejected``, ``disconnected`` (details: path, client; without the query string,
    which may contain a token). A path with characters that are not printable is
    percent-encoded, so that it cannot forge another line; credentials in the query are
    left out.
    """

    def __init__(self, application: ASGIApp, log: ActionLogger) -> None:
        self.application = application
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Serve the connection, and report it."""
        if scope["type"] == "http":
            return await self._http(scope, receive, send)
        if scope["type"] == "websocket":
            return await self._websocket(scope, receive, send)
        return await self.application(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> Any:
        status = 500
        start = time.monotonic()

        async def reporting_send(event: Event) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
            await send(event)

        try:
            return await self.application(scope, receive, reporting_send)
        finally:
            details = {
                "method": scope["method"],
                "path": printable(scope["path"] + redacted_query(scope)),
                "status": status,
                "time_taken": time.monotonic() - start,
                "client": client_address(scope),
            }
            self._log("http", "complete", details)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> Any:
        details = {"path": printable(scope["path"]), "client": client_address(scope)}
        answer = None

        async def reporting_send(event: Event) -> None:
            nonlocal answer
            if answer is None:
                accepts = event["type"] == "websocket.accept"
                answer = "connected" if accepts else "rejected"
                self._log("websocket", answer, details)
            await send(event)

        self._log("websocket", "connecting", details)
        try:
            return await self.application(scope, receive, reporting_send)
        finally:
            if answer == "connected":
                self._log("websocket", "disconnected", details)
            elif answer is None:
                self._log("websocket", "rejected", details)
