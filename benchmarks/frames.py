"""The WebSocket frames of the load generator's clients, and what fails a run."""

from __future__ import annotations

__all__ = ["RunFailed", "masked_frame", "parse_frame", "split_frames"]


class RunFailed(Exception):
    """A message was lost, duplicate, late or out of order: there is no measurement."""


def parse_frame(
    data: bytes | bytearray, start: int
) -> tuple[bytes | bytearray, int] | None:
    """Return the text frame at ``start`` and its end, or None if it is incomplete.

    Raises:
        RunFailed: if there is anything else than an unfragmented, unmasked text message.
    """
    if len(data) < start + 2:
        return None
    if data[start] != 0x81:
        raise RunFailed(f"not a text frame: {bytes(data[start : start + 20])!r}")
    size, body = data[start + 1], start + 2
    if size == 126:
        size, body = int.from_bytes(data[body : body + 2]), body + 2
    if len(data) < body + size:
        return None
    return data[body : body + size], body + size


def split_frames(data: bytes, first: int) -> tuple[list[bytes], bytes]:
    """Return the payloads of the complete frames in ``data``, and the bytes after them.

    Args:
        data: unmasked frames of a server.
        first: the first byte of each: 0x81 for whole text messages, 0x82 for binary.

    Raises:
        ValueError: if there is another frame.
    """
    payloads, position = [], 0
    while len(data) >= position + 2:
        if data[position] != first:
            found = data[position : position + 20]
            raise ValueError(f"a frame begins with {found!r} instead of {first:#x}")
        size, body = data[position + 1], position + 2
        if size > 125:
            width = 2 if size == 126 else 8
            size, body = int.from_bytes(data[body : body + width]), body + width
        if len(data) < body + size:
            break
        payloads.append(data[body : body + size])
        position = body + size
    return payloads, data[position:]


def masked_frame(text: str) -> bytes:
    """Return a client's text frame; its mask is zero, which leaves the text unchanged."""
    payload = text.encode()
    if len(payload) < 126:
        return bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload
    return bytes([0x81, 0xFE]) + len(payload).to_bytes(2) + bytes(4) + payload
