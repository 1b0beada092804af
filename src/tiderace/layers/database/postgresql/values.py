"""Parameters of statements in PostgreSQL's binary format.

Most parameters are arrays, which psycopg encodes with several calls for each element: that
took half of a publication's time. Here a whole array takes a few calls.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Value(NamedTuple):
    """A parameter: the number of its type, and its bytes; None for NULL."""

    type: int
    data: bytes | None


_size = struct.Struct("!i").pack
_array = struct.Struct("!iiIii").pack

_NULL = _size(-1)


class _FixedSize:
    """A type whose values all have the same number of bytes, packed by ``struct``."""

    def __init__(self, number: int, array_number: int, code: str) -> None:
        self.number = number
        self.array_number = array_number
        self._code = code
        self._size = struct.calcsize(f"!{code}")
        self.encode = struct.Struct(f"!{code}").pack

    def encode_all(self, values: Sequence[Any]) -> bytes:
        """Return the elements of an array, each after its size."""
        elements = [self._size, 0] * len(values)
        elements[1::2] = values
        return struct.pack("!" + f"i{self._code}" * len(values), *elements)


class _Text(NamedTuple):
    """A type whose values have any number of bytes."""

    number: int
    array_number: int
    encode: Callable[[Any], bytes]

    def encode_all(self, values: Sequence[Any]) -> bytes:
        """Return the elements of an array, each after its size."""
        elements = [b""] * (2 * len(values))
        elements[1::2] = encoded = list(map(self.encode, values))
        elements[0::2] = map(_size, map(len, encoded))
        return b"".join(elements)


# By the name of a type: its OID and that of its arrays, which PostgreSQL never changes.
_TYPES: dict[str, _FixedSize | _Text] = {
    "boolean": _FixedSize(16, 1000, "?"),
    "integer": _FixedSize(23, 1007, "i"),
    "bigint": _FixedSize(20, 1016, "q"),
    "double precision": _FixedSize(701, 1022, "d"),
    "text": _Text(25, 1009, str.encode),
    "bytea": _Text(17, 1001, bytes),
}
_TYPE_OF = {
    int: "bigint",
    str: "text",
    bytes: "bytea",
    bool: "boolean",
    float: "double precision",
}


def as_value(value: Any) -> Value:
    """Return a value as a parameter; its class decides the type."""
    if value is None:
        return Value(0, None)
    name = _TYPE_OF.get(type(value))
    if name is None:
        # A name may be of a subclass of str.
        name = next(_TYPE_OF[each] for each in type(value).mro() if each in _TYPE_OF)
    kind = _TYPES[name]
    return Value(kind.number, kind.encode(value))


def as_array(type_name: str, values: Sequence[Any]) -> Value:
    """Return values of one type, or None, as an array.

    Args:
        type_name: as in SQL: ``"integer"``, ``"bigint"``, ``"text"``, ``"bytea"``,
            ``"boolean"`` or ``"double precision"``.
        values: at least one.
    """
    kind = _TYPES[type_name]
    has_null = None in values
    header = _array(1, int(has_null), kind.number, len(values), 1)
    if has_null:
        elements = b"".join(
            _NULL if value is None else kind.encode_all([value]) for value in values
        )
    else:
        elements = kind.encode_all(values)
    return Value(kind.array_number, header + elements)
