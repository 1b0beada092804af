"""HTTP connections of a server whose clients stop reading or sending."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from support.clients.raw_websocket import (
    KEY,
    LOOPS,
    TEXT,
    RawServer,
    RawWebSocket,
    client_frame,
    echo,
)
from support.waiting import wait_until
from tiderace import asgi
from tiderace.routing import ProtocolTypeRouter
from tiderace.server import HttpProtocol, WebSocketProtocol

TIMEOUT = 0.2


class Impatient(HttpProtocol):
    """The class, with a deadline that a test can wait for."""

    head_timeout = TIMEOUT
    checks = 0

    def _check_head(self, *last):
        Impatient.checks += 1
        super()._check_head(*last)


@pytest.fixture(scope="module", params=LOOPS)
def server(request):
    with RawServer(WebSocketProtocol, loop=request.param, http=Impatient) as running:
        yield running


def client_of(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def read_ok(client):
    data = b""
    while not data.endswith(b"ok"):
        data += client.recv(65536)
    assert data.startswith(b"HTTP/1.1 200")


def is_cut(client):
    try:
        return not client.recv(65536)
    except ConnectionResetError:
        return True


async def ok(scope, receive, send):
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_client_that_sends_no_whole_request_is_cut(server, begun):
    with client_of(server) as client:
        client.sendall(begun)

        assert is_cut(client)


def test_a_request_with_too_many_headers_is_refused(server):
    headers = "a: b\r\n" * 300
    with client_of(server) as client:
        client.sendall(f"GET / HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())

        assert client.recv(65536).startswith(b"HTTP/1.1 400 ")


def test_a_client_that_leaves_its_second_request_unfinished_is_cut(server):
    path = server.serve(ok)
    with client_of(server) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\nGET".encode())
        read_ok(client)
        client.sendall(b" /")

        assert is_cut(client)


def test_a_response_may_take_longer_than_the_request(server):
    async def slow(scope, receive, send):
        enough = Impatient.checks + 3
        while Impatient.checks < enough:  # noqa: ASYNC110 (a class has no event loop)
            await asyncio.sleep(0.01)
        await ok(scope, receive, send)

    path = server.serve(slow)
    with client_of(server) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

        read_ok(client)


def test_a_websocket_has_no_deadline_for_a_request(server):
    with RawWebSocket(server.port, server.serve(echo)) as client:
        client.open()
        with client_of(server) as silent:
            assert is_cut(silent)  # it came later
        client.say("still here")

        assert client.hear() == "still here"


@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_without_a_request_is_closed_when_the_server_stops(loop):
    with (
        RawServer(loop=loop, http=HttpProtocol) as running,
        client_of(running) as client,
    ):
        connections = running.server.server_state.connections
        wait_until(lambda: len(connections) == 1, what="the connection")
        running.stop()

        assert is_cut(client)


async def large(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": bytes(8_000_000)})


def test_a_client_that_does_not_read_its_response_is_cut(server, monkeypatch):
    monkeypatch.setattr(asgi, "_READ_TIMEOUT", TIMEOUT)
    path = server.serve(ProtocolTypeRouter({"http": large}))
    with client_of(server) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

        wait_until(lambda: not server.server.server_state.connections, what="the cut")


async def given_up(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    part = {"type": "http.response.body", "body": bytes(8_000_000), "more_body": True}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(TIMEOUT):
            await send(part)
            await send(part)


def test_a_response_that_is_given_up_is_cut_at_once(server, monkeypatch):
    monkeypatch.setattr(asgi, "_READ_TIMEOUT", 3600)
    path = server.serve(ProtocolTypeRouter({"http": given_up}))
    with client_of(server) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

        wait_until(lambda: not server.server.server_state.connections, what="the cut")


def opening_request(path, *lines, version=b"1.1", method=b"GET", key=True):
    first = b"%b %b HTTP/%b" % (method, path.encode(), version)
    keys = [b"Sec-WebSocket-Key: " + KEY] if key else []
    return b"\r\n".join([first, b"Host: x", *keys, *lines, b"\r\n"])


UPGRADE = b"Upgrade: websocket", b"Connection: keep-alive, Upgrade"
VERSION = b"Sec-WebSocket-Version: 13"


def test_a_message_sent_together_with_the_opening_request_is_received(server):
    request = opening_request(server.serve(echo), *UPGRADE, VERSION)
    with client_of(server) as client:
        client.sendall(request + client_frame(TEXT, b"early"))
        received = b""
        while not received.endswith(b"early"):
            received += client.recv(65536)

    assert received.startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize("loop", LOOPS)
def test_the_address_of_a_unix_socket_is_its_path_and_its_clients_have_none(
    loop, tmp_path
):
    scopes = []

    async def keep_scope(scope, receive, send):
        scopes.append(scope)
        await echo(scope, receive, send)

    path = str(tmp_path / "socket")
    with (
        RawServer(loop=loop, http=HttpProtocol, uds=path) as running,
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.connect(path)
        where = running.serve(keep_scope)
        client.sendall(opening_request(where, *UPGRADE, VERSION))
        assert client.recv(65536).startswith(b"HTTP/1.1 101 ")

    assert scopes[0]["server"] == (path, None)
    assert scopes[0]["client"] is None


@pytest.fixture(scope="module")
def plain_server():
    """The same with uvicorn's own HTTP protocol."""
    with RawServer(WebSocketProtocol) as running:
        yield running


