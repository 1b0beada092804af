"""The encoding of messages: msgpack, for the values that Django projects send.

``tiderace.layers.serializers`` adds other formats, compression and encryption. All layers
use this encoding, the in-memory one included, so that a message that is accepted in a test
is accepted in production.

A value that msgpack does not have arrives as another one: a lone surrogate (half of an
emoji, cut by ``text[:n]`` in JavaScript) as U+FFFD, a tuple or set as a list, a UUID,
Decimal, date or naive datetime as its string (an aware datetime as a datetime), a lazy
translation as its text, an enum or a NumPy scalar as its value, a subclass of str, bytes,
int or float as its base.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from tiderace.json_compat import to_plain, well_formed

T = TypeVar("T")


def encode(message: Any) -> bytes:
    """Encode ``message`` as msgpack.

    Raises:
        TypeError: for a value that cannot be encoded, with its place in the message.
    """
    try:
        return _encoder.encode(message)
    except Exception:
        return encode_with(_encoder.encode, message)


def encode_with(encode: Callable[[Any], bytes], message: Any) -> bytes:
    """Return ``encode(message)``, with U+FFFD for lone surrogates in its texts.

    Raises:
        TypeError: for a value that cannot be encoded, with its place in the message.
    """
    try:
        return _encode_well_formed(encode, message)
    except (TypeError, OverflowError, ValueError, RecursionError) as error:
        raise _encoding_error(message, error, encode) from None


def _encode_well_formed(encode: Callable[[Any], T], message: Any) -> T:
    try:
        return encode(message)
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(message, builtin_types=_NATIVE, enc_hook=to_plain)
        return encode(well_formed(plain))


# Values of msgpack that are no builtins of JSON.
_NATIVE = (bytes, bytearray, memoryview, datetime.datetime)


_encoder = msgspec.msgpack.Encoder(enc_hook=to_plain)

decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder().decode
"""Decodes msgpack; see above for the values that arrive as others."""


def _encoding_error(
    message: Any, error: Exception, encode: Callable[[Any], bytes]
) -> TypeError:
    """Return the error for a message that cannot be encoded, naming the value at fault."""
    if isinstance(error, RecursionError):
        return TypeError(
            "the message cannot be sent: it contains itself, or is nested too deeply"
        )
    where, value = find_fault(message, "message", encode)
    return TypeError(
        f"the message cannot be sent: {where} is a {type(value).__qualname__} "
        f"({error}); send plain data instead, such as an object's primary key"
    )


def find_fault(
    value: Any, where: str, encode: Callable[[Any], object]
) -> tuple[str, Any]:
    """Return the path to the innermost value that cannot be encoded, and that value.

    Args:
        value: what cannot be encoded; it does not contain itself.
        where: what it is called, the beginning of the path.
        encode: raises for what cannot be encoded.
    """
    if isinstance(value, Mapping):
        for key in value:
            if not _can_encode({key: None}, encode):
                return f"a key of {where}", key
        parts = [(f"{where}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        parts = [(f"{where}[{index}]", item) for index, item in enumerate(value)]
    else:
        return where, value
    for path, item in parts:
        if not _can_encode(item, encode):
            return find_fault(item, path, encode)
    return where, value


def _can_encode(value: Any, encode: Callable[[Any], object]) -> bool:
    try:
        _encode_well_formed(encode, value)
    except (TypeError, OverflowError, ValueError):
        return False
    return True
