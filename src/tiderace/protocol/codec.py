"""The contract of a codec, and JSON: one object a line, many lines a message."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Protocol

import msgspec

from tiderace.history import Publication
from tiderace.json_compat import loads, well_formed_json
from tiderace.protocol.messages import ClientInfo, Command, MalformedCommand, Reply

_METHODS = Command.__struct_fields__[1:]

# A string, with or without its end, or a bracket.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)


class MalformedFrame(ValueError):
    """A message cannot be decoded into commands."""


class Codec(Protocol):
    """Decodes messages into commands, and encodes replies."""

    binary: bool
    """Whether a WebSocket carries it in binary messages."""

    def decode(self, message: bytes) -> list[Command]:
        """Return the commands in a message, at least one.

        One with an id and a malformed request is a ``MalformedCommand``.

        Raises:
            MalformedFrame: when there is none, or one has no readable id.
        """

    def encode(self, reply: Reply) -> bytes:
        """Return a reply as a frame, to be joined with others."""

    def encode_publication(
        self, channel: str, publication: Publication, *, offsets: bool
    ) -> bytes:
        """Return the push of a publication as a frame, with its offset if it has any."""

    def join(self, frames: Iterable[bytes]) -> bytes:
        """Return frames as one message."""


class JSONCodec:
    """JSON lines (``spec/protocol.md``, "Codecs")."""

    binary = False
    # Between the frames of a message.
    separator = b"\n"

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(Command)
        self._encoder = msgspec.json.Encoder()

    def decode(self, message: bytes) -> list[Command]:
        # A message is mostly one line, and a newline cannot stand inside JSON text.
        if b"\n" not in message:
            try:
                return [self._decoder.decode(message)]
            except (ValueError, RecursionError):
                pass  # repaired below, or refused
        lines = [line for line in message.split(b"\n") if line and not line.isspace()]
        try:
            commands = [self._decoder.decode(line) for line in lines]
        except (ValueError, RecursionError):
            commands = [_repaired(line) for line in lines]
        if not commands:
            raise MalformedFrame("the message is empty")
        return commands

    def encode(self, reply: Reply) -> bytes:
        return self._encoder.encode(reply)

    def encode_publication(
        self, channel: str, publication: Publication, *, offsets: bool
    ) -> bytes:
        # A template takes a third of the time of three structs and an encoder.
        data, info = publication.data, publication.info
        text = data if isinstance(data, str) else data.decode()
        if info is not None:
            text += f',"info":{_normal_info(info)}'
        if offsets:
            text += f',"offset":{publication.position.offset}'
        if publication.tags:
            text += f',"tags":{_text(dict(publication.tags))}'
        milliseconds = int(publication.time * 1000)
        if milliseconds:
            text += f',"time":{milliseconds}'
        start = f'{{"push":{{"channel":{_quoted(channel)},"pub":{{"data":'
        return f"{start}{text}}}}}}}".encode()

    def join(self, frames: Iterable[bytes]) -> bytes:
        return self.separator.join(frames)


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()


_quoted = lru_cache(maxsize=4096)(_text)


@lru_cache(maxsize=4096)
def _normal_info(info: str) -> str:
    """Return the info of a publication with the fields of ``ClientInfo``, and no others."""
    return _text(msgspec.json.decode(info, type=ClientInfo))


def _repaired(line: bytes) -> Command:
    """Return a command with lone surrogates replaced, or else what can be read of it.

    Raises:
        MalformedFrame: when its id or method cannot be read.
    """
    try:
        command: Command = loads(line, Command)
        return command
    except ValueError as error:
        why = str(error)
    try:
        fields = msgspec.json.decode(well_formed_json(_outline(line)), type=dict)
    except ValueError:
        fields = {}
    name = next((each for each in _METHODS if each in fields), "")
    number = fields.get("id", 0)
    if not name or type(number) is not int or number < 0:
        raise MalformedFrame(f"a line is no command: {why}")
    return MalformedCommand(id=number, name=name, why=why)


def _outline(line: bytes) -> bytes:
    """Return a JSON object with null for the objects and arrays in it, of any depth."""
    depth, place, parts = 0, 0, []
    for token in _TOKEN.finditer(line):
        if token[0] in b"[{":
            depth += 1
            if depth == 2:
                parts.append(line[place : token.start()])
        elif token[0] in b"]}":
            depth -= 1
            if depth == 1:
                parts.append(b"null")
                place = token.end()
    if depth < 2:
        parts.append(line[place:])
    return b"".join(parts)


JSON = JSONCodec()
