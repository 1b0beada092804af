"""Writes JSON text as ``json.dumps`` does, in less time; reads JSON that others wrote."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from typing import Any

import msgspec
from django.core.serializers.json import DjangoJSONEncoder

__all__ = ["dumps", "loads", "well_formed_json", "well_formed_text", "without_nan"]

# json iterates over a container, msgspec reads what it stores. The two differ for a
# QueryDict, but not for these types and subclasses that do not override iteration.
_SCALARS = frozenset({str, int, float, bool, type(None)})
_DICTS = (dict.items, OrderedDict.items)
_LISTS = (list.__iter__, tuple.__iter__)

_encode = msgspec.json.Encoder(decimal_format="string").encode


def dumps(content: Any) -> str:
    """Return ``content`` as the JSON text that ``json.dumps`` writes.

    That is ASCII only, with a space after each comma and colon. NaN and infinity become
    ``null``, since a browser cannot parse ``NaN``. (A float with an exponent may be
    written without padding, ``1e-7`` for ``1e-07``.) Unlike ``json.dumps``, it also
    takes dates and times (ISO 8601), ``Decimal`` and ``UUID`` (as strings), sets, bytes
    (base64), dataclasses, enums and lazy translations.

    Raises:
        TypeError: a value has no JSON, such as a model instance.
        ValueError: a value contains itself.
    """
    try:
        data = _encode(content)
    except (TypeError, ValueError, RecursionError):
        # A subclass of str, a key that is None, a lazy translation, a lone surrogate.
        return without_nan(json.dumps(content, cls=DjangoJSONEncoder))
    # Other characters have to be escaped.
    if not data.isascii() or b"\x7f" in data or not _means_what_it_stores(content):
        return without_nan(json.dumps(content, cls=DjangoJSONEncoder))
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


def well_formed_json(data: bytes) -> bytes:
    """Return JSON with U+FFFD for lone surrogates, such as half of an emoji.

    ``JSON.stringify`` and ``json.dumps`` write them, and UTF-8 cannot express them.
    """
    return _ESCAPE.sub(lambda escape: rb"\ufffd" if escape[1] else escape[0], data)


def loads(data: bytes, kind: Any = Any) -> Any:
    """Decode JSON as a value of type ``kind``, with U+FFFD for lone surrogates.

    Raises:
        ValueError: for other data, or JSON that is nested too deeply.
    """
    try:
        try:
            return msgspec.json.decode(data, type=kind)
        except ValueError:
            repaired = well_formed_json(data)
            if repaired == data:
                raise
            return msgspec.json.decode(repaired, type=kind)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def without_nan(text: str) -> str:
    """Return JSON text with ``null`` for ``NaN`` and ``Infinity``, as msgspec writes it."""
    if "NaN" not in text and "Infinity" not in text:
        return text
    return json.dumps(json.loads(text, parse_constant=lambda name: None))


def _means_what_it_stores(content: Any) -> bool:
    """Return whether iterating over the containers in ``content`` gives what they store.

    ``content`` contains no cycle.
    """
    waiting = [content]
    for each in waiting:  # longer meanwhile
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
