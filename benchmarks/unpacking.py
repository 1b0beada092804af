"""Unpacks the streams of servers that cut them into pieces differently per socket.

Such a server joins what has gathered for a client, so the bytes of two clients differ
although their messages are the same.
"""

from __future__ import annotations

from benchmarks.frames import split_frames

__all__ = ["Chunks", "Lines"]


class Lines:
    """Unpacks WebSocket text messages of one or several lines; each line gets its end."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return the lines of the complete frames.

        Raises:
            ValueError: if there is anything else than unfragmented text frames.
        """
        payloads, self._rest = split_frames(self._rest + data, 0x81)
        return b"".join(payload.rstrip(b"\n") + b"\n" for payload in payloads)


class Chunks:
    """Unpacks the body of an HTTP response with chunked encoding."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return the content of the complete chunks.

        Raises:
            ValueError: if there is anything else, or the body ends.
        """
        data = self._rest + data
        pieces, position = [], 0
        while (end := data.find(b"\r\n", position)) >= 0:
            size, body = int(data[position:end], 16), end + 2
            if len(data) < body + size + 2:
                break
            if not size or data[body + size : body + size + 2] != b"\r\n":
                raise ValueError(f"not a chunk: {data[position:][:40]!r}")
            pieces.append(data[body : body + size])
            position = body + size + 2
        self._rest = data[position:]
        return b"".join(pieces)
