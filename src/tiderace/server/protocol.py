"""A fast WebSocket protocol class for uvicorn: ``--ws tiderace.server:WebSocketProtocol``.

The opening handshake is here, what follows it in ``connection``.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable
from functools import cache
from typing import Any, ClassVar, cast
from urllib.parse import quote

from django.conf import settings
from uvicorn.config import Config
from uvicorn.protocols.utils import (
    ClientDisconnected,
    get_client_addr,
    is_ssl,
)
from uvicorn.server import ServerState

from tiderace import conf
from tiderace.asgi import Event, redacted_query
from tiderace.runtime.lifespan import on_startup
from tiderace.server.addresses import addresses_of, behind_proxies
from tiderace.server.collector import freeze
from tiderace.server.connection import ServerConnection
from tiderace.server.delays import Delays
from tiderace.server.handshake import (
    MAX_SIZE,
    HandshakeRefused,
    Request,
    accept_response,
    http_response,
    read_request,
)
from tiderace.server.read_queue import ReadQueue
from tiderace.server.writer import ServerFrameWriter, WriteScheduler

logger = logging.getLogger("uvicorn.error")
hint_logger = logging.getLogger("tiderace.server")

on_startup(freeze)

# How much rarer the application's pings may be than the server's, to replace them: those
# of topics come every 25 s, and uvicorn's every 20 s.
_PING_SHARE = 1.25

# The value of an extension without options; all sockets share this dict.
_NO_OPTIONS: dict[str, Any] = {}
_NO_SCOPE: dict[str, Any] = {}

# The states: reading the opening request; waiting for the application; sending its own
# HTTP response, a denial; handshake ended.
_REQUEST, _CONNECTING, _DENYING, _ANSWERED = "request", "connecting", "denying", "over"


class WebSocketProtocol(asyncio.Protocol):
    """One WebSocket connection of a uvicorn server.

    It takes uvicorn's own options (``--ws-max-size``, ``--ws-max-queue``,
    ``--ws-ping-interval``, ``--ws-ping-timeout``), except that it does not compress:
    an offer of permessage-deflate is declined. The scope has a ``ServerFrameWriter`` in
    ``scope["extensions"]["tiderace.frames"]``. With ``"tiderace.max_size"`` there,
    ``websocket.accept`` may have a ``max_size``: the bytes of the largest message that
    this client may send, at most the server's own limit. With ``"tiderace.ping_interval"``
    it may have a ``ping_interval``: the seconds after which the application pings the
    client itself, and closes the connection if no answer comes. The server then sends no
    pings of its own, unless its interval is shorter by more than a fifth. A subclass may
    set the timeouts.
    """

    handshake_timeout: ClassVar[float] = float(
        os.environ.get("TIDERACE_HANDSHAKE_TIMEOUT") or 20
    )
    """Seconds in which an application has to accept or refuse; then the client gets 504."""

    close_timeout: ClassVar[float] = 10.0
    """Seconds in which a client has to read what was sent, and to answer a close frame."""

    shutdown_timeout: ClassVar[float] = 1.0
    """The same, when the server stops."""

    refusal_timeout: ClassVar[float] = 2.0
    """Seconds for a client that violated the protocol to read the reason and close."""

    __slots__ = (
        "_connection",
        "_denial",
        "_key",
        "_offered",
        "_phase",
        "_timer",
        "_unread",
        "app_state",
        "config",
        "frames",
        "loop",
        "read_queue",
        "scope",
        "server_state",
        "transport",
    )

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        self.config = config
        self.server_state = server_state
        self.app_state = app_state
        self.loop = _loop or asyncio.get_running_loop()
        # Up to the answer.
        self.scope = _NO_SCOPE
        self._phase = _REQUEST
        # Bytes not read yet: a part of the request, or frames before the answer.
        self._unread = b""
        self._key = b""
        # The client's subprotocols; the application may change those of the scope.
        self._offered: tuple[str, ...] = ()
        # Status and headers of a denial, until its body begins.
        self._denial: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._connection: ServerConnection | None = None
        # The deadline for the application's answer, then for the client to close.
        self._timer: asyncio.TimerHandle | None = None
        if config.ws_per_message_deflate:
            _log_once_that_nothing_is_compressed()

    # From uvicorn and the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over a transport, before the opening request."""
        # uvloop's transports have asyncio's interface and not its classes.
        self.transport = transport = cast("asyncio.Transport", transport)
        scheduler = WriteScheduler.of(self.server_state, self.loop)
        self.frames = ServerFrameWriter(transport, scheduler)
        self.read_queue = ReadQueue(transport, self.config.ws_max_queue)
        self.server_state.connections.add(self)  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        """Send the application a disconnect event, and wake a waiting ``send``."""
        self.server_state.connections.discard(self)
        self._stop_timer()
        self._phase = _ANSWERED
        if self._connection is not None:
            self._connection.lost()
        self.read_queue.disconnect(1006)
        self.frames.cut()

    def data_received(self, data: bytes) -> None:
        """Read the request or frames of the client."""
        if self._connection is not None:
            self._connection.feed(data)
        elif self._phase is _REQUEST:
            self._unread += data
            head, found, rest = self._unread.partition(b"\r\n\r\n")
            if found:
                self._unread = rest
                self._read_request(head)
            elif len(self._unread) > MAX_SIZE:
                self._refuse(431, "the request is too long")
        elif self._phase is _CONNECTING:
            # A client must not send before the answer; this many bytes are buffered.
            self._unread += data
            self.transport.pause_reading()

    def start(self, request: Request, rest: bytes) -> None:
        """Start with a request that was read before ``connection_made``.

        Args:
            request: the opening request.
            rest: what the client has sent after it.
        """
        if rest:
            self._unread = rest
            self.transport.pause_reading()
        self._start_application(request)

    def eof_received(self) -> None:
        """Let the transport close: a WebSocket is not used half-open."""
        self.frames.stop()

    def pause_writing(self) -> None:
        """Queue frames, and let ``send`` wait, until ``resume_writing``."""
        self.frames.pause()

    def resume_writing(self) -> None:
        """Send what was queued."""
        self.frames.resume()
        if self._connection is not None:
            self._connection.caught_up()

    def shutdown(self) -> None:
        """Close because the server stops: with 1012, or 503 before the handshake."""
        if self._connection is not None:
            self._connection.close(1012, "", self.shutdown_timeout)
        elif self._phase is _REQUEST or self._phase is _CONNECTING:
            self._refuse(503, "the server is stopping")
        else:
            self._hang_up(self.shutdown_timeout)

    # The handshake

    def _read_request(self, head: bytes) -> None:
        try:
            request = read_request(head)
        except HandshakeRefused as refused:
            self._refuse(refused.status, str(refused), refused.headers)
        else:
            self._start_application(request)

    def _start_application(self, request: Request) -> None:
        self._key = request.key
        self._phase = _CONNECTING
        self.scope = self._build_scope(request)
        self.read_queue.put({"type": "websocket.connect"})
        self._timer = self.loop.call_later(
            self.handshake_timeout, self._handshake_timed_out
        )
        self.server_state.tasks.add(self.loop.create_task(self._run_application()))

    def _build_scope(self, request: Request) -> dict[str, Any]:
        self._offered = tuple(request.subprotocols)
        root_path = self.config.root_path
        server, client = addresses_of(self.transport)
        return {
            "type": "websocket",
            "asgi": _asgi(self.config.asgi_version),
            "http_version": "1.1",
            "scheme": "wss" if is_ssl(self.transport) else "ws",
            "server": server,
            "client": client,
            "root_path": root_path,
            "path": root_path + request.path,
            "raw_path": root_path.encode("ascii") + request.raw_path,
            "query_string": request.query_string,
            "headers": request.headers,
            "subprotocols": request.subprotocols,
            "state": self.app_state.copy(),
            "extensions": {
                "websocket.http.response": _NO_OPTIONS,
                "tiderace.frames": self.frames,
                "tiderace.max_size": _NO_OPTIONS,
                "tiderace.ping_interval": _NO_OPTIONS,
            },
        }

    def _accept(self, message: Event) -> None:
        """Answer with 101, which makes the connection a WebSocket."""
        config = self.config
        max_size = _max_size(message, config.ws_max_size)
        response = accept_response(
            self._key,
            self._check_subprotocol(message.get("subprotocol")),
            [*self.server_state.default_headers, *message.get("headers", ())],
        )
        self._stop_timer()
        self._phase = _ANSWERED
        self._log_access("[accepted]")
        # Middleware has copied it, mostly: 0.5 KB of each socket.
        self.scope = _NO_SCOPE
        self._connection = connection = ServerConnection(
            self.transport,
            self.frames,
            self.read_queue,
            self.loop,
            max_size=max_size,
            close_timeout=self.close_timeout,
            refusal_timeout=self.refusal_timeout,
        )
        self.frames.write(response)
        if config.ws_ping_interval and not _is_pinged(message, config.ws_ping_interval):
            delays = Delays.of(self.server_state, self.loop)
            connection.keep_alive(
                config.ws_ping_interval, config.ws_ping_timeout, delays
            )
        if self._unread:
            unread, self._unread = self._unread, b""
            self.transport.resume_reading()
            connection.feed(unread)

    def _check_subprotocol(self, chosen: str | None) -> str | None:
        """Return the subprotocol of the answer (RFC 6455 §4.2.2: an offered one or none)."""
        # No message names what was offered: it may be a token.
        if chosen and chosen not in self._offered:
            raise ValueError(
                f"the application accepts with the subprotocol {chosen!r}, which the "
                "client has not offered; accept one of scope['subprotocols'], or None"
            )
        if self._offered and not chosen and conf.configured() and settings.DEBUG:
            hint_logger.warning(
                "the WebSocket %s is accepted with none of the subprotocols that the "
                "client has offered; browsers close such a connection. Accept one of "
                "scope['subprotocols']",
                quote(self.scope["path"]),
            )
        return chosen

    def _start_denial(self, message: Event) -> None:
        status = message["status"]
        if not 200 <= status < 600:
            raise RuntimeError(f"the HTTP status {status} refuses no handshake")
        self._stop_timer()
        self._phase = _DENYING
        self._denial = status, list(message.get("headers", ()))
        self._log_access(str(status))

    def _deny(self, message: Event) -> None:
        """Send a part of the application's denial response."""
        data = message.get("body", b"")
        last = not message.get("more_body", False)
        if self._denial is not None:
            status, headers = self._denial
            headers = [*self.server_state.default_headers, *headers]
            data = http_response(status, headers, data, whole=last)
            self._denial = None
        if not self.transport.is_closing():
            self.transport.write(data)
        if last:
            self._hang_up(self.close_timeout)

    def _refuse(
        self, status: int, why: str, headers: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        """Refuse the handshake with a response of the server."""
        if self.scope:
            self._log_access(str(status))
        own = self.server_state.default_headers
        if not self.transport.is_closing():
            response = http_response(status, [*own, *(headers or ())], why.encode())
            self.transport.write(response)
        self._hang_up(self.close_timeout)

    def _handshake_timed_out(self) -> None:
        """Refuse the handshake that the application did not answer in time."""
        logger.warning(
            "the WebSocket %s was neither accepted nor closed within %g s, so it is "
            "dropped; the application has to send websocket.accept or websocket.close",
            quote(self.scope["path"]) + redacted_query(self.scope),
            self.handshake_timeout,
        )
        self._refuse(504, "the application did not answer")

    def _hang_up(self, timeout: float) -> None:
        """Close when the client has read the response, or after ``timeout`` seconds."""
        self._phase = _ANSWERED
        self._stop_timer()
        self.read_queue.disconnect(1006)
        self.transport.close()
        self._timer = self.loop.call_later(timeout, self.frames.cut)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _log_access(self, result: str) -> None:
        if not logger.isEnabledFor(logging.INFO):
            return
        logger.info(
            '%s - "WebSocket %s" %s',
            get_client_addr(self.scope),  # type: ignore[arg-type]
            quote(self.scope["path"]) + redacted_query(self.scope),
            result,
        )

    # The application

    async def _run_application(self) -> None:
        """Run the application, and close the connection when it ends."""
        try:
            app = await behind_proxies(self.config.loaded_app, self.scope)
            result = await app(self.scope, self.read_queue.get, self.send)
        except ClientDisconnected:
            code = 1000
        except asyncio.CancelledError:
            self._application_ended(1012)
            raise
        except BaseException:
            logger.exception("Exception in ASGI application\n")
            code = 1011
        else:
            code = 1000
            if self._phase is _CONNECTING:
                logger.error("ASGI callable returned without completing handshake.")
            elif result is not None:
                logger.error(
                    "ASGI callable should return None, but returned '%s'.", result
                )
        self._application_ended(code)

    def _application_ended(self, code: int) -> None:
        """Close the connection, or answer the handshake, if the application has not."""
        # Here, as a callback of the task would be 0.15 KB of each socket.
        self.server_state.tasks.discard(asyncio.current_task())
        if self._connection is not None:
            self._connection.close(code)
        elif self._phase is _CONNECTING:
            self._refuse(500, "Internal Server Error")
        elif self._phase is _DENYING:
            self._hang_up(self.close_timeout)

    def send(self, message: Event) -> Awaitable[None]:
        """Send an event; wait only while the client reads too slowly.

        Raises:
            ClientDisconnected: an ``OSError``, when the client is gone.
            RuntimeError: for a message that is not allowed now.
            ValueError: for a header, a close code or a reason that must not be sent.
        """
        if self._connection is not None:
            return self._connection.send(message)
        return self._send_answer(message)

    async def _send_answer(self, message: Event) -> None:
        """Answer the handshake."""
        kind = message["type"]
        if self._phase is _ANSWERED:
            raise ClientDisconnected
        if self._phase is _DENYING:
            if kind != "websocket.http.response.body":
                raise RuntimeError(
                    f"the ASGI message {kind!r} may not come now: the handshake is "
                    "being refused, with 'websocket.http.response.body'"
                )
            self._deny(message)
        elif kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            self._refuse(403, "")
        elif kind == "websocket.http.response.start":
            self._start_denial(message)
        else:
            raise RuntimeError(
                f"the ASGI message {kind!r} may not come now: the handshake has to be "
                "answered first, with 'websocket.accept', 'websocket.close' or "
                "'websocket.http.response.start'"
            )


@cache
def _asgi(version: str) -> dict[str, str]:
    """Return the versions in a scope; one dict for all sockets, of 0.25 KB."""
    return {"version": version, "spec_version": "2.5"}


def _max_size(accept: Event, limit: int) -> int:
    """Return the limit of a message: the application's, at most the server's."""
    asked = accept.get("max_size")
    if asked is None:
        return limit
    if not isinstance(asked, int) or asked < 1:
        raise ValueError(
            f"the max_size of 'websocket.accept' is {asked!r}; make it a number of "
            "bytes, 1 or more"
        )
    return min(asked, limit)


def _is_pinged(accept: Event, interval: float) -> bool:
    """Return whether the application's own pings are about as frequent as ``interval``."""
    asked = accept.get("ping_interval")
    return isinstance(asked, int | float) and 0 < asked <= interval * _PING_SHARE


@cache
def _log_once_that_nothing_is_compressed() -> None:
    logger.info(
        "tiderace.server does not compress WebSocket messages; "
        "--ws-per-message-deflate has no effect"
    )
