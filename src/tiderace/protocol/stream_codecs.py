"""The codecs of transports that are no WebSockets, and the Protobuf codec if installed."""

from __future__ import annotations

import codecs
import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from tiderace.history import Publication
from tiderace.protocol.codec import JSONCodec
from tiderace.protocol.messages import Reply

if TYPE_CHECKING:
    from tiderace.protocol.protobuf import ProtobufCodec

logger = logging.getLogger("tiderace.topics")


class _WrappingCodec(JSONCodec):
    """JSON for a response in parts: ``wrap`` makes a frame a part that ends by itself."""

    separator = b""

    def __init__(self, wrap: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self._wrap = wrap

    def encode(self, reply: Reply) -> bytes:
        return self._wrap(super().encode(reply))

    def encode_publication(
        self, channel: str, publication: Publication, *, offsets: bool
    ) -> bytes:
        return self._wrap(
            super().encode_publication(channel, publication, offsets=offsets)
        )


def protobuf(wanted: str) -> ProtobufCodec | None:
    """Return the Protobuf codec; without its extra, log that and return None.

    Args:
        wanted: the client's name for it, for the log.
    """
    try:
        from tiderace.protocol.protobuf import PROTOBUF
    except ImportError:
        logger.error(
            "a client speaks %s, which needs the extra: pip install "
            '"tiderace[protobuf]"; it is refused',
            wanted,
        )
        return None
    return PROTOBUF


def _as_line(frame: bytes) -> bytes:
    """Return a frame in ASCII, with its line break.

    A client may decode chunk by chunk, which breaks a character whose bytes are in two
    chunks; npm's ``centrifuge`` has done that.
    """
    frame = _in_one_line(frame)
    if not frame.isascii():
        frame = frame.decode().encode("ascii", "tiderace.json")
    return frame + b"\n"


def _as_event(frame: bytes) -> bytes:
    """Return a frame as the ``data`` of one server-sent event."""
    return b"data: " + _in_one_line(frame) + b"\n\n"


def _in_one_line(frame: bytes) -> bytes:
    """Return JSON without line breaks, which are only between its tokens."""
    if b"\r" in frame or b"\n" in frame:
        return frame.replace(b"\r", b" ").replace(b"\n", b" ")
    return frame


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Return characters that are not ASCII as escapes of JSON."""
    assert isinstance(error, UnicodeEncodeError)  # noqa: S101 (it is only for encoding)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error("tiderace.json", _escaped)

LINES = _WrappingCodec(_as_line)
EVENTS = _WrappingCodec(_as_event)
