"""uvicorn's WebSocket connections, served the fast way: ``--ws tiderace.server:WebSocketProtocol``.

It knows uvicorn's contract for protocol classes and ASGI's WebSocket messages 2.5; it
knows nothing of Django, consumers or layers.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import os
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
from tiderace.server.frames import (
    binary_frame,
    close_frame,
    ping_frame,
    pong_frame,
    text_frame,
)
from tiderace.server.handshake import (
    HandshakeRefused,
    Request,
    accept_response,
    http_response,
    read_request,
)
from tiderace.server.incoming import Incoming
from tiderace.server.keepalive import KeepAlive
from tiderace.server.messages import MessageReader, ProtocolFailure
from tiderace.server.outgoing import ReadyFrames, Tick

__all__ = ["WebSocketProtocol"]

logger = logging.getLogger("uvicorn.error")

# Bytes of an opening request, and of what a client sends before its answer.
_LONGEST_REQUEST = 64 * 1024

# Each server, which has one loop, writes in one place.
_ticks: WeakKeyDictionary[ServerState, Tick] = WeakKeyDictionary()


class _State(enum.Enum):
    """How far a connection has come."""

    REQUEST = enum.auto()
    """The opening request is being read."""

    CONNECTING = enum.auto()
    """The application has not answered yet."""

    DENYING = enum.auto()
    """The application answers with an HTTP response of its own."""

    OPEN = enum.auto()
    """Messages go both ways."""

    CLOSING = enum.auto()
    """We have said goodbye; the client's is awaited."""

    CLOSED = enum.auto()
    """Nothing is sent any more: the client is gone, or has had our last word."""


