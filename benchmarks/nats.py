"""How a client speaks to nats-server over WebSocket: its own protocol inside the frames.

It knows NATS' client protocol as far as a fan-out needs it; nothing of crowds.
"""

from __future__ import annotations

import json
import re

__all__ = ["CONNECT", "Unpacker", "configuration", "message", "publication"]

# What a client says once the server has introduced itself; a PONG is the answer.
CONNECT = (
    f"CONNECT {json.dumps({'verbose': False, 'pedantic': False})}\r\n"
    "SUB fan 1\r\nPING\r\n"
)
HEAD = re.compile(rb"MSG fan 1 (\d+)\r\n")
PING = b"PING\r\n"


def configuration(port: int, client_port: int) -> str:
    """The settings of a server that listens for WebSockets on ``port``."""
    return (
        f'host: "127.0.0.1"\nport: {client_port}\nlog_file: "/dev/null"\n'
        # It sends one ping at the beginning all the same; see Unpacker.
        'ping_interval: "1h"\n'
        f'websocket {{ host: "127.0.0.1", port: {port}, no_tls: true }}\n'
    )


def publication(text: str) -> str:
    """What a client says so that all hear ``text``."""
    return f"PUB fan {len(text)}\r\n{text}\r\n"


def message(
    data: bytes | bytearray, start: int
) -> tuple[bytes | bytearray, int] | None:
    """The message at ``start`` and where it ends, or None while it is incomplete.

    Raises:
        ValueError: for anything else than a message of the group.
    """
    head = HEAD.match(data, start)
    if head is None:
        if data.find(b"\r\n", start) < 0:
            return None
        raise ValueError(f"not a message: {bytes(data[start : start + 40])!r}")
    end = head.end() + int(head[1])
    if len(data) < end + 2:
        return None
    return data[head.end() : end], end + 2


class Unpacker:
    """Takes the bytes of the protocol out of the frames they came in.

    A frame holds any piece of them, another one for every socket.
    """

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """What is in the frames that are complete, without the server's pings.

        It sends one to every client, two seconds after that came, which it does not
        mind to be left without an answer.

        Raises:
            ValueError: for anything else than whole binary frames.
        """
        data = self._rest + data
        pieces, position = [], 0
        while len(data) >= position + 2:
            if data[position] != 0x82:
                raise ValueError(f"not a binary frame: {data[position:][:20]!r}")
            size, body = data[position + 1], position + 2
            if size > 125:
                width = 2 if size == 126 else 8
                size, body = int.from_bytes(data[body : body + width]), body + width
            if len(data) < body + size:
                break
            pieces.append(data[body : body + size])
            position = body + size
        self._rest = data[position:]
        piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return piece.replace(PING, b"") if PING in piece else piece
