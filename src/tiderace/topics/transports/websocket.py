"""A topic client over a WebSocket."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Any

from tiderace import conf
from tiderace.asgi import (
    Event,
    Receive,
    Scope,
    Send,
    describe,
    websocket_accept,
    websocket_close,
)
from tiderace.delivery.outbox import FrameWriter
from tiderace.protocol import codes
from tiderace.protocol.codec import JSON, Codec
from tiderace.protocol.codes import Close
from tiderace.protocol.stream_codecs import protobuf

logger = logging.getLogger("tiderace.topics")

_JSON = "centrifuge-json"
_PROTOBUF = "centrifuge-protobuf"
# The ASGI extension of servers, such as Tiderace's, that take a limit for each socket.
_MAX_SIZE = "tiderace.max_size"
# That of servers that leave pings to the application.
_PING_INTERVAL = "tiderace.ping_interval"
# RFC 6455, section 5.5: a control frame holds 125 bytes, two of them the code.
_REASON_LENGTH = 123
_TOO_BIG = 1009


class WebSocketTransport:
    """Sends and receives one message as one WebSocket message.

    Args:
        scope: of the connection.
        receive: ASGI's.
        send: ASGI's.
    """

    __slots__ = ("_open", "_receive", "_scope", "_send", "codec", "writer")

    emulated = False

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._open = False
        self.codec: Codec = JSON
        extensions: dict[str, Any] = scope.get("extensions") or {}
        self.writer: FrameWriter | None = extensions.get("tiderace.frames")

    async def accept(self) -> bool:
        """Accept the client's handshake; return False when the connection has ended."""
        if (await self._receive())["type"] != "websocket.connect":
            return False
        offered = self._scope.get("subprotocols") or []
        chosen = next((each for each in (_PROTOBUF, _JSON) if each in offered), None)
        event = websocket_accept(subprotocol=chosen)
        extensions, settings = (
            self._scope.get("extensions") or {},
            conf.current().topics,
        )
        if _MAX_SIZE in extensions:
            # The server buffers no longer message, not even of an anonymous client.
            event["max_size"] = settings.frame_size
        if _PING_INTERVAL in extensions:
            event["ping_interval"] = settings.ping
        await self._send(event)
        self._open = True
        codec = protobuf(_PROTOBUF) if chosen == _PROTOBUF else JSON
        if codec is None:
            # Accepted first: a refused handshake has no code, and the client would retry.
            await self.close(codes.CLOSE_BAD_PROTOCOL)
            return False
        self.codec = codec
        return True

    def receive(self) -> Awaitable[Event]:
        return self._receive()

    def message_of(self, received: Event) -> bytes | None:
        event = received
        if event["type"] == "websocket.disconnect":
            self._open = False
            if event.get("code") == _TOO_BIG:
                # The server has closed the connection, and does not log it.
                logger.info(
                    "a topic client is closed with %d: %r (%s)",
                    _TOO_BIG,
                    event.get("reason", ""),
                    describe(self._scope),
                )
            return None
        text = event.get("text")
        return text.encode() if text is not None else bytes(event["bytes"])

    async def send(self, message: bytes) -> None:
        event: dict[str, Any] = {"type": "websocket.send"}
        if self.codec.binary:
            event["bytes"] = message
        else:
            event["text"] = message.decode()
        try:
            await self._send(event)
        except RuntimeError as error:
            # Raised by servers after the socket is gone.
            raise OSError(str(error)) from error

    async def close(self, close: Close) -> None:
        if self._open:
            self._open = False
            reason = close.reason.encode()[:_REASON_LENGTH].decode(errors="ignore")
            await self._send(websocket_close(close.code, reason))
