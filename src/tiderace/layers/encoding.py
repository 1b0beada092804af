"""Messages as bytes and back: msgpack, with what Django projects put into messages.

One rule for all layers, the in-memory one included, so that what is accepted in a
test is accepted in production. It knows nothing of channels and groups.

What arrives is what msgpack can say: a tuple or set as a list, a UUID, Decimal, date
or naive datetime as its string (an aware datetime as a datetime), a lazy translation
as its text, an enum as its value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from django.utils.functional import Promise

__all__ = ["decode", "encode", "explained", "plain"]


def encode(message: Any) -> bytes:
    """Turn ``message`` into bytes.

    Raises:
        TypeError: for a value that has no place in a message, naming where it is.
    """
    try:
        return _encoder.encode(message)
    except (TypeError, OverflowError, ValueError, RecursionError) as error:
        raise explained(message, error, _encoder.encode) from None


def decode(data: bytes) -> Any:
    """The inverse of ``encode``, with the losses named in this module's docstring."""
    return _decoder.decode(data)


def plain(value: Any) -> Any:
    """What to encode instead of a value that msgspec does not take by itself.

    Raises:
        TypeError: when there is nothing.
    """
    if isinstance(value, str):  # SafeString and other subclasses
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Promise):  # gettext_lazy
        return str(value)
    raise TypeError(f"a {type(value).__qualname__} is no plain data")


_encoder = msgspec.msgpack.Encoder(enc_hook=plain)
_decoder = msgspec.msgpack.Decoder()


def explained(
    message: Any, error: Exception, encode: Callable[[Any], bytes]
) -> TypeError:
    """The error for a message that cannot be encoded: where in it, what, what to do.

    Args:
        message: all of it.
        error: what ``encode`` raised for it.
        encode: fails for the part that is at fault as well.
    """
    if isinstance(error, RecursionError):
        return TypeError(
            "the message cannot be sent: it contains itself, or is nested too deeply"
        )
    where, value = _culprit(message, "message", encode)
    return TypeError(
        f"the message cannot be sent: {where} is a {type(value).__qualname__} "
        f"({error}); send plain data instead, such as an object's primary key"
    )


def _culprit(value: Any, where: str, encode: Callable[[Any], bytes]) -> tuple[str, Any]:
    """The innermost part of ``value`` that cannot be encoded, and the way to it."""
    if isinstance(value, Mapping):
        for key in value:
            if not _encodes({key: None}, encode):
                return f"a key of {where}", key
        parts = [(f"{where}[{key!r}]", item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        parts = [(f"{where}[{index}]", item) for index, item in enumerate(value)]
    else:
        return where, value
    for path, item in parts:
        if not _encodes(item, encode):
            return _culprit(item, path, encode)
    return where, value


def _encodes(value: Any, encode: Callable[[Any], bytes]) -> bool:
    try:
        encode(value)
    except (TypeError, OverflowError, ValueError):
        return False
    return True
