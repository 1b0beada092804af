"""Frames as text: one JSON object a line, many lines a message.

A codec turns what arrived into commands and replies into bytes. It knows no socket and
no rule of the conversation; the Protobuf one stands in ``protocol.protobuf``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

from tiderace.protocol.messages import Command, Reply

__all__ = ["JSON", "Codec", "JSONCodec", "MalformedFrame"]


class MalformedFrame(ValueError):
    """What arrived cannot be read as commands."""


class Codec(Protocol):
    """A way of writing frames."""

    name: str
    """Stands for the format where encoded frames are kept."""
    binary: bool
    """Whether a WebSocket carries it in binary messages."""

    def decode(self, message: bytes) -> list[Command]:
        """The commands in a message, at least one.

        Raises:
            MalformedFrame: when there is none, or one cannot be read.
        """

    def encode(self, reply: Reply) -> bytes:
        """A reply, to be joined with others."""

    def join(self, replies: Iterable[bytes]) -> bytes:
        """Encoded replies as one message."""


class JSONCodec:
    """JSON lines (``spec/protocol.md``, "Codecs")."""

    name = "json"
    binary = False

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(Command)
        self._encoder = msgspec.json.Encoder()

    def decode(self, message: bytes) -> list[Command]:
        """See ``Codec.decode``."""
        try:
            # A message is mostly one line, and a newline cannot stand inside JSON text.
            commands = [
                self._decoder.decode(line)
                for line in message.split(b"\n")
                if line and not line.isspace()
            ]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedFrame(f"a line is no command: {error}") from None
        if not commands:
            raise MalformedFrame("the message is empty")
        return commands

    def encode(self, reply: Reply) -> bytes:
        """See ``Codec.encode``."""
        return self._encoder.encode(reply)

    def join(self, replies: Iterable[bytes]) -> bytes:
        """See ``Codec.join``."""
        return b"\n".join(replies)


JSON = JSONCodec()
