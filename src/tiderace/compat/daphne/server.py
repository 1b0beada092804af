"""Stand-in for ``daphne.server``: a server run from Python, on uvicorn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tiderace.asgi import ASGIApp
from tiderace.compat.daphne.endpoints import read_tcp_endpoint
from tiderace.server.development import DevelopmentServer, ServerOptions

__all__ = ["Server"]


class Server:
    """Serve ``application`` at one TCP endpoint until ``stop()`` or a signal.

    Of daphne's options, ``ping_interval``, ``ping_timeout``,
    ``websocket_max_message_size`` (bytes), ``application_close_timeout`` (seconds)
    and ``ready_callable`` take effect. The others have no counterpart in uvicorn; they
    are accepted and ignored.

    Raises:
        ValueError: when ``endpoints`` is not exactly one TCP endpoint.
    """

    def __init__(
        self,
        application: ASGIApp,
        endpoints: Iterable[str] | None = None,
        *,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 30,
        websocket_max_message_size: int = 1024 * 1024,
        application_close_timeout: int = 10,
        ready_callable: Callable[[], None] | None = None,
        **without_effect: Any,
    ) -> None:
        self.application = application
        self.endpoints = list(endpoints or [])
        if len(self.endpoints) != 1:
            raise ValueError(
                f"this server takes exactly one endpoint, got {self.endpoints!r}"
            )
        self._address = read_tcp_endpoint(self.endpoints[0])
        self._options = ServerOptions(
            graceful_timeout=application_close_timeout,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
            max_message_size=websocket_max_message_size,
        )
        self.ready_callable = ready_callable
        self.listening_addresses: list[tuple[str, int]] = []
        self._server: DevelopmentServer | None = None

    def run(self) -> None:
        """Open the endpoint and serve; return once stopped.

        Raises:
            OSError: when the address cannot be bound.
        """
        host, port = self._address
        self._server = DevelopmentServer(host, port, options=self._options)
        self.listening_addresses = [(host, self._server.port)]
        self._server.run(self.application, on_ready=self.ready_callable)

    def stop(self) -> None:
        """Ask the server to end gracefully; may be called from any thread."""
        if self._server is not None:
            self._server.stop()
