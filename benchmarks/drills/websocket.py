"""A small WebSocket client for thousands of sockets, and for misbehaviour."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
from collections.abc import Callable

__all__ = ["Refused", "WebSocket"]

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class Refused(Exception):
    """The handshake was answered with another status than 101."""

    def __init__(self, status: int) -> None:
        super().__init__(f"refused with {status}")
        self.status = status


class WebSocket(asyncio.Protocol):
    """One connection.

    Args:
        head: the request, see ``handshake``.
        on_text: called with each text message.
        on_close: called once, when the connection has ended.
        pongs: whether pings are answered.
    """

    def __init__(
        self,
        head: bytes,
        on_text: Callable[[bytes], None],
        on_close: Callable[[], None] = lambda: None,
        *,
        pongs: bool = True,
    ) -> None:
        self.code: int | None = None
        self.reason = ""
        self.closed = False
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._head = head
        self._on_text = on_text
        self._on_close = on_close
        self._pongs = pongs
        self._buffer = bytearray()
        self._status = 0
        self._fragments = bytearray()

    @classmethod
    async def open(
        cls,
        port: int,
        path: str,
        on_text: Callable[[bytes], None] = lambda text: None,
        on_close: Callable[[], None] = lambda: None,
        *,
        pongs: bool = True,
        buffer: int = 0,
        timeout: float = 20,
    ) -> WebSocket:
        """Open a connection to a server of this machine.

        Args:
            port: of the server.
            path: the URL's path.
            on_text: called with each text message.
            on_close: called once, when the connection has ended.
            pongs: whether pings are answered.
            buffer: the size of the receive buffer in bytes; 0 for the system's.
            timeout: in seconds.

        Raises:
            Refused: the server refused the handshake.
            OSError, TimeoutError: there is no connection.
        """
        loop = asyncio.get_running_loop()
        protocol = cls(handshake(port, path), on_text, on_close, pongs=pongs)
        async with asyncio.timeout(timeout):
            connection = socket.socket()
            connection.setblocking(False)
            try:
                if buffer:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
                await loop.sock_connect(connection, ("127.0.0.1", port))
                await loop.create_connection(lambda: protocol, sock=connection)
                await protocol.opened
            except BaseException:
                connection.close()
                raise
        return protocol

    def send(self, text: str) -> None:
        """Send a text message."""
        self._write(TEXT, text.encode())

    def close(self) -> None:
        """Begin the closing handshake."""
        self._write(CLOSE, (1000).to_bytes(2))

    def abort(self) -> None:
        """Cut the connection."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._head)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._status:
            head, found, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not found:
                return
            self._status = int(head.split(b" ", 2)[1])
            self._buffer = bytearray(rest)
            if self._status != 101:
                if not self.opened.done():
                    self.opened.set_exception(Refused(self._status))
                self.transport.abort()
                return
            if not self.opened.done():
                self.opened.set_result(None)
        while self._frame():
            pass

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self.code = self.code or 1006
        if self._status == 101:
            self._on_close()
        elif not self.opened.done():
            self.opened.set_exception(ConnectionResetError("closed in the handshake"))

    def _frame(self) -> bool:
        """Handle the first frame of the buffer; return False if it is incomplete."""
        buffer = self._buffer
        if len(buffer) < 2:
            return False
        length, start = buffer[1], 2
        if length > 125:
            start = 4 if length == 126 else 10
            length = int.from_bytes(buffer[2:start])
        if len(buffer) < start or len(buffer) < start + length:
            return False
        payload = bytes(buffer[start : start + length])
        first = buffer[0]
        del buffer[: start + length]
        self._handle(first & 15, bool(first & 128), payload)
        return True

    def _handle(self, opcode: int, final: bool, payload: bytes) -> None:
        if opcode < CLOSE:
            self._fragments += payload
            if final:
                message, self._fragments = bytes(self._fragments), bytearray()
                self._on_text(message)
        elif opcode == PING:
            if self._pongs:
                self._write(PONG, payload)
        elif opcode == CLOSE:
            self.code = int.from_bytes(payload[:2]) or 1005
            self.reason = payload[2:].decode()
            self._write(CLOSE, payload[:2])
            self.transport.close()

    def _write(self, opcode: int, payload: bytes) -> None:
        length = len(payload)
        if length < 126:
            head = bytes([128 | opcode, 128 | length])
        else:
            head = bytes([128 | opcode, 128 | 126]) + length.to_bytes(2)
        if self.transport.is_closing():
            return
        # The mask is zero, which leaves the payload unchanged.
        self.transport.write(head + bytes(4) + payload)


def handshake(port: int, path: str) -> bytes:
    """Return the request that opens a WebSocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Origin: http://127.0.0.1:{port}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()