class WebSocketProtocol(asyncio.Protocol):
    """One WebSocket connection of a uvicorn server.

    It takes uvicorn's own options (``--ws-max-size``, ``--ws-max-queue``,
    ``--ws-ping-interval``, ``--ws-ping-timeout``), except that it does not compress:
    an offer of permessage-deflate is declined. The scope has a ``ReadyFrames`` in
    ``scope["extensions"]["tiderace.frames"]``. A subclass may set the timeouts.
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
        "_connections",
        "_default_headers",
        "_early",
        "_keep_alive",
        "_key",
        "_reader",
        "_response",
        "_state",
        "_tasks",
        "_timer",
        "app",
        "app_state",
        "client",
        "config",
        "frames",
        "incoming",
        "loop",
        "scope",
        "server",
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
        self._state = _State.REQUEST
        self._key = b""
        # What comes before its time: pieces of the request, frames before the answer.
        self._early = b""
        # The head of a denial, until its body begins.
        self._response: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._reader = MessageReader(config.ws_max_size)
        self._keep_alive: KeepAlive | None = None
        # The deadline of what is awaited: the application's answer, or the client's end.
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
            tick = _ticks[self.server_state] = Tick(self.loop)
        self.frames = ReadyFrames(transport, tick)
        self.incoming = Incoming(transport, self.config.ws_max_queue)
        self.server_state.connections.add(self)  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application; wake a ``send`` that waits for the client to read."""
        self._stop_waiting()
        self._state = _State.CLOSED
        self.server_state.connections.discard(self)
        self.incoming.disconnect(1006)
        self.frames.cut()

    def data_received(self, data: bytes) -> None:
        """Read what the client sent, as far as the connection has come."""
        if self._keep_alive is not None:
            self._keep_alive.heard()
        if self._state is _State.OPEN or self._state is _State.CLOSING:
            self._read(data)
        elif self._state is _State.REQUEST:
            self._early += data
            head, found, rest = self._early.partition(b"\r\n\r\n")
            if found:
                self._early = rest
                self._open(head)
            elif len(self._early) > _LONGEST_REQUEST:
                self._answer(431, "the request is too long")
        elif self._state is _State.CONNECTING:
            # Nobody may send before the answer; what comes is kept, not more.
            self._early += data
            self.transport.pause_reading()

    def eof_received(self) -> None:
        """Let the transport close: a WebSocket has no half that goes on."""

    def pause_writing(self) -> None:
        """Hold frames back; ``send`` waits from now on."""
        self.frames.pause()

    def resume_writing(self) -> None:
        """Send what was held back."""
        self.frames.resume()

    def shutdown(self) -> None:
        """Say goodbye because the server stops: 1012, or 503 before the handshake."""
        if self._state is _State.OPEN:
            self._close(1012, "", self.shutdown_timeout)
        elif self._state is _State.REQUEST or self._state is _State.CONNECTING:
            self._answer(503, "the server is stopping")
        elif self._state is _State.DENYING:
            self._end()
        else:
            self._wait(self.shutdown_timeout, self.frames.cut)

    # The handshake.

    def _open(self, head: bytes) -> None:
        """Read the opening request and ask the application."""
        try:
            request = read_request(head)
        except HandshakeRefused as refusal:
            self._answer(refusal.status, str(refusal), refusal.headers)
            return
        self._key = request.key
        self._state = _State.CONNECTING
        self.scope = self._build_scope(request)
        self.incoming.put({"type": "websocket.connect"})
        self._wait(self.handshake_timeout, self._unanswered)
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
            },
        }

    def _unanswered(self) -> None:
        """The application did not answer the handshake in time."""
        logger.warning(
            "the WebSocket %s was neither accepted nor closed within %g s, so it is "
            "dropped; the application has to send websocket.accept or websocket.close",
            get_path_with_query_string(self.scope),  # type: ignore[arg-type]
            self.handshake_timeout,
        )
        self._answer(504, "the application did not answer")

    def _answer(
        self, status: int, why: str, headers: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        """Refuse the handshake with a response of the server's own, and hang up."""
        if self.scope:
            self._log_access(str(status))
        own = self.server_state.default_headers
        self._last_words(http_response(status, [*own, *(headers or ())], why.encode()))

    def _last_words(self, data: bytes) -> None:
        """Write the end of an HTTP response, and hang up."""
        self.incoming.disconnect(1006)
        if not self.transport.is_closing():
            self.transport.write(data)
        self._end()

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
            result = await self.app_callable(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except asyncio.CancelledError:
            self._application_ended(1012)
            raise
        except BaseException:
            logger.exception("Exception in ASGI application\n")
            self._application_ended(1011)
            return
        else:
            if self._state is _State.CONNECTING:
                logger.error("ASGI callable returned without completing handshake.")
            elif result is not None:
                logger.error(
                    "ASGI callable should return None, but returned '%s'.", result
                )
        self._application_ended(1000)

    @property
    def app_callable(self) -> Any:
        return self.config.loaded_app

    def _application_ended(self, code: int) -> None:
        """Say for the application what it has left unsaid."""
        if self._state is _State.OPEN:
            self._close(code, "", self.close_timeout)
        elif self._state is _State.CONNECTING:
            self._answer(500, "Internal Server Error")
        elif self._state is _State.DENYING:
            self._end()

    async def receive(self) -> Event:
        """ASGI's ``receive``; after the disconnect event it gives that again."""
        return await self.incoming.get()

    async def send(self, message: Event) -> None:
        """ASGI's ``send``: returns at once, unless the client reads too slowly.

        Raises:
            ClientDisconnected: an ``OSError``, when the client is gone.
            RuntimeError: when the message may not come now.
        """
        kind = message["type"]
        if self._state is _State.OPEN and kind == "websocket.send":
            data = message.get("bytes")
            if data is not None:
                self.frames.write(binary_frame(data))
            else:
                self.frames.write(text_frame(_text_of(message)))
            if self.frames.congested:
                await self.frames.drained()
                self._check_not_closed()
        elif self._state is _State.OPEN and kind == "websocket.close":
            code = message.get("code", 1000)
            self._close(code, message.get("reason") or "", self.close_timeout)
        elif self._state is _State.CONNECTING:
            self._answer_with(kind, message)
        elif self._state is _State.DENYING and kind == "websocket.http.response.body":
            self._deny(message)
        else:
            self._check_not_closed()
            raise RuntimeError(
                f"the ASGI message {kind!r} may not come now: the connection is "
                f"{self._state.name.lower()}"
            )

    def _check_not_closed(self) -> None:
        if self._state is _State.CLOSED:
            raise ClientDisconnected

    def _answer_with(self, kind: str, message: Event) -> None:
        """Answer the handshake as the application says."""
        if kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            self._answer(403, "")
        elif kind == "websocket.http.response.start":
            status = message["status"]
            if not 200 <= status < 600:
                raise RuntimeError(f"the HTTP status {status} refuses no handshake")
            self._stop_waiting()
            self._state = _State.DENYING
            self._response = status, list(message.get("headers", ()))
            self._log_access(str(status))
        else:
            raise RuntimeError(
                f"the ASGI message {kind!r} may not come now: the handshake has to be "
                "answered first, with 'websocket.accept', 'websocket.close' or "
                "'websocket.http.response.start'"
            )

    def _accept(self, message: Event) -> None:
        response = accept_response(
            self._key,
            message.get("subprotocol"),
            [*self.server_state.default_headers, *message.get("headers", ())],
        )
        self._stop_waiting()
        self._log_access("[accepted]")
        self._state = _State.OPEN
        self.frames.open()
        self.frames.write(response)
        if self.config.ws_ping_interval:
            self._keep_alive = KeepAlive(
                self,
                self.loop,
                self.config.ws_ping_interval,
                self.config.ws_ping_timeout,
            )
        if self._early:
            early, self._early = self._early, b""
            self.transport.resume_reading()
            self._read(early)

    def _deny(self, message: Event) -> None:
        """Send a piece of the application's own refusal."""
        data = message.get("body", b"")
        last = not message.get("more_body", False)
        if self._response is not None:
            status, headers = self._response
            headers = [*self.server_state.default_headers, *headers]
            data = http_response(status, headers, data, whole=last)
            self._response = None
        if last:
            self._last_words(data)
        elif not self.transport.is_closing():
            self.transport.write(data)

    # What a client sends.

    def _read(self, data: bytes) -> None:
        try:
            self._reader.feed(data, self)
        except ProtocolFailure as failure:
            self._refuse(failure.code, failure.reason)

    def text_received(self, text: str) -> None:
        """Queue a text message for the application."""
        if self._state is _State.OPEN:
            self.incoming.put({"type": "websocket.receive", "text": text}, len(text))

    def bytes_received(self, data: bytes) -> None:
        """Queue a binary message for the application."""
        if self._state is _State.OPEN:
            self.incoming.put({"type": "websocket.receive", "bytes": data}, len(data))

    def ping_received(self, payload: bytes) -> None:
        """Answer it."""
        self.frames.write(pong_frame(payload))

    def pong_received(self, payload: bytes) -> None:
        """Nothing to do: any bytes are a sign of life."""

    def close_received(self, code: int | None, reason: str) -> None:
        """Answer the client's goodbye, or take it as the answer to ours; then hang up."""
        if self._state is _State.OPEN:
            self.incoming.disconnect(1005 if code is None else code, reason)
            self.frames.finish(close_frame(code))
        else:
            self.frames.flush()
        self._end()

    # The end.

    def _close(self, code: int, reason: str, timeout: float) -> None:
        """Say goodbye after all that was sent before, and await the client's."""
        self.frames.end(close_frame(code, reason))
        self._state = _State.CLOSING
        self.incoming.disconnect(code, reason)
        self._stop_waiting()
        self._wait(timeout, self.frames.cut)

    def _refuse(self, code: int, reason: str) -> None:
        """End a connection whose client broke the protocol, and tell it why."""
        self._stop_waiting()
        said = self._state is _State.CLOSING
        self._state = _State.CLOSED
        if said:
            self._end()
            return
        self.incoming.disconnect(code, reason)
        self.frames.finish(close_frame(code, reason))
        if self.transport.can_write_eof() and not self.transport.is_closing():
            # Closing with unread bytes would reset the connection, and the close frame
            # with it; so only our half is closed, and the rest thrown away.
            self.transport.write_eof()
            self._wait(self.refusal_timeout, self.frames.cut)
        else:
            self._end()

    def _end(self) -> None:
        """Hang up once the client has taken what is written, or after a while."""
        self._stop_waiting()
        self._state = _State.CLOSED
        self.transport.close()
        self._wait(self.close_timeout, self.frames.cut)

    def _wait(self, timeout: float, then: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(timeout, then)

    def _stop_waiting(self) -> None:
        """Stop the clocks of the phase that ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._keep_alive is not None:
            self._keep_alive.stop()
            self._keep_alive = None

    # What keeps it alive.

    def send_ping(self) -> None:
        """Ping the client."""
        self.frames.write(ping_frame())

    def is_read_from(self) -> bool:
        """Whether a pong could be seen."""
        return not self.incoming.paused

    def ping_unanswered(self) -> None:
        """Take the client for lost: 1011, for a proxy that still listens."""
        self.incoming.disconnect(1006, "keepalive ping timeout")
        self.frames.finish(close_frame(1011, "keepalive ping timeout"))
        self._end()


def _text_of(message: Event) -> bytes:
    text = message.get("text")
    if text is None:
        raise RuntimeError("websocket.send needs 'text' or 'bytes'")
    encoded: bytes = text.encode()
    return encoded


_deflate_mentioned = False


def _say_once_that_nothing_is_compressed() -> None:
    global _deflate_mentioned
    if not _deflate_mentioned:
        _deflate_mentioned = True
        logger.info(
            "tiderace.server does not compress WebSocket messages; "
            "--ws-per-message-deflate has no effect"
        )
