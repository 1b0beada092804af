"""Parses the frames of a WebSocket client (RFC 6455, without extensions); no I/O."""

from __future__ import annotations

import codecs
from typing import Final, Protocol

from tiderace.server.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FINAL,
    PING,
    PONG,
    TEXT,
    is_sendable_code,
    unmask,
)

_RESERVED = 0x70
_MASKED = 0x80
_CONTROL = 0x08
_WHOLE_TEXT = FINAL | TEXT
_WHOLE_BINARY = FINAL | BINARY

# The parser pauses after this many fragments and control frames, which fill no queue.
_MAX_PARTS: Final = 256

_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class ProtocolError(Exception):
    """The client violated the protocol: close with ``code`` and ``reason``."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code
        self.reason = reason


class MessageHandler(Protocol):
    """Receives the parsed messages and control frames, in the order of the client."""

    def text_received(self, text: str) -> None:
        """Handle a complete text message."""

    def bytes_received(self, data: bytes) -> None:
        """Handle a complete binary message."""

    def ping_received(self, payload: bytes) -> None:
        """Handle a ping, which may come between the fragments of a message."""

    def close_received(self, code: int | None, reason: str) -> None:
        """Handle the client's close frame; ``code`` is None when it has none."""


class FrameParser:
    """Parses the bytes of one connection, in pieces of any size.

    UTF-8 is checked fragment by fragment, so that an invalid text ends the connection
    before it is complete. A frame that makes its message longer than ``max_size`` bytes
    fails when its head is read, before its payload is kept.

    Attributes:
        paused: no frame is parsed until ``resume``. The handler sets it when it is full,
            the parser after a number of fragments and control frames.
    """

    __slots__ = (
        "_buffer",
        "_closed",
        "_decoder",
        "_fragments",
        "_max_size",
        "_needed",
        "_parts",
        "_rest",
        "paused",
    )

    def __init__(self, max_size: int) -> None:
        self.paused = False
        self._closed = False
        self._max_size = max_size
        # The bytes after the frame at which the parser paused, and where they begin.
        self._rest = b"", 0
        # The fragments and control frames until the next pause.
        self._parts = _MAX_PARTS
        # An incomplete frame, and the number of bytes needed to continue.
        self._buffer: bytearray | None = None
        self._needed = 0
        # The fragments of an unfinished message; with a decoder if it is text.
        self._fragments: bytearray | None = None
        self._decoder: codecs.IncrementalDecoder | None = None

    def feed(self, data: bytes, handler: MessageHandler, position: int = 0) -> None:
        """Parse ``data``; call ``handler`` for each complete message or control frame.

        Bytes after a close frame are ignored. While the parser is ``paused``, bytes are
        kept.

        Raises:
            ProtocolError: when the client violated the protocol. Messages before that
                have been handled; ``feed`` must not be called again.
        """
        if self.paused:
            if not self._closed:
                rest, position = self._rest
                self._rest = rest[position:] + data, 0
            return
        if self._buffer is not None:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return
            data = bytes(self._buffer)
            self._buffer = None
        end = len(data)
        while position < end and not self.paused:
            stop = self._frame(data, position, end, handler)
            if stop == position:
                self._buffer = bytearray(data[position:])
                return
            position = stop
        if self.paused:
            self._rest = data, position

    def resume(self, handler: MessageHandler) -> None:
        """Parse what ``feed`` kept, as ``feed``, up to the next pause."""
        (data, position), self._rest = self._rest, (b"", 0)
        self.paused = self._closed
        self.feed(data, handler, position)

    def discard(self) -> None:
        """Free the memory of what is not handled."""
        self._buffer = self._fragments = self._decoder = None
        self._rest = b"", 0

    def _frame(
        self, data: bytes, position: int, end: int, handler: MessageHandler
    ) -> int:
        """Parse the frame at ``position``; return its end, or ``position`` if incomplete."""
        if end - position < 2:
            self._needed = 2
            return position
        first, second = data[position], data[position + 1]
        opcode, length = first & 0x0F, second & 0x7F
        if (
            second < _MASKED
            or (first != _WHOLE_TEXT and first != _WHOLE_BINARY)
            or self._fragments is not None
        ):
            self._check(first, second, opcode, length)
        start = position + 2
        if length > 125:
            size = 2 if length == 126 else 8
            if end - start < size:
                self._needed = 2 + size
                return position
            length = int.from_bytes(data[start : start + size], "big")
            start += size
        if opcode < _CONTROL:
            self._check_size(length)
        payload_start = start + 4
        stop = payload_start + length
        if stop > end:
            self._needed = stop - position
            return position
        payload = unmask(data[payload_start:stop], data[start:payload_start])
        if opcode < _CONTROL:
            self._data(opcode, payload, first & FINAL, handler)
        else:
            self._control(opcode, payload, handler)
        return stop

    def _check(self, first: int, second: int, opcode: int, length: int) -> None:
        """Raise ProtocolError where the first two bytes of a frame are invalid.

        Not called for valid frames that are whole messages.
        """
        self._parts -= 1
        if not self._parts:
            self._parts = _MAX_PARTS
            self.paused = True
        if first & _RESERVED:
            raise ProtocolError(1002, "a reserved bit is set")
        if not second & _MASKED:
            raise ProtocolError(1002, "a client's frame is not masked")
        if opcode >= _CONTROL:
            if opcode > PONG:
                raise ProtocolError(1002, f"opcode {opcode} is unknown")
            if not first & FINAL:
                raise ProtocolError(1002, "a control frame is fragmented")
            if length > 125:
                raise ProtocolError(1002, "a control frame is too long")
        elif opcode == CONTINUATION:
            if self._fragments is None:
                raise ProtocolError(1002, "there is no message to continue")
        elif opcode > BINARY:
            raise ProtocolError(1002, f"opcode {opcode} is unknown")
        elif self._fragments is not None:
            raise ProtocolError(1002, "the message before was not finished")

    def _check_size(self, length: int) -> None:
        if self._fragments is not None:
            length += len(self._fragments)
        if length > self._max_size:
            raise ProtocolError(
                1009, f"a message may have {self._max_size} bytes, this has {length}"
            )

    def _data(
        self, opcode: int, payload: bytes, final: int, handler: MessageHandler
    ) -> None:
        if self._fragments is None:
            if final:
                if opcode == TEXT:
                    handler.text_received(_text(payload))
                else:
                    handler.bytes_received(payload)
                return
            self._fragments = bytearray()
            self._decoder = _utf8_decoder() if opcode == TEXT else None
        self._fragments += payload
        if self._decoder is not None:
            try:
                self._decoder.decode(payload, final=bool(final))
            except UnicodeDecodeError:
                raise ProtocolError(1007, "a text message is not UTF-8") from None
        if final:
            message, decoder = self._fragments, self._decoder
            self._fragments = self._decoder = None
            if decoder is None:
                handler.bytes_received(bytes(message))
            else:
                handler.text_received(message.decode())

    def _control(self, opcode: int, payload: bytes, handler: MessageHandler) -> None:
        if opcode == PING:
            handler.ping_received(payload)
        elif opcode == CLOSE:
            code, reason = _parse_close(payload)
            self._closed = self.paused = True
            handler.close_received(code, reason)


def _text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise ProtocolError(1007, "a text message is not UTF-8") from None


def _parse_close(payload: bytes) -> tuple[int | None, str]:
    """Return the code and the reason of a close frame."""
    if not payload:
        return None, ""
    if len(payload) == 1:
        raise ProtocolError(1002, "a close frame has half a code")
    code = int.from_bytes(payload[:2], "big")
    if not is_sendable_code(code):
        raise ProtocolError(1002, f"the close code {code} may not be sent")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise ProtocolError(1007, "a close reason is not UTF-8") from None
