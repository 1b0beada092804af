"""The contract of a codec, and JSON: one object a line, many lines a message."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

from tiderace.protocol.messages import Command, Reply

__all__ = ["JSON", "Codec", "JSONCodec", "MalformedFrame"]


class MalformedFrame(ValueError):
    """A message cannot be decoded into commands."""


class Codec(Protocol):
    """Decodes messages into commands, and encodes replies."""

    name: str
    """Of the format."""
    binary: bool
    """Whether a WebSocket carries it in binary messages."""

    def decode(self, message: bytes) -> list[Command]:
        """Return the commands in a message, at least one.

        Raises:
            MalformedFrame: when there is none, or one cannot be decoded.
        """

    def encode(self, reply: Reply) -> bytes:
        """Return a reply as a frame, to be joined with others."""

    def join(self, frames: Iterable[bytes]) -> bytes:
        """Return frames as one message."""


class JSONCodec:
    """JSON lines (``spec/protocol.md``, "Codecs")."""

    name = "json"
    binary = False

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(Command)
        self._encoder = msgspec.json.Encoder()

    def decode(self, message: bytes) -> list[Command]:
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
        return self._encoder.encode(reply)

    def join(self, frames: Iterable[bytes]) -> bytes:
        return b"\n".join(frames)


JSON = JSONCodec()
