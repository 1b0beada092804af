"""The ASGI application that serves topics, to be mounted under any path.

    URLRouter([path("connection/", TopicsEndpoint.as_asgi()), ...])

It knows which transport a request asks for, and what an application may add.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable

from tiderace import conf, metrics
from tiderace.asgi import ASGIApp, Receive, Scope, Send, describe, log_fields
from tiderace.exceptions import LayerUnavailable
from tiderace.routing import NoRoute
from tiderace.runtime import threads
from tiderace.security.origins import header
from tiderace.security.page_origins import objection
from tiderace.security.websocket import (
    AllowedHostsOriginValidator,
    OriginValidator,
    WebsocketDenier,
)
from tiderace.topics import http_api
from tiderace.topics.client.client import serve_client
from tiderace.topics.hooks import TopicHooks
from tiderace.topics.hub import current
from tiderace.topics.switchboard import switchboard
from tiderace.topics.transports import emulation, event_feed, http_stream, sse
from tiderace.topics.transports.http_exchange import ClientGone, HttpExchange, Rejected
from tiderace.topics.transports.websocket import WebSocketTransport

__all__ = ["TopicsEndpoint"]

logger = logging.getLogger("tiderace.topics")


class TopicsEndpoint(TopicHooks):
    """Serves the clients of all declared topics; subclass it for calls and hooks.

    Mounted with ``path("connection/", TopicsEndpoint.as_asgi())`` inside
    ``AuthMiddlewareStack`` and an origin check, for WebSockets and for HTTP. Clients
    then find ``connection/websocket``, ``connection/http_stream``, ``connection/sse``
    and ``connection/emulation``; pages without a client, ``connection/events``; other
    programs, with a key, ``connection/api/``.
    """

    allowed_origins: Iterable[str] | None = None
    """Which pages may use it, as ``OriginValidator`` takes them; None for those of the
    same origin, whose host has to be in ``ALLOWED_HOSTS``. It lets nobody in whom a
    validator outside refuses, such as that of ``get_application()``."""
    allow_missing_origin = False
    """Whether clients without an Origin header, which no browser is, may use it over HTTP.
    What ``get_application()`` was told comes before this."""

    @classmethod
    def as_asgi(cls) -> ASGIApp:
        """The ASGI application."""
        endpoint = cls()

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await endpoint(scope, receive, send)

        # A path() before it is a prefix, as before a router.
        application._path_routing = True  # type: ignore[attr-defined]  # noqa: SLF001
        application.endpoint_class = cls  # type: ignore[attr-defined]
        return application

    @classmethod
    def serves_http(cls, path: str) -> bool:
        """Whether there is something for HTTP under ``path``, which follows the mount."""
        door, _, rest = path.strip("/").partition("/")
        if door == _API:
            return rest in http_api.METHODS or not rest
        return door in _DOORS and not rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection by the last part of its path.

        Raises:
            NoRoute: for HTTP when a router is outside and nothing is served there.
        """
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
            return
        if self._refuses(scope):
            await WebsocketDenier()(scope, receive, send)
            return
        transport = WebSocketTransport(scope, receive, send)
        if not await transport.accept():
            return
        settings = conf.current().topics
        if settings.api_keys or settings.api_open:
            # So that this process answers when the API of another one asks around.
            try:
                await switchboard(current()).open()
            except LayerUnavailable as error:
                logger.warning("this process does not hear the others: %s", error)
        await serve_client(self, scope, transport)

    def _refuses(self, scope: Scope) -> bool:
        """Whether a page may not open this WebSocket; then the log says why.

        A client without an Origin header, which no browser is, is the business of a
        validator outside alone.
        """
        if header(scope, b"origin") is None:
            return False
        against = objection(scope, self._origins(scope), self.allowed_origins)
        if against is None:
            return False
        metrics.ORIGINS_REFUSED.add()
        logger.warning(
            "refused %s: %s; %s",
            describe(scope),
            against.reason,
            against.advice,
            extra=log_fields(scope, "origin_refused", origin=header(scope, b"origin")),
        )
        return True

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        door, rest = self._door(scope)
        exchange = HttpExchange(
            scope, receive, send, self._origins(scope), self.allowed_origins
        )
        try:
            async with threads.isolated():
                if door == _API:
                    await http_api.serve(self, exchange, rest)
                    return
                if door not in _DOORS:
                    raise Rejected(404, "Not Found")
                exchange.check_origin()
                if exchange.method == "OPTIONS":
                    await exchange.answer_preflight()
                else:
                    await _DOORS[door](self, exchange)
        except Rejected as rejected:
            await exchange.answer(
                rejected.status, str(rejected).encode(), headers=rejected.headers
            )
        except LayerUnavailable as error:
            logger.warning("a request fails: %s (%s)", error, describe(scope))
            await exchange.answer(503, b"the broker could not be reached, come back")
        except (ClientGone, OSError):
            return

    def _door(self, scope: Scope) -> tuple[str, str]:
        """Which door a request is for, and what follows it.

        Raises:
            NoRoute: when there is none, and a router is outside.
        """
        path = scope.get("path_remaining")
        if path is not None:
            if not self.serves_http(path):
                raise NoRoute(f"no topic client is served under {path!r} by HTTP")
            door, _, rest = path.strip("/").partition("/")
            return door, rest
        above, _, last = scope["path"].strip("/").rpartition("/")
        if above.rpartition("/")[2] == _API and last in http_api.METHODS:
            return _API, last
        return last, ""

    def _origins(self, scope: Scope) -> OriginValidator:
        outer: OriginValidator | None = scope.get("tiderace.origins")
        if outer is not None:
            return outer
        missing = self.allow_missing_origin
        if self.allowed_origins is None:
            return AllowedHostsOriginValidator(_nobody, allow_missing=missing)
        validator = OriginValidator(
            _nobody, self.allowed_origins, allow_missing=missing
        )
        validator.setting = f"{type(self).__qualname__}.allowed_origins"
        return validator


async def _nobody(scope: Scope, receive: Receive, send: Send) -> None:
    """Stands where a validator wants an application; only its rule is asked here."""


_API = "api"

_DOORS: dict[str, Callable[[TopicsEndpoint, HttpExchange], Awaitable[None]]] = {
    "http_stream": http_stream.serve,
    "sse": sse.serve,
    "emulation": emulation.serve,
    "events": event_feed.serve,
}
