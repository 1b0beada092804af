"""The ASGI application that serves topics, to be mounted under any path.

    URLRouter([path("connection/", TopicsEndpoint.as_asgi()), ...])

It knows which transport a request asks for, and what an application may add.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tiderace import __version__, conf
from tiderace.asgi import ASGIApp, Receive, Scope, Send
from tiderace.protocol import codes
from tiderace.protocol.session import Refused
from tiderace.ratelimit import Rate, TokenBucket
from tiderace.topics.conductor import Conductor, Transport
from tiderace.topics.process import Process, current
from tiderace.topics.websocket import WebSocketTransport

__all__ = ["TopicsEndpoint"]


class TopicsEndpoint:
    """Serves the clients of all declared topics; subclass it for calls and hooks.

    Mounted with ``path("connection/", TopicsEndpoint.as_asgi())`` inside
    ``AuthMiddlewareStack`` and an origin check. WebSockets are served at
    ``connection/websocket``.
    """

    version = f"tiderace {__version__}"
    """What clients are told that they are connected to."""

    def __init__(self) -> None:
        self._admission: dict[int, TokenBucket] = {}

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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection by the last part of its path."""
        transport = WebSocketTransport(scope, receive, send)
        if await transport.accept():
            await self.serve(scope, transport)

    async def serve(self, scope: Scope, transport: Transport) -> None:
        """Serve a client over ``transport`` until it ends."""
        await Conductor(self, scope, transport).run()

    # What an application may add

    async def on_connect(self, user: Any, data: Any) -> Any:
        """A client has said who it is; what is returned it is told with the answer.

        Args:
            user: who.
            data: what the client sent with it, as plain Python; None for nothing.

        Raises:
            Refuse: to refuse the connection with an error.
        """
        return None

    async def on_message(self, user: Any, data: Any) -> None:
        """A client has sent something that needs no answer."""

    def method(self, name: str) -> Callable[..., Any] | None:
        """The method marked with ``@rpc`` that clients may call under ``name``."""
        method = None if name.startswith("_") else getattr(self, name, None)
        return method if getattr(method, "_tiderace_rpc", False) else None

    # For connections

    @property
    def process(self) -> Process:
        """What the topic clients of this event loop share."""
        return current()

    async def admit(self) -> None:
        """Let one more client in.

        Raises:
            Refused: when too many come at once, so that it tries again later.
        """
        rate = conf.current().topics.connects
        if rate is None:
            return
        key = hash(rate)
        bucket = self._admission.get(key)
        if bucket is None:
            bucket = self._admission[key] = TokenBucket(Rate.parse(rate))
        if bucket.take():
            raise Refused(codes.TOO_MANY_REQUESTS)
