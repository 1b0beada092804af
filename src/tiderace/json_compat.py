"""Writes JSON text as ``json.dumps`` does, in less time; reads JSON that others wrote."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import accumulate
from typing import Any

import msgspec
from django.utils.functional import Promise

__all__ = [
    "dumps",
    "loads",
    "one_line_json",
    "require_depth",
    "to_json",
    "to_plain",
    "well_formed",
    "well_formed_json",
    "well_formed_text",
]

# json iterates over a container, msgspec reads what it stores. The two differ for a
# QueryDict, but not for these types and subclasses that do not override iteration.
_SCALARS = frozenset({str, int, float, bool, type(None)})
_DICTS = (dict.items, OrderedDict.items)
_LISTS = (list.__iter__, tuple.__iter__)


# How deep JSON of others may be nested. Python has limits of its own, which differ between
# versions (some 700 levels in 3.11, 10,000 in 3.13) and depend on the caller's depth:
# without a limit here, one process may accept what another one cannot read.
_MAX_DEPTH = 512
_ROUNDS = 8
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
# Turns all brackets into square ones; all bytes but brackets and quotes.
_AS_SQUARE = bytes.maketrans(b"{}", b"[]")
_OTHER_BYTES = bytes(set(range(256)) - set(b'[]{}"'))
_OPENING = ord("[")
_RUN = re.compile(rb"\[+|\]+")
_TOO_DEEP = "it is nested too deeply"

_BASES: dict[type, Callable[[Any], Any]] = {
    str: str.__str__,
    bytes: bytes.__bytes__,
    int: int.__int__,
    float: float.__float__,
}


def to_plain(value: Any) -> Any:
    """Return what to encode in place of a value that msgspec does not support.

    Raises:
        TypeError: when there is no such value.
    """
    for kind, plain in _BASES.items():  # SafeString and other subclasses
        if isinstance(value, kind):
            return plain(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Promise):  # gettext_lazy
        return str(value)
    if getattr(value, "shape", None) == ():  # a NumPy scalar
        item = value.item()
        return float(item) if type(item) is type(value) else item  # a longdouble
    raise TypeError(f"a {type(value).__qualname__} is not plain data")


def dumps(content: Any) -> str:
    """Return ``content`` as the JSON text that ``json.dumps`` writes.

    That is ASCII only, with a space after each comma and colon. NaN and infinity become
    ``null``, since a browser cannot parse ``NaN``. (A float with an exponent may be
    written without padding, ``1e-7`` for ``1e-07``.) Unlike ``json.dumps``, it also
    takes dates and times (ISO 8601), ``Decimal`` and ``UUID`` (as strings), sets, bytes
    (base64), dataclasses, pydantic models, enums, lazy translations and NumPy scalars.

    Raises:
        TypeError: a value has no JSON, such as a model instance.
        ValueError: a value contains itself.
    """
    try:
        data = _encode(content)
    except (TypeError, ValueError, RecursionError):
        return _dumps(content)
    # Other characters have to be escaped.
    if not data.isascii() or b"\x7f" in data or not _iterates_as_stored(content):
        return _dumps(content)
    return msgspec.json.format(data, indent=0).decode()


# An escape of JSON: of a surrogate pair, of a lone surrogate (group 1), or any other.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)", re.DOTALL
)


def well_formed_text(text: str) -> str:
    """Return text with U+FFFD for lone surrogates, as JavaScript's ``toWellFormed`` does."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def well_formed(value: Any) -> Any:
    """Return text, or plain data that contains text, with U+FFFD for lone surrogates."""
    if isinstance(value, str):
        return well_formed_text(value)
    if isinstance(value, dict):
        return {well_formed(key): well_formed(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(well_formed(each) for each in value)
    return value


def well_formed_json(data: bytes) -> bytes:
    """Return JSON with U+FFFD for lone surrogates, such as half of an emoji.

    ``JSON.stringify`` and ``json.dumps`` write them, and UTF-8 cannot express them.
    """
    return _ESCAPE.sub(lambda escape: rb"\ufffd" if escape[1] else escape[0], data)


def one_line_json(data: bytes) -> bytes:
    """Return well-formed JSON without line breaks; other text unchanged."""
    if b"\\u" in data:
        data = well_formed_json(data)
    if b"\n" in data or b"\r" in data:
        # Other text is refused where it is decoded.
        with suppress(msgspec.MsgspecError):
            data = msgspec.json.format(data, indent=-1)
    return data


_decode = msgspec.json.decode


def loads(data: bytes, kind: Any = Any) -> Any:
    """Decode JSON as a value of type ``kind``, with U+FFFD for lone surrogates.

    Raises:
        ValueError: for other data, or JSON that is nested too deeply.
    """
    require_depth(data)
    try:
        try:
            return _decode(data, type=kind)
        except ValueError:
            repaired = well_formed_json(data)
            if repaired == data:
                raise
            return _decode(repaired, type=kind)
    except RecursionError:  # of a caller that is deep in the stack itself
        raise ValueError(_TOO_DEEP) from None


def require_depth(data: str | bytes) -> None:
    """Check that JSON text is nested at most 512 levels deep.

    Raises:
        ValueError: when it is nested deeper.
    """
    text = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
    if text.count(b"[") + text.count(b"{") <= _MAX_DEPTH:
        return
    if b"\\" in text:
        text = _ESCAPED.sub(b"", text)
    # The brackets outside of strings: most strings have none and are an empty pair here.
    marks = text.translate(_AS_SQUARE, _OTHER_BYTES).replace(b'""', b"")
    marks = b"".join(marks.split(b'"')[::2])
    # Remove the innermost pairs, level by level: after a few rounds nothing is left of wide
    # data, and a few long runs of deep data.
    levels = 0
    while levels < _ROUNDS and b"[]" in marks:
        marks = marks.replace(b"[]", b"")
        levels += 1
    runs = (
        len(run) if run[0] == _OPENING else -len(run) for run in _RUN.findall(marks)
    )
    if levels + max(accumulate(runs), default=0) > _MAX_DEPTH:
        raise ValueError(_TOO_DEEP)


def to_json(content: Any) -> str:
    """Return ``content`` as JSON text without spaces, of the same values as ``dumps``.

    A ``QueryDict`` is encoded with all its values. Lone surrogates become U+FFFD.

    Raises:
        TypeError: for what JSON cannot express.
    """
    try:
        return _encode(content).decode()
    except (TypeError, ValueError, RecursionError):
        try:
            try:
                text = _dumps(_to_builtins(content))
            except (TypeError, OverflowError):  # json takes more keys, and any int
                text = _dumps(content)
            return well_formed_json(text.encode()).decode()
        except (ValueError, RecursionError) as error:
            raise TypeError(f"JSON cannot express it: {error}") from error


def _to_json_value(value: Any) -> Any:
    if isinstance(value, bool):  # a key, in JSON "true" or "false"
        raise TypeError("msgspec does not support it")
    if hasattr(value, "model_dump"):  # pydantic
        return value.model_dump(mode="json")
    return to_plain(value)


_encode = msgspec.json.Encoder(decimal_format="string", enc_hook=_to_json_value).encode


def _dumps(content: Any) -> str:
    """Encode by ``json``, which takes more values and keys than msgspec."""
    try:
        text = json.dumps(content, default=_to_builtins)
    except TypeError:  # a key that only msgspec takes; other errors are raised again
        text = json.dumps(_to_builtins(content))
    if "NaN" in text or "Infinity" in text:
        text = json.dumps(json.loads(text, parse_constant=lambda name: None))
    return text


def _to_builtins(value: Any) -> Any:
    return msgspec.to_builtins(value, str_keys=True, enc_hook=_to_json_value)


def _iterates_as_stored(content: Any) -> bool:
    """Return whether iterating over the containers in ``content`` gives what they store.

    ``content`` contains no cycle.
    """
    waiting = [content]
    for each in waiting:  # containers are appended below
        kind = type(each)
        if kind is dict or (issubclass(kind, dict) and kind.items in _DICTS):
            values = each.values()
        elif kind is list or (
            issubclass(kind, (list, tuple)) and kind.__iter__ in _LISTS
        ):
            values = each
        elif issubclass(kind, (dict, list, tuple)):
            return False
        else:
            continue
        for value in values:
            if type(value) not in _SCALARS:
                waiting.append(value)  # noqa: PERF401 (slower, for this is short)
    return True
