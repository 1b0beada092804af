"""A decoder of Fossil's deltas, written from the description of the format."""

from __future__ import annotations

__all__ = ["apply"]

_DIGITS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"


def apply(source: bytes, delta: bytes) -> bytes:
    """Return what a delta makes of ``source``.

    Raises:
        ValueError: for anything that is no delta of this source.
    """
    place = 0

    def number() -> int:
        nonlocal place
        value = 0
        while delta[place] in _DIGITS:
            value = value * 64 + _DIGITS.index(delta[place])
            place += 1
        return value

    def sign() -> bytes:
        nonlocal place
        place += 1
        return delta[place - 1 : place]

    size, result = number(), b""
    if sign() != b"\n":
        raise ValueError("the size has no end")
    while True:
        count, kind = number(), sign()
        if kind == b"@":
            offset = number()
            if sign() != b"," or offset + count > len(source):
                raise ValueError("a copy is beyond the source")
            result += source[offset : offset + count]
        elif kind == b":":
            result += delta[place : place + count]
            place += count
        elif kind == b";":
            if place != len(delta) or len(result) != size or count != _sum(result):
                raise ValueError("the result is another one")
            return result
        else:
            raise ValueError(f"{kind!r} is no command")


def _sum(data: bytes) -> int:
    padded = data + bytes(-len(data) % 4)
    words = [padded[at : at + 4] for at in range(0, len(padded), 4)]
    return sum(int.from_bytes(word) for word in words) % 2**32
