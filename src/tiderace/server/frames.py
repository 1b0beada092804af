"""Builds the frames of a WebSocket server, and unmasks those of clients (RFC 6455, 5)."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

CONTINUATION = 0x0
TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA

FINAL = 0x80

_MEDIUM = Struct("!BBH").pack
_LARGE = Struct("!BBQ").pack
# The head of every short frame.
_SHORT_TEXT = [bytes((FINAL | TEXT, length)) for length in range(126)]
_SHORT_BINARY = [bytes((FINAL | BINARY, length)) for length in range(126)]

_MAX_CONTROL_PAYLOAD = 125


def text_frame(payload: bytes) -> bytes:
    """Return one whole text message as a frame; ``payload`` is UTF-8 already.

    A server's frames are not masked, so one frame may be sent to any number of sockets.
    ``payload`` is not checked; a client closes when it is not valid UTF-8.
    """
    length = len(payload)
    if length < 126:
        return _SHORT_TEXT[length] + payload
    return _long(FINAL | TEXT, length) + payload


def binary_frame(payload: bytes) -> bytes:
    """Return one whole binary message as a frame for any number of sockets."""
    length = len(payload)
    if length < 126:
        return _SHORT_BINARY[length] + payload
    return _long(FINAL | BINARY, length) + payload


def ping_frame(payload: bytes = b"") -> bytes:
    """Return a ping; the client answers with a pong of the same payload.

    Raises:
        ValueError: when ``payload`` has more than 125 bytes.
    """
    return _control(PING, payload)


def pong_frame(payload: bytes = b"") -> bytes:
    """Return the answer to a ping of ``payload``.

    Raises:
        ValueError: when ``payload`` has more than 125 bytes.
    """
    return _control(PONG, payload)


def close_frame(code: int | None = None, reason: str = "") -> bytes:
    """Return a close frame; without a code (1005 on both sides) it has no reason either.

    Raises:
        ValueError: when ``code`` must not be sent (below 1000, 1004 to 1006, 1015, above
            4999), when ``reason`` has more than 123 bytes of UTF-8, or when it comes
            without a code.
    """
    if code is None:
        if reason:
            raise ValueError(f"the close reason {reason!r} needs a close code")
        return _control(CLOSE, b"")
    if not is_sendable_code(code):
        raise ValueError(
            f"the close code {code} may not be sent; use 1000, 1001, 1008, 1011, 1012, "
            "1013 or one of your own from 4000 to 4999"
        )
    return _control(CLOSE, code.to_bytes(2, "big") + reason.encode())


def is_sendable_code(code: int) -> bool:
    """Whether a close frame may carry ``code`` (RFC 6455 7.4 and IANA's registry)."""
    return (
        1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999  # as is
    )


def _control(opcode: int, payload: bytes) -> bytes:
    length = len(payload)
    if length > _MAX_CONTROL_PAYLOAD:
        raise ValueError(
            f"a control frame carries at most {_MAX_CONTROL_PAYLOAD} bytes, not "
            f"{length}; shorten the payload or the close reason"
        )
    return bytes((FINAL | opcode, length)) + payload


def _long(first: int, length: int) -> bytes:
    if length < 65536:
        return _MEDIUM(first, 126, length)
    return _LARGE(first, 127, length)


def unmask_in_python(data: bytes, mask: bytes) -> bytes:
    """Return ``data`` without the four bytes of ``mask``, in linear time."""
    length = len(data)
    key = (mask * (length // 4 + 1))[:length]
    mixed = int.from_bytes(data, "little") ^ int.from_bytes(key, "little")
    return mixed.to_bytes(length, "little")


unmask: Callable[[bytes, bytes], bytes]
try:
    from websockets.speedups import apply_mask as unmask
except ImportError:
    unmask = unmask_in_python
