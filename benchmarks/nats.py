"""The part of NATS' client protocol that a fan-out over WebSocket needs."""

from __future__ import annotations

import json
import re

from benchmarks.frames import split_frames

__all__ = ["CONNECT", "Unpacker", "configuration", "message", "publication"]

# The answer of a client to the server's INFO; the server answers with PONG.
CONNECT = (
    f"CONNECT {json.dumps({'verbose': False, 'pedantic': False})}\r\n"
    "SUB fan 1\r\nPING\r\n"
)
HEAD = re.compile(rb"MSG fan 1 (\d+)\r\n")
PING = b"PING\r\n"


def configuration(port: int, client_port: int) -> str:
    """Return the configuration of a server that listens for WebSockets on ``port``."""
    return (
        f'host: "127.0.0.1"\nport: {client_port}\nlog_file: "/dev/null"\n'
        # It still sends one ping at the beginning, which Unpacker drops.
        'ping_interval: "1h"\n'
        f'websocket {{ host: "127.0.0.1", port: {port}, no_tls: true }}\n'
    )


def publication(text: str) -> str:
    """Return the text that a client sends to publish ``text``."""
    return f"PUB fan {len(text)}\r\n{text}\r\n"


def message(
    data: bytes | bytearray, start: int
) -> tuple[bytes | bytearray, int] | None:
    """Return the message at ``start`` and its end, or None if it is incomplete.

    Raises:
        ValueError: if there is anything else than a message of the group.
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
    """Extract the bytes of the protocol from WebSocket frames.

    The server cuts them into frames at arbitrary places, which differ between sockets.
    """

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return the content of the complete frames, without the server's pings.

        The server sends one ping to every client two seconds after it connected, and
        tolerates that it is not answered.

        Raises:
            ValueError: if there is anything else than unfragmented binary frames.
        """
        payloads, self._rest = split_frames(self._rest + data, 0x82)
        return b"".join(payloads).replace(PING, b"")
