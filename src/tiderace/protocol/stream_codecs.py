"""How frames are written on the transports that are no WebSockets, and who knows Protobuf.

It knows what such transports do to bytes on their way, and nothing of what frames say.
"""

from __future__ import annotations

import codecs
import json
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tiderace.protocol.codec import JSONCodec
from tiderace.protocol.messages import Reply

if TYPE_CHECKING:
    from tiderace.protocol.protobuf import ProtobufCodec

__all__ = ["EVENTS", "LINES", "EventsCodec", "JSONLinesCodec", "protobuf"]

logger = logging.getLogger("tiderace.topics")


class JSONLinesCodec(JSONCodec):
    """JSON lines in ASCII, each with its end, for a response that is read as it comes.

    A client may decode such a response chunk by chunk, and so tear a character whose
    bytes came in two of them; npm's ``centrifuge`` has done that.
    """

    name = "json-lines"

    def encode(self, reply: Reply) -> bytes:
        """See ``Codec.encode``."""
        frame = _in_one_line(super().encode(reply))
        if not frame.isascii():
            frame = frame.decode().encode("ascii", "tiderace.json")
        return frame + b"\n"

    def join(self, replies: Iterable[bytes]) -> bytes:
        """See ``Codec.join``."""
        return b"".join(replies)


class EventsCodec(JSONCodec):
    """Each frame as the ``data`` of one server-sent event."""

    name = "json-events"

    def encode(self, reply: Reply) -> bytes:
        """See ``Codec.encode``."""
        return b"data: " + _in_one_line(super().encode(reply)) + b"\n\n"

    def join(self, replies: Iterable[bytes]) -> bytes:
        """See ``Codec.join``."""
        return b"".join(replies)


LINES = JSONLinesCodec()
EVENTS = EventsCodec()


def protobuf(wanted: str) -> ProtobufCodec | None:
    """The Protobuf codec; None, and a line in the log, without the extra for it.

    Args:
        wanted: what the client has named it, for the log.
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


def _in_one_line(frame: bytes) -> bytes:
    """JSON without line breaks, which stand between its tokens if anywhere."""
    if b"\r" in frame or b"\n" in frame:
        return frame.replace(b"\r", b" ").replace(b"\n", b" ")
    return frame


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Characters that are not ASCII, as JSON can say them too."""
    assert isinstance(error, UnicodeEncodeError)  # noqa: S101 (it is only for encoding)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error("tiderace.json", _escaped)
