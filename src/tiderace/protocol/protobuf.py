"""Frames as Protobuf messages, each after its length; needs the extra ``protobuf``.

The messages of ``spec/client.proto`` have the field names of ``protocol.messages``.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message
from msgspec import UNSET, Raw

from tiderace.history import Publication
from tiderace.json_compat import one_line_json
from tiderace.protocol.client_messages import MESSAGES, PACKAGE
from tiderace.protocol.codec import MalformedFrame
from tiderace.protocol.messages import (
    Command,
    MalformedCommand,
    Pub,
    PublishRequest,
    Push,
    Reply,
)
from tiderace.protocol.session import to_pub

# The most bytes of a length: 4 times 7 bits, 256 MiB.
_LENGTH_BYTES = 4

# The key of a command's first field.
_ID = b"\x08"

Converter = Callable[[Any], Any]


def _message_classes() -> Callable[[str], type[Message]]:
    # A pool of its own: another package may have added these names already.
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(MESSAGES)

    def of(name: str) -> type[Message]:
        descriptor = pool.FindMessageTypeByName(f"{PACKAGE}.{name}")
        return message_factory.GetMessageClass(descriptor)

    return of


_class_of = _message_classes()


class ProtobufCodec:
    """Varint-delimited Protobuf (``spec/protocol.md``, "Codecs")."""

    binary = True

    def __init__(self) -> None:
        self._command = _class_of("Command")
        self._reply = _class_of("Reply")
        self._emulation = _class_of("EmulationRequest")

    def decode(self, message: bytes) -> list[Command]:
        commands = [self._decode_command(each) for each in _frames_of(message)]
        if not commands:
            raise MalformedFrame("the message is empty")
        return commands

    # The client's side, for tests of applications

    def encode_command(self, command: Command) -> bytes:
        """Return a command as a frame."""
        return _frame(self._command(), command)

    def decode_replies(self, message: bytes) -> list[Reply]:
        """Return the replies and pushes in a message of the server."""
        return [
            _struct_of(self._parse(self._reply, each), Reply)
            for each in _frames_of(message)
        ]

    # The server's side

    def _decode_command(self, data: bytes) -> Command:
        try:
            command: Command = _struct_of(self._parse(self._command, data), Command)
            return command
        except MalformedFrame as error:
            # The id comes first, if there is one, and the number of the request next.
            number, place = _length_at(data, 1) if data[:1] == _ID else (0, 0)
            fields = self._command.DESCRIPTOR.fields_by_number
            field = fields.get(data[place] >> 3) if place < len(data) else None
            if field is None or field.name == "id":
                raise
            return MalformedCommand(id=number, name=field.name, why=str(error))

    def encode(self, reply: Reply) -> bytes:
        return _frame(self._reply(), reply)

    def encode_publication(
        self, channel: str, publication: Publication, *, offsets: bool
    ) -> bytes:
        pub = to_pub(publication, offsets=offsets)
        return self.encode(Reply(push=Push(channel=channel, pub=pub)))

    def join(self, frames: Iterable[bytes]) -> bytes:
        return b"".join(frames)

    def decode_emulation(self, body: bytes) -> tuple[str, str, bytes]:
        """Return session, node and commands of an emulation request.

        Raises:
            MalformedFrame: when it cannot be decoded.
        """
        request: Any = self._parse(self._emulation, body)
        return request.session, request.node, request.data

    def _parse(self, kind: type[Message], data: bytes) -> Message:
        message = kind()
        try:
            message.ParseFromString(data)
        except DecodeError as error:
            raise MalformedFrame(f"{kind.__name__}: {error}") from None
        return message


# Frames and their lengths


def _frame(message: Any, struct: msgspec.Struct) -> bytes:
    _fill(message, struct)
    data: bytes = message.SerializeToString()
    return _varint(len(data)) + data


def _frames_of(message: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(message):
        length, place = _length_at(message, place)
        if place + length > len(message):
            raise MalformedFrame(
                f"a frame of {length} bytes has only {len(message) - place}"
            )
        yield message[place : place + length]
        place += length


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _length_at(message: bytes, place: int) -> tuple[int, int]:
    """Return the length that begins at ``place``, and the place after it."""
    number = 0
    for index, byte in enumerate(message[place : place + _LENGTH_BYTES]):
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number, place + index + 1
    raise MalformedFrame("a command's length has no end")


# From structs to messages


def _fill(message: Any, struct: msgspec.Struct) -> None:
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        if value is None or value is UNSET:
            continue
        if name not in message.DESCRIPTOR.fields_by_name:
            continue  # the push "refresh" has fewer fields than the result
        if isinstance(value, msgspec.Struct):
            part = getattr(message, name)
            part.SetInParent()  # present even without fields
            _fill(part, value)
        elif isinstance(value, Raw):
            setattr(message, name, bytes(value))
        elif isinstance(value, list):
            for each in value:
                _fill(getattr(message, name).add(), each)
        elif isinstance(value, dict):
            _fill_map(getattr(message, name), value)
        else:
            setattr(message, name, value)


def _fill_map(mapping: Any, values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, msgspec.Struct):
            _fill(mapping[key], value)
        else:
            mapping[key] = value


# From messages to structs


def _struct_of(message: Any, kind: Any) -> Any:
    converters = _converters[kind]
    return kind(
        **{
            field.name: converters[field.name](value)
            for field, value in message.ListFields()
            if field.name in converters
        }
    )


def _raw(data: bytes) -> Raw:
    """Return a client's JSON as other codecs need it: well-formed and in one line."""
    return Raw(one_line_json(data))


def _same(value: Any) -> Any:
    return value


def _map_of(kind: Any) -> Converter:
    def convert(mapping: Any) -> dict[str, Any]:
        return {key: _struct_of(value, kind) for key, value in mapping.items()}

    return convert


def _converter(annotation: Any) -> Converter:
    """Return the function that converts a field with this annotation."""
    if get_origin(annotation) in (Union, types.UnionType):
        [annotation, *_] = get_args(annotation)
    if annotation is Raw:
        return _raw
    if annotation == list[str]:
        return list
    if get_origin(annotation) is list:
        each = _register(get_args(annotation)[0])
        return lambda messages: [_struct_of(message, each) for message in messages]
    if get_origin(annotation) is dict:
        value = get_args(annotation)[1]
        return dict if value is str else _map_of(_register(value))
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        kind = _register(annotation)
        return lambda message: _struct_of(message, kind)
    return _same


_converters: dict[Any, dict[str, Converter]] = {}


def _register(kind: Any) -> Any:
    """Return the struct, after making converters for its fields."""
    if kind not in _converters:
        _converters[kind] = {}
        _converters[kind].update(
            {name: _converter(hint) for name, hint in get_type_hints(kind).items()}
        )
    return kind


_register(Command)
_register(Reply)
# Bytes of a topic are passed on as they are; the publish command makes JSON well-formed.
_converters[PublishRequest]["data"] = _converters[Pub]["data"] = Raw

PROTOBUF = ProtobufCodec()