async def ok_or_echo(scope, receive, send):
    await (echo if scope["type"] == "websocket" else ok)(scope, receive, send)


UNUSUAL = {
    "plain": {"lines": [*UPGRADE, VERSION]},
    "HTTP/1.0": {"lines": [*UPGRADE, VERSION], "version": b"1.0"},
    "POST": {"lines": [*UPGRADE, VERSION], "method": b"POST"},
    "body": {"lines": [*UPGRADE, VERSION, b"Content-Length: 3"], "body": b"abc"},
    "chunks": {"lines": [*UPGRADE, VERSION, b"Transfer-Encoding: chunked"]},
    "expect": {"lines": [*UPGRADE, VERSION, b"Expect: 100-continue"]},
    "space before the colon": {"lines": [*UPGRADE, VERSION, b"Name : value"]},
    "folded": {"lines": [*UPGRADE, VERSION, b"Name: value", b" more"]},
    "control character": {"lines": [*UPGRADE, VERSION, b"Name: va\x00lue"]},
    "carriage return": {"lines": [*UPGRADE, VERSION, b"Name: va\rlue"]},
    "line feed": {"lines": [*UPGRADE, VERSION, b"Name: value\nOther: value"]},
    "name": {"lines": [*UPGRADE, VERSION, b"Na(me: value"]},
    "no name": {"lines": [*UPGRADE, VERSION, b": value"]},
    "absolute": {"lines": [*UPGRADE, VERSION], "before_path": "http://x"},
    "version": {"lines": [*UPGRADE, b"Sec-WebSocket-Version: 12"]},
    "no key": {"lines": [*UPGRADE, VERSION], "key": False},
    "two keys": {"lines": [*UPGRADE, VERSION, b"Sec-WebSocket-Key: " + KEY]},
    "no connection": {"lines": [UPGRADE[0], VERSION]},
    "no upgrade": {"lines": [UPGRADE[1], VERSION]},
    "another upgrade": {"lines": [b"Upgrade: websockets", UPGRADE[1], VERSION]},
    "two upgrades": {"lines": [*UPGRADE, b"Upgrade: h2c", VERSION]},
    "two connections": {"lines": [*UPGRADE, b"Connection: keep-alive", VERSION]},
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_an_unusual_opening_request_is_answered_as_by_uvicorn(
    server, plain_server, kind
):
    fields = dict(UNUSUAL[kind])
    lines, body = fields.pop("lines"), fields.pop("body", b"")
    before = fields.pop("before_path", "")
    answers = []
    for each in (plain_server, server):
        request = opening_request(before + each.serve(ok_or_echo), *lines, **fields)
        with client_of(each) as client:
            client.sendall(request + body)
            answers.append(client.recv(65536).partition(b"\r\n")[0])

    assert answers[0] == answers[1]
