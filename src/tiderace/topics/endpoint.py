"""The ASGI application that serves topics, to be mounted under any path.

::

    URLRouter([path("connection/", TopicsEndpoint.as_asgi()), ...])

Each transport has a route below that path.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import cache
from typing import Any

from asgiref.sync import markcoroutinefunction
from django.core.exceptions import SuspiciousOperation
from django.http import QueryDict

from tiderace import metrics
from tiderace.asgi import Receive, Scope, Send, describe, mark_application, refuse
from tiderace.exceptions import LayerUnavailable
from tiderace.routing import NoRoute
from tiderace.runtime import threads
from tiderace.runtime.connections import process_connections
from tiderace.security.origins import (
    Site,
    host_problem,
    log_refusal,
    require_origins,
    site_of,
)
from tiderace.security.page_origins import origin_problem
from tiderace.security.websocket import (
    AllowedHostsOriginValidator,
    OriginValidator,
    WebsocketDenier,
)
from tiderace.topics.hooks import TopicHooks
from tiderace.topics.hub import current
from tiderace.topics.server_api import http_api
from tiderace.topics.transports import emulation, events, http_stream, sse
from tiderace.topics.transports.http_exchange import HttpExchange, Rejected
from tiderace.topics.transports.websocket import WebSocketTransport

logger = logging.getLogger("tiderace.topics")


class TopicsEndpoint(TopicHooks):
    """Serves the clients of all declared topics; subclass it for calls and hooks.

    Mounted with ``path("connection/", TopicsEndpoint.as_asgi())`` inside
    ``AuthMiddlewareStack`` and an origin check, for WebSockets and for HTTP. Clients
    then find ``connection/websocket``, ``connection/http_stream``, ``connection/sse``
    and ``connection/emulation``; pages without a client, ``connection/events``; other
    programs, with a key, ``connection/api/``.
    """

    allowed_origins: Iterable[str | re.Pattern[str]] | None = None
    """Origins of the pages that may use it, in the form of ``OriginValidator``; None for
    the same origin, whose host has to be in ``ALLOWED_HOSTS``. A validator around the
    endpoint, such as that of ``get_application()``, decides first."""
    allow_missing_origin = False
    """Whether clients without an Origin header, which are no browsers, may use it over
    HTTP. The argument of ``get_application()`` overrides it."""

    # Of ``allowed_origins``, made for the first connection.
    _own_validator: OriginValidator | None = None

    @classmethod
    def as_asgi(cls) -> Callable[[Scope, Receive, Send], Coroutine[Any, Any, Any]]:
        """Return the ASGI application.

        (The return type has Coroutine because the type of Django's ``path()`` requires it.)

        Raises:
            ValueError: an entry of ``allowed_origins`` can match no origin.
        """
        process_connections.expected = True
        endpoint = cls()
        require_origins(cls.allowed_origins or ())

        # No coroutine function: its coroutine would be 0.25 KB of each socket.
        @mark_application
        def application(scope: Scope, receive: Receive, send: Send) -> Any:
            return endpoint(scope, receive, send)

        # A path() to it matches a prefix, as one to a router does.
        application._path_routing = True  # type: ignore[attr-defined]  # noqa: SLF001
        application.endpoint_class = cls  # type: ignore[attr-defined]
        return application

    @classmethod
    def serves_http(cls, path: str) -> bool:
        """Return whether ``path``, the rest after the mount, has an HTTP handler."""
        route, _, rest = path.strip("/").partition("/")
        if route == _API:
            return rest in http_api.METHODS or not rest
        return route in _HTTP_HANDLERS and not rest

    # No coroutine function, for the same reason as ``application``.
    @markcoroutinefunction
    def __call__(
        self, scope: Scope, receive: Receive, send: Send
    ) -> Coroutine[Any, Any, Any]:
        """Serve a connection by the last part of its path.

        Raises:
            NoRoute: for HTTP, when the path has no handler and a router has called it.
        """
        site = site_of(scope)
        if (why := _unacceptable(scope, site)) is not None:
            return refuse(scope, receive, send, 400, why)
        if scope["type"] == "http":
            return self._serve_http(scope, receive, send)
        validator = self._validator(scope)
        problem = origin_problem(scope, validator, self.allowed_origins, site)
        if problem is not None:
            metrics.ORIGINS_REFUSED.add()
            log_refusal(logger, scope, problem)
            return WebsocketDenier()(scope, receive, send)
        transport = WebSocketTransport(scope, receive, send)
        return current().serve(self, scope, transport)

    async def _serve_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        route, method = self._route(scope)
        exchange = HttpExchange(
            scope, receive, send, self._validator(scope), self.allowed_origins
        )
        try:
            async with threads.isolated():
                if route == _API:
                    await http_api.serve(self, exchange, method)
                    return
                if route not in _HTTP_HANDLERS:
                    raise Rejected(404, "Not Found")
                exchange.check_origin()
                if exchange.method == "OPTIONS":
                    await exchange.answer_preflight()
                else:
                    await _HTTP_HANDLERS[route](self, exchange)
        except Rejected as rejected:
            await exchange.answer(
                rejected.status, str(rejected).encode(), headers=rejected.headers
            )
        except LayerUnavailable as error:
            logger.warning("a request fails: %s (%s)", error, describe(scope))
            await exchange.answer(503, b"the broker could not be reached, come back")
        except OSError:  # the client is gone
            return

    def _route(self, scope: Scope) -> tuple[str, str]:
        """Return the name of a request's handler, and for the API the method.

        Raises:
            NoRoute: when there is no handler, and a router has called the endpoint.
        """
        path = scope.get("path_remaining")
        if path is not None:
            if not self.serves_http(path):
                raise NoRoute(f"no topic client is served under {path!r} by HTTP")
            route, _, rest = path.strip("/").partition("/")
            return route, rest
        above, _, last = scope["path"].strip("/").rpartition("/")
        if above.rpartition("/")[2] == _API and last in http_api.METHODS:
            return _API, last
        return last, ""

    def _validator(self, scope: Scope) -> OriginValidator:
        """Return the validator of the surrounding middleware, or that of this endpoint."""
        outer: OriginValidator | None = scope.get("tiderace.origins")
        if outer is not None:
            return outer
        origins, missing = self.allowed_origins, self.allow_missing_origin
        if origins is None:
            return _same_origin(missing)
        validator = self._own_validator
        if (
            validator is None
            or validator.allowed_origins is not origins
            or validator.allow_missing != missing
        ):
            validator = OriginValidator(_no_application, origins, allow_missing=missing)
            validator.setting = f"{type(self).__qualname__}.allowed_origins"
            self._own_validator = validator
        return validator


def _unacceptable(scope: Scope, site: Site | None) -> str | None:
    """Return why a request or handshake is answered with 400, or None."""
    problem = host_problem(site)
    if problem is not None:
        log_refusal(logger, scope, problem)
        return problem.reason
    query = scope.get("query_string")
    try:
        if query:
            QueryDict(bytes(query))
    except SuspiciousOperation as error:  # as in Django, for every later reader
        return str(error)
    return None


async def _no_application(scope: Scope, receive: Receive, send: Send) -> None:
    """Do nothing: the application of a validator used for its decision alone."""


@cache
def _same_origin(allow_missing: bool) -> OriginValidator:
    """Return one validator for all connections: it reads ``ALLOWED_HOSTS`` each time."""
    return AllowedHostsOriginValidator(_no_application, allow_missing=allow_missing)


_API = "api"

_HTTP_HANDLERS: dict[str, Callable[[TopicsEndpoint, HttpExchange], Awaitable[None]]] = {
    "http_stream": http_stream.serve,
    "sse": sse.serve,
    "emulation": emulation.serve,
    "events": events.serve,
}
