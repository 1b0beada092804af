"""The delta format of Fossil: the difference between two values, as short text.

A delta is the size of the result, copies from the source (``<count>@<offset>,``), literal
parts (``<count>:<bytes>``) and a checksum of the result. Numbers are in base 64.

The encoder takes what both ends have in common first, which is most of two states of one
object, and looks for blocks of the source in the rest.
"""

from __future__ import annotations

import struct

_DIGITS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"

# Bytes of a block of the source that is looked for: twice as many are surely found, and a
# copy of fewer takes as much as the bytes.
_BLOCK = 8

# Steps after which no block is looked for, about two milliseconds: one for each place of
# the target without a block, and more for one with a block, which is extended. A state of
# which little has changed takes few.
_STEPS = 4096
_STEPS_OF_MATCH = 16

# Bytes of the source whose blocks are looked for.
_INDEXED = 65_536


def delta(source: bytes, target: bytes, *, text: bool = False) -> bytes:
    """Return what makes ``target`` of ``source``.

    Args:
        source: the value that the receiver has.
        target: the value that it is to get.
        text: whether both are UTF-8, and the delta has to be as well.
    """
    start = _common_start(source, 0, target, 0)
    shared = min(len(source), len(target)) - start
    stop = len(target) - _common_end(source, len(source), target, len(target), shared)
    if text:
        start, stop = _boundary_before(target, start), _boundary_after(target, stop)
    parts = [_number(len(target)), b"\n"]
    if start:
        parts.append(_copy(start, 0))
    if stop > start:
        _add_middle(parts, source, target, start, stop, text=text)
    if stop < len(target):
        count = len(target) - stop
        parts.append(_copy(count, len(source) - count))
    parts += [_number(_checksum(target)), b";"]
    return b"".join(parts)


def _add_middle(
    parts: list[bytes],
    source: bytes,
    target: bytes,
    start: int,
    stop: int,
    *,
    text: bool,
) -> None:
    """Add copies and literals for ``target[start:stop]``."""
    if stop - start < 2 * _BLOCK:
        parts.append(_literal(target[start:stop]))
        return
    # From the end, so that the first of equal blocks is taken.
    last = min(len(source), _INDEXED) - _BLOCK
    blocks = {
        source[place : place + _BLOCK]: place
        for place in range(last - last % _BLOCK, -1, -_BLOCK)
    }
    # Up to here everything is added.
    done = place = start
    steps = 0
    while place <= stop - _BLOCK and steps < _STEPS:
        found = blocks.get(target[place : place + _BLOCK])
        if found is None:
            place += 1
            steps += 1
            continue
        steps += _STEPS_OF_MATCH
        back = _common_end(source, found, target, place, min(found, place - done))
        first, found = place - back, found - back
        last = min(stop, first + _common_start(source, found, target, first))
        if text:
            moved = _boundary_after(target, first) - first
            first, found = first + moved, found + moved
            last = _boundary_before(target, last)
        if last - first < _BLOCK:
            place += 1
            continue
        if first > done:
            parts.append(_literal(target[done:first]))
        parts.append(_copy(last - first, found))
        done = place = last
    if done < stop:
        parts.append(_literal(target[done:stop]))


def _literal(data: bytes) -> bytes:
    return _number(len(data)) + b":" + data


def _copy(count: int, offset: int) -> bytes:
    return _number(count) + b"@" + _number(offset) + b","


def _common_start(one: bytes, place: int, other: bytes, start: int) -> int:
    """Return how many bytes are the same from the two places on."""
    most = min(len(one) - place, len(other) - start)
    if one[place : place + most] == other[start : start + most]:
        return most
    # The first difference lies in [same, most): halve it, so that C compares.
    same = 0
    while most - same > 1:
        middle = (same + most) // 2
        if one[place + same : place + middle] == other[start + same : start + middle]:
            same = middle
        else:
            most = middle
    return same


def _common_end(one: bytes, end: int, other: bytes, stop: int, most: int) -> int:
    """Return how many bytes, up to ``most``, are the same before the two ends."""
    if one[end - most : end] == other[stop - most : stop]:
        return most
    same = 0
    while most - same > 1:
        middle = (same + most) // 2
        if one[end - middle : end - same] == other[stop - middle : stop - same]:
            same = middle
        else:
            most = middle
    return same


def _boundary_before(data: bytes, place: int) -> int:
    """Return the last place up to this one that is between two characters of UTF-8."""
    while 0 < place < len(data) and data[place] & 0xC0 == 0x80:
        place -= 1
    return place


def _boundary_after(data: bytes, place: int) -> int:
    """Return the first place from this one on that is between two characters."""
    while place < len(data) and data[place] & 0xC0 == 0x80:
        place += 1
    return place


def _number(value: int) -> bytes:
    digits = bytearray()
    while True:
        digits.append(_DIGITS[value & 0x3F])
        value >>= 6
        if not value:
            digits.reverse()
            return bytes(digits)


def _checksum(data: bytes) -> int:
    """Return the sum of all 32-bit words, the first byte of each its highest."""
    padded = data + bytes(-len(data) % 4)
    words: tuple[int, ...] = struct.unpack(f">{len(padded) // 4}I", padded)
    return sum(words) & 0xFFFFFFFF
