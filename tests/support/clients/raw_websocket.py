"""A WebSocket client that may break the protocol, and uvicorn as its server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import socket
import ssl
import threading
from collections import defaultdict
from types import TracebackType
from typing import Self

import uvicorn

from support.waiting import wait_until
from tiderace.server import WebSocketProtocol

KEY = base64.b64encode(b"the sample nonce")
MASK = b"\x37\xfa\x21\x3d"

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA


def client_frame(opcode, payload=b"", *, final=True, reserved=0, mask=MASK):
    """Return a client frame; ``mask=None`` makes an unmasked, invalid one."""
    first = (0x80 if final else 0) | reserved << 4 | opcode
    masked = 0x80 if mask is not None else 0
    length = len(payload)
    if length < 126:
        head = bytes((first, masked | length))
    elif length < 65536:
        head = bytes((first, masked | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((first, masked | 127)) + length.to_bytes(8, "big")
    if mask is None:
        return head + payload
    key = itertools.cycle(mask)
    return head + mask + bytes(byte ^ next(key) for byte in payload)


def close_payload(code, reason=b""):
    return code.to_bytes(2, "big") + reason


# Certificates are not what is tested here.
_trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_trusting.check_hostname = False
_trusting.verify_mode = ssl.CERT_NONE


class RawWebSocket:
    """One connection. ``head`` is the server's answer to the handshake."""

    def __init__(self, port, path="/", *, headers=(), tls=False, **changes):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        if tls:
            self.socket = _trusting.wrap_socket(self.socket)
        self._buffer = b""
        self._send_request(path, headers, changes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def _send_request(self, path, headers, changes):
        fields = {
            "Host": "127.0.0.1",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": KEY.decode(),
            "Sec-WebSocket-Version": "13",
        }
        fields.update(
            {name.replace("_", "-"): value for name, value in changes.items()}
        )
        pairs = [*((n, v) for n, v in fields.items() if v is not None), *headers]
        lines = "".join(f"{name}: {value}\r\n" for name, value in pairs)
        self.send(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())

    def send(self, data):
        self.socket.sendall(data)

    def frame(self, opcode, payload=b"", **bits):
        self.send(client_frame(opcode, payload, **bits))

    def say(self, text):
        self.frame(TEXT, text.encode())

    def read_head(self):
        """Return the status and the headers (lower-case names) of the response."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        pairs = (header.partition(": ") for header in lines)
        return int(line.split()[1]), {name.lower(): value for name, _, value in pairs}

    def open(self):
        status, _ = self.read_head()
        assert status == 101, status
        return self

    def read_frame(self):
        """Return the first byte of the next frame and its payload."""
        first, second = self._take(2)
        assert second < 128, "a server does not mask"
        if second == 126:
            second = int.from_bytes(self._take(2), "big")
        elif second == 127:
            second = int.from_bytes(self._take(8), "big")
        return first, self._take(second)

    def hear(self):
        first, payload = self.read_frame()
        assert first == 0x80 | TEXT, (first, payload)
        return payload.decode()

    def read_close(self):
        """Return code and reason of the next frame, a close."""
        first, payload = self.read_frame()
        assert first == 0x80 | CLOSE, (first, payload)
        if not payload:
            return None, ""
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()

    def read_rest(self):
        """Return all bytes up to the end of the connection."""
        with contextlib.suppress(EOFError):
            while True:
                self._more()
        rest, self._buffer = self._buffer, b""
        return rest

    def vanish(self):
        """Reset the connection without a close frame."""
        linger = b"\x01\0\0\0\0\0\0\0"
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()

    def _take(self, size):
        while len(self._buffer) < size:
            self._more()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _more(self):
        data = self.socket.recv(65536)
        if not data:
            raise EOFError(f"the server has hung up; left over: {self._buffer!r}")
        self._buffer += data


class RawServer:
    """uvicorn in a thread, with a path for each test's application.

    It listens to a port of TCP, or with the option ``uds`` to a Unix socket.
    """

    def __init__(self, protocol=WebSocketProtocol, **options):
        self.journal = defaultdict(list)
        self._applications = {}
        listeners = None
        if "uds" not in options:
            listeners = [socket.create_server(("127.0.0.1", 0))]
            self.port = listeners[0].getsockname()[1]
        options = {"log_config": None, "ws_per_message_deflate": False, **options}
        self.config = uvicorn.Config(
            self._dispatch, ws=protocol, lifespan="off", interface="asgi3", **options
        )
        self.server = uvicorn.Server(self.config)
        self._thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": listeners}
        )

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self.server.started, what="the server's start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self):
        self.server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive(), "the server did not stop"

    # No coroutine function: its coroutine would hold the scope.
    def _dispatch(self, scope, receive, send):
        return self._applications[scope["path"]](scope, receive, send)

    def serve(self, application):
        """Serve ``application`` at a new path; return the path."""
        path = f"/{len(self._applications)}/"
        self._applications[path] = application
        return path

    def connect(self, application, **changes):
        """Serve ``application`` and send it an opening request."""
        return RawWebSocket(self.port, self.serve(application), **changes)

    def open(self, application, **changes):
        """The same, and read the response 101."""
        return self.connect(application, **changes).open()

    def protocol_of(self, client):
        """The server's side of a connection."""
        address = client.socket.getsockname()
        (found,) = [
            protocol
            for protocol in list(self.server.server_state.connections)
            if protocol.transport.get_extra_info("peername") == address
        ]
        return found


async def accept(receive, send, **answer):
    event = await receive()
    assert event["type"] == "websocket.connect", event
    await send({"type": "websocket.accept", **answer})


async def echo(scope, receive, send):
    """Echo every message until the client disconnects."""
    await accept(receive, send)
    while (event := await receive())["type"] == "websocket.receive":
        payload = {key: event[key] for key in ("text", "bytes") if key in event}
        await send({"type": "websocket.send", **payload})


class Journalist:
    """An application that accepts and records its events."""

    def __init__(self):
        self.events = []

    async def __call__(self, scope, receive, send):
        self.events.append(await receive())
        await send({"type": "websocket.accept"})
        while self.events[-1]["type"] != "websocket.disconnect":
            self.events.append(await receive())

    @property
    def ended(self):
        return self.events and self.events[-1]["type"] == "websocket.disconnect"

    def disconnect(self):
        """Wait for the disconnect event and return it."""
        wait_until(lambda: self.ended, what="the disconnect event")
        return self.events[-1]


LOOPS = ("asyncio", "uvloop")


def forever():
    """Return a future that never completes."""
    return asyncio.get_running_loop().create_future()
