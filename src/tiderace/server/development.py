"""Runs one ASGI application on uvicorn: for ``runserver``, live tests and the demo.

Without uvicorn the import fails, with a message that names the extra.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

try:
    import uvicorn
except ImportError as error:
    raise ImportError(
        "Tiderace's server needs uvicorn, which is not installed; "
        'install it with: pip install "tiderace[server]"'
    ) from error

from tiderace.server.http import HttpProtocol
from tiderace.server.protocol import WebSocketProtocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiderace.asgi import ASGIApp

_BACKLOG = 2048


class StartupFailed(RuntimeError):
    """The application's lifespan startup failed; uvicorn has logged why."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Options of the server; the defaults suit development and tests."""

    graceful_timeout: int = 2
    """Seconds in which open connections have to end after ``stop()``; then they are cut."""

    ping_interval: float | None = 20.0
    """Seconds between keep-alive pings on a WebSocket; None for none."""

    ping_timeout: float | None = 20.0
    """Seconds within which a ping must be answered."""

    max_message_size: int = 16 * 1024 * 1024
    """Bytes of the largest WebSocket message taken; larger ones close with 1009."""

    certificate: str | None = None
    """The file with the TLS certificate, and the key unless ``key`` names it."""

    key: str | None = None
    """The file with the key of the certificate."""


def bind(host: str, port: int, *, ipv6: bool = False) -> socket.socket:
    """Open a listening socket; port 0 lets the system choose a free one.

    A name with several addresses (``localhost``) is bound at its first IPv4 address,
    or at its first IPv6 address with ``ipv6``; connections queue from now on.

    Raises:
        OSError: when the address is taken, not allowed, or not of this machine.
    """
    ipv6 = ipv6 or ":" in host
    return socket.create_server(
        (host, port),
        family=socket.AF_INET6 if ipv6 else socket.AF_INET,
        backlog=_BACKLOG,
        # "::" takes connections over IPv4, too, as Django's own server does.
        dualstack_ipv6=ipv6 and socket.has_dualstack_ipv6(),
    )


class DevelopmentServer:
    """A uvicorn server on a socket that is open as soon as the object is made.

    ``run(application)`` serves in the calling thread until ``stop()`` is called from
    any thread, or, in the main thread, until SIGINT or SIGTERM. It ends gracefully:
    WebSockets are closed with 1012 (service restart), consumers get the disconnect
    event, the lifespan shutdown runs, all in little more than
    ``options.graceful_timeout`` seconds.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8000,
        *,
        ipv6: bool = False,
        options: ServerOptions | None = None,
    ) -> None:
        self.options = options or ServerOptions()
        self._socket = bind(host, port, ipv6=ipv6)
        self.port: int = self._socket.getsockname()[1]
        self._server: uvicorn.Server | None = None
        self._stopping = False
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def run(
        self, application: ASGIApp, *, on_ready: Callable[[], None] | None = None
    ) -> None:
        """Serve until stopped; call ``on_ready`` once the lifespan startup is done.

        Raises:
            StartupFailed: when the application's lifespan startup failed.
            KeyboardInterrupt: after a graceful end, when SIGINT was its reason.
        """
        factory = self._config(application).get_loop_factory()
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(self.serve(application, on_ready=on_ready))

    async def serve(
        self, application: ASGIApp, *, on_ready: Callable[[], None] | None = None
    ) -> None:
        """Serve as ``run``, in the running event loop."""
        with self._lock:
            if not self._stopping:
                self._server = _Server(self._config(application), on_ready)
        try:
            if self._server is not None:
                await self._server.serve(sockets=[self._socket])
        except SystemExit:
            raise StartupFailed(
                "the application's lifespan startup failed, so the server did not "
                "start; the reason is in the log above"
            ) from None
        finally:
            self.close()

    def stop(self) -> None:
        """Ask the server to end gracefully; return at once, from any thread."""
        with self._lock:
            self._stopping = True
            if self._server is not None:
                self._server.should_exit = True

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until ``run`` has ended, at most ``timeout`` seconds; return whether it has."""
        return self._ended.wait(timeout)

    def close(self) -> None:
        """Close the listening socket."""
        self._socket.close()
        self._ended.set()

    def _config(self, application: ASGIApp) -> uvicorn.Config:
        return uvicorn.Config(
            application,
            http=HttpProtocol,
            ws=WebSocketProtocol,
            # WebSocketProtocol does not compress, and would log that it was asked to.
            ws_per_message_deflate=False,
            ws_ping_interval=self.options.ping_interval,
            ws_ping_timeout=self.options.ping_timeout,
            ws_max_size=self.options.max_message_size,
            ssl_certfile=self.options.certificate,
            ssl_keyfile=self.options.key,
            timeout_graceful_shutdown=self.options.graceful_timeout,
            # Logging is the project's; uvicorn's loggers propagate to it.
            log_config=None,
            access_log=False,
        )


class _Server(uvicorn.Server):
    """uvicorn's server, with a callback for when it is ready."""

    def __init__(
        self, config: uvicorn.Config, on_ready: Callable[[], None] | None
    ) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self._on_ready is not None:
            self._on_ready()
