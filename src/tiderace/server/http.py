"""uvicorn's HTTP protocol with a deadline for requests: ``--http tiderace.server:HttpProtocol``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from typing import Any, ClassVar

from uvicorn.config import Config
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.server import ServerState

from tiderace.runtime.tasks import READING
from tiderace.server.handshake import MAX_HEADERS, read_plain_request
from tiderace.server.parts import ResponseParts, ServerPartWriter
from tiderace.server.protocol import WebSocketProtocol

try:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
except ImportError:  # without httptools
    from uvicorn.protocols.http.h11_impl import (  # type: ignore[assignment]
        RequestResponseCycle,
    )

# Headers of a response with which its body is not sent as the application has made it.
_ENCODING = (b"content-encoding", b"transfer-encoding")


class _Cycle(RequestResponseCycle):
    """uvicorn's request and response, which also says whether its body is encoded."""

    encoded = False

    # No coroutine of its own: it returns that of uvicorn.
    def send(self, message: Any) -> Awaitable[None]:  # type: ignore[override]
        """Send an event of the response."""
        if message["type"] == "http.response.start":
            headers = message.get("headers", ())
            self.encoded = any(name.lower() in _ENCODING for name, _ in headers)
        return super().send(message)


class HttpProtocol(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
    """One HTTP connection of a uvicorn server, cut if it sends no request.

    uvicorn limits how long a connection is idle after a request, but not how long the
    head of a request takes, the first one included.

    With httptools the scope of a request has ``"tiderace.parts"`` among its extensions,
    which writes to many responses at once (``ResponseParts``).
    """

    head_timeout: ClassVar[float] = float(os.environ.get("TIDERACE_HEAD_TIMEOUT") or 20)
    """Seconds in which a client has to send the head of a request. It is cut after at most
    twice this time and a second."""

    # The writer of a response whose finished parts the application writes.
    parts: ServerPartWriter | None = None

    # Whether uvicorn's part of the connection is set up. The attributes below are read
    # before that too.
    _set_up = False
    cycle: Any = None
    timeout_keep_alive_task: asyncio.TimerHandle | None = None

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        # uvicorn's own part follows with the first bytes, unless they open a WebSocket.
        if not config.loaded:
            config.load()
        self.config = config
        self.server_state = server_state
        self.app_state = app_state
        self.loop = _loop or asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.server_state.connections.add(self)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Start a WebSocket if that is what the client opens, else parse the request."""
        if not self._set_up:
            if self._opens_websocket(data):
                return
            self._set_up = True
            transport = self.transport
            super().__init__(self.config, self.server_state, self.app_state, self.loop)
            super().connection_made(transport)
        super().data_received(data)

    def _opens_websocket(self, data: bytes) -> bool:
        """Start a WebSocket for a plain opening request, which is parsed once then.

        uvicorn would parse it, write it anew and have it parsed by the other protocol: a
        tenth of the processor time of a client that connects.
        """
        websocket = self.config.ws_protocol_class
        if websocket is None or not issubclass(websocket, WebSocketProtocol):
            return False
        opening = read_plain_request(data)
        if opening is None:
            return False
        self._timer.cancel()
        self.server_state.connections.discard(self)
        transport = self.transport
        protocol = websocket(self.config, self.server_state, self.app_state, self.loop)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.start(*opening)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        if not self._set_up:
            self.server_state.connections.discard(self)
            return
        super().connection_lost(exc)
        if self.parts is not None:
            self.parts.cut()

    def shutdown(self) -> None:
        """Close because the server stops, after the response."""
        if self._set_up:
            super().shutdown()
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.parts is not None:
            self.parts.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.parts is not None:
            self.parts.resume()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {"tiderace.parts": ResponseParts(self)}

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if type(self.cycle) is RequestResponseCycle:
            # Its task has not begun, so it has sent nothing yet.
            self.cycle.__class__ = _Cycle

    def on_header(self, name: bytes, value: bytes) -> None:
        """Refuse a request with too many headers (400); h11 has a limit of its own."""
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            raise ValueError(f"more than {MAX_HEADERS} headers")

    def handle_websocket_upgrade(self, *event: Any) -> None:
        self._timer.cancel()
        super().handle_websocket_upgrade(*event)

    def _await_head(self) -> None:
        self._timer: asyncio.TimerHandle = self.loop.call_later(
            self.head_timeout, self._check_head, self.cycle
        )

    def _check_head(self, last: Any, repeated: bool = False) -> None:
        """Cut the connection if there is no request, and was none since the last check."""
        serving = self.cycle is not None and not self.cycle.response_complete
        idle = self.timeout_keep_alive_task is not None
        if serving or idle or self.cycle is not last:
            self._await_head()
        elif repeated:
            self.transport.abort()
        else:
            # uvloop runs the late timers of a loop that was blocked before it reads.
            self._timer = self.loop.call_later(READING, self._check_head, last, True)
