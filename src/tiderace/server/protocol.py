"""uvicorn's WebSocket connections, served the fast way: ``--ws tiderace.server:WebSocketProtocol``.

It knows uvicorn's contract for protocol classes and the opening handshake; what is said
after it is the matter of ``conversation``. It knows nothing of Django or consumers.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable
from typing import Any, ClassVar, cast
from urllib.parse import unquote
from weakref import WeakKeyDictionary

from uvicorn.config import Config
from uvicorn.protocols.utils import (
    ClientDisconnected,
    get_client_addr,
    get_local_addr,
    get_path_with_query_string,
    get_remote_addr,
    is_ssl,
)
from uvicorn.server import ServerState

from tiderace.asgi import Event
from tiderace.server.connection import ServerConnection
from tiderace.server.handshake import (
    HandshakeRefused,
    Request,
    accept_response,
    http_response,
    read_request,
)
from tiderace.server.read_queue import ReadQueue
from tiderace.server.writer import ServerFrameWriter, WriteScheduler

__all__ = ["WebSocketProtocol"]

logger = logging.getLogger("uvicorn.error")

# Bytes of an opening request.
_LONGEST_REQUEST = 64 * 1024

# Each server, which has one loop, writes in one place.
_ticks: WeakKeyDictionary[ServerState, WriteScheduler] = WeakKeyDictionary()

# The opening request is being read; the application has not answered it; it answers
# with an HTTP response of its own; the handshake is over, one way or the other.
_REQUEST, _CONNECTING, _DENYING, _ANSWERED = "request", "connecting", "denying", "over"


class WebSocketProtocol(asyncio.Protocol):
    """One WebSocket connection of a uvicorn server.

    It takes uvicorn's own options (``--ws-max-size``, ``--ws-max-queue``,
    ``--ws-ping-interval``, ``--ws-ping-timeout``), except that it does not compress:
    an offer of permessage-deflate is declined. The scope has a ``ServerFrameWriter`` in
    ``scope["extensions"]["tiderace.frames"]``, and with ``"tiderace.max_size"`` there it
    says that ``websocket.accept`` may have a ``max_size``: bytes of the largest message
    that this socket may send, where that is less than the server takes. A subclass may
    set the timeouts.
    """

    handshake_timeout: ClassVar[float] = float(
        os.environ.get("TIDERACE_HANDSHAKE_TIMEOUT") or 20
    )
    """Seconds an application has to accept or to refuse; then the client gets a 504."""

    close_timeout: ClassVar[float] = 10.0
    """Seconds for a client to answer our goodbye, and to take what is before it."""

    shutdown_timeout: ClassVar[float] = 1.0
    """The same when the server stops."""

    refusal_timeout: ClassVar[float] = 2.0
    """Seconds for a client that broke the protocol to read why and to hang up."""

    __slots__ = (
        "_conversation",
        "_denial",
        "_early",
        "_key",
        "_phase",
        "_timer",
        "app_state",
        "config",
        "frames",
        "incoming",
        "loop",
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
        self.scope: dict[str, Any] = {}
        self._phase = _REQUEST
        # What comes before its time: pieces of the request, frames before the answer.
        self._early = b""
        self._key = b""
        # Status and headers of a denial, until its body begins.
        self._denial: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._conversation: ServerConnection | None = None
        # The deadline of the application's answer, then of the client's hanging up.
        self._timer: asyncio.TimerHandle | None = None
        if config.ws_per_message_deflate:
            _say_once_that_nothing_is_compressed()

    # What uvicorn and the transport call.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over a transport, before the opening request."""
        # uvloop's transports have asyncio's interface and not its classes.
        self.transport = transport = cast("asyncio.Transport", transport)
        tick = _ticks.get(self.server_state)
        if tick is None:
            tick = _ticks[self.server_state] = WriteScheduler(self.loop)
        self.frames = ServerFrameWriter(transport, tick)
        self.incoming = ReadQueue(transport, self.config.ws_max_queue)
        self.server_state.connections.add(self)  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application; wake a ``send`` that waits for the client to read."""
        self.server_state.connections.discard(self)
        self._stop_waiting()
        self._phase = _ANSWERED
        if self._conversation is not None:
            self._conversation.lost()
        self.incoming.disconnect(1006)
        self.frames.cut()

    def data_received(self, data: bytes) -> None:
        """Read what the client sent, as far as the connection has come."""
        if self._conversation is not None:
            self._conversation.feed(data)
        elif self._phase is _REQUEST:
            self._early += data
            head, found, rest = self._early.partition(b"\r\n\r\n")
            if found:
                self._early = rest
                self._ask(head)
            elif len(self._early) > _LONGEST_REQUEST:
                self._answer(431, "the request is too long")
        elif self._phase is _CONNECTING:
            # Nobody may send before the answer; what comes is kept, but no more.
            self._early += data
            self.transport.pause_reading()

    def eof_received(self) -> None:
        """Let the transport close: a WebSocket has no half that goes on."""
        self.frames.stop()

    def pause_writing(self) -> None:
        """Hold frames back; ``send`` waits from now on."""
        self.frames.pause()

    def resume_writing(self) -> None:
        """Send what was held back."""
        self.frames.resume()
        if self._conversation is not None:
            self._conversation.caught_up()

    def shutdown(self) -> None:
        """Say goodbye because the server stops: 1012, or 503 before the handshake."""
        if self._conversation is not None:
            self._conversation.close(1012, "", self.shutdown_timeout)
        elif self._phase is _REQUEST or self._phase is _CONNECTING:
            self._answer(503, "the server is stopping")
        else:
            self._hang_up(self.shutdown_timeout)

    # The handshake.

    def _ask(self, head: bytes) -> None:
        """Read the opening request and ask the application."""
        try:
            request = read_request(head)
        except HandshakeRefused as refusal:
            self._answer(refusal.status, str(refusal), refusal.headers)
            return
        self._key = request.key
        self._phase = _CONNECTING
        self.scope = self._build_scope(request)
        self.incoming.put({"type": "websocket.connect"})
        self._timer = self.loop.call_later(self.handshake_timeout, self._unanswered)
        task = self.loop.create_task(self._run())
        self.server_state.tasks.add(task)
        task.add_done_callback(self.server_state.tasks.discard)

    def _build_scope(self, request: Request) -> dict[str, Any]:
        root_path = self.config.root_path
        raw_path, _, query_string = request.target.partition(b"?")
        return {
            "type": "websocket",
            "asgi": {"version": self.config.asgi_version, "spec_version": "2.5"},
            "http_version": "1.1",
            "scheme": "wss" if is_ssl(self.transport) else "ws",
            "server": get_local_addr(self.transport),
            "client": get_remote_addr(self.transport),
            "root_path": root_path,
            "path": root_path + unquote(raw_path.decode("ascii")),
            "raw_path": root_path.encode("ascii") + raw_path,
            "query_string": query_string,
            "headers": request.headers,
            "subprotocols": request.subprotocols,
            "state": self.app_state.copy(),
            "extensions": {
                "websocket.http.response": {},
                "tiderace.frames": self.frames,
                "tiderace.max_size": {},
            },
        }

    def _accept(self, message: Event) -> None:
        """Answer with 101, after which it is a WebSocket."""
        config = self.config
        max_size = _max_size(message, config.ws_max_size)
        response = accept_response(
            self._key,
            message.get("subprotocol"),
            [*self.server_state.default_headers, *message.get("headers", ())],
        )
        self._stop_waiting()
        self._phase = _ANSWERED
        self._log_access("[accepted]")
        self._conversation = conversation = ServerConnection(
            self.transport,
            self.frames,
            self.incoming,
            self.loop,
            max_size=max_size,
            close_timeout=self.close_timeout,
            refusal_timeout=self.refusal_timeout,
        )
        self.frames.write(response)
        if config.ws_ping_interval:
            conversation.keep_alive(config.ws_ping_interval, config.ws_ping_timeout)
        if self._early:
            early, self._early = self._early, b""
            self.transport.resume_reading()
            conversation.feed(early)

    def _start_denial(self, message: Event) -> None:
        status = message["status"]
        if not 200 <= status < 600:
            raise RuntimeError(f"the HTTP status {status} refuses no handshake")
        self._stop_waiting()
        self._phase = _DENYING
        self._denial = status, list(message.get("headers", ()))
        self._log_access(str(status))

    def _deny(self, message: Event) -> None:
        """Send a piece of the application's own refusal."""
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

    def _answer(
        self, status: int, why: str, headers: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        """Refuse the handshake with a response of the server's own."""
        if self.scope:
            self._log_access(str(status))
        own = self.server_state.default_headers
        if not self.transport.is_closing():
            response = http_response(status, [*own, *(headers or ())], why.encode())
            self.transport.write(response)
        self._hang_up(self.close_timeout)

    def _unanswered(self) -> None:
        """The application did not answer the handshake in time."""
        logger.warning(
            "the WebSocket %s was neither accepted nor closed within %g s, so it is "
            "dropped; the application has to send websocket.accept or websocket.close",
            get_path_with_query_string(self.scope),  # type: ignore[arg-type]
            self.handshake_timeout,
        )
        self._answer(504, "the application did not answer")

    def _hang_up(self, timeout: float) -> None:
        """End the connection once the client has taken the response, or is too slow."""
        self._phase = _ANSWERED
        self._stop_waiting()
        self.incoming.disconnect(1006)
        self.transport.close()
        self._timer = self.loop.call_later(timeout, self.frames.cut)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _log_access(self, result: str) -> None:
        logger.info(
            '%s - "WebSocket %s" %s',
            get_client_addr(self.scope),  # type: ignore[arg-type]
            get_path_with_query_string(self.scope),  # type: ignore[arg-type]
            result,
        )

    # The application's side.

    async def _run(self) -> None:
        """Run the application; see to it that the connection ends with it."""
        try:
            app = cast("Any", self.config.loaded_app)
            result = await app(self.scope, self.receive, self.send)
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
        """Say for the application what it has left unsaid."""
        if self._conversation is not None:
            self._conversation.close(code)
        elif self._phase is _CONNECTING:
            self._answer(500, "Internal Server Error")
        elif self._phase is _DENYING:
            self._hang_up(self.close_timeout)

    async def receive(self) -> Event:
        """ASGI's ``receive``; after the disconnect event it gives that again."""
        return await self.incoming.get()

    def send(self, message: Event) -> Awaitable[None]:
        """ASGI's ``send``: done at once, unless the client reads too slowly.

        Raises:
            ClientDisconnected: an ``OSError``, when the client is gone.
            RuntimeError: when the message may not come now.
            ValueError: when a header, a close code or a reason may not be sent.
        """
        if self._conversation is not None:
            return self._conversation.send(message)
        return self._send_answer(message)

    async def _send_answer(self, message: Event) -> None:
        """Answer the handshake as the application says."""
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
            self._answer(403, "")
        elif kind == "websocket.http.response.start":
            self._start_denial(message)
        else:
            raise RuntimeError(
                f"the ASGI message {kind!r} may not come now: the handshake has to be "
                "answered first, with 'websocket.accept', 'websocket.close' or "
                "'websocket.http.response.start'"
            )


def _max_size(accept: Event, most: int) -> int:
    """Bytes of one message, by the server's option and the application's wish."""
    wish = accept.get("max_size")
    if wish is None:
        return most
    if not isinstance(wish, int) or wish < 1:
        raise ValueError(
            f"the max_size of 'websocket.accept' is {wish!r}; make it a number of "
            "bytes, 1 or more"
        )
    return min(wish, most)


_deflate_mentioned = False


def _say_once_that_nothing_is_compressed() -> None:
    global _deflate_mentioned
    if not _deflate_mentioned:
        _deflate_mentioned = True
        logger.info(
            "tiderace.server does not compress WebSocket messages; "
            "--ws-per-message-deflate has no effect"
        )
