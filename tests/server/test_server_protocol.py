"""Our uvicorn protocol class as an application meets it, over real sockets."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref

import pytest
import uvicorn
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.server import ServerState

from support.clients.raw_websocket import (
    BINARY,
    CLOSE,
    LOOPS,
    PING,
    PONG,
    TEXT,
    Journalist,
    RawServer,
    RawWebSocket,
    accept,
    client_frame,
    close_payload,
    echo,
    forever,
)
from support.waiting import wait_until
from tiderace.routing import ProtocolTypeRouter
from tiderace.security.websocket import OriginValidator
from tiderace.server import WebSocketProtocol
from tiderace.server.certificate import development_certificate


class Impatient(WebSocketProtocol):
    """The class, with deadlines that a test can wait for."""

    __slots__ = ()

    handshake_timeout = 0.05
    close_timeout = 0.05
    refusal_timeout = 0.05


@pytest.fixture(scope="module", params=LOOPS)
def server(request):
    with RawServer(loop=request.param, ws_max_queue=8, root_path="/root") as running:
        yield running


@pytest.fixture(scope="module", params=LOOPS)
def impatient(request):
    with RawServer(Impatient, loop=request.param) as running:
        yield running


class Once:
    """An application of one sentence, whose outcome the test waits for."""

    def __init__(self, act):
        self._act = act
        self._ended = threading.Event()
        self.outcome = None

    async def __call__(self, scope, receive, send):
        try:
            self.outcome = await self._act(scope, receive, send)
        except Exception as error:
            self.outcome = error
            raise
        finally:
            self._ended.set()

    def result(self):
        assert self._ended.wait(10), "the application did not end"
        return self.outcome


# The handshake


def test_the_scope_is_that_of_asgi(server):
    async def act(scope, receive, send):
        await accept(receive, send)
        return scope

    application = Once(act)
    path = server.serve(application)
    application_path = "/root" + path
    server._applications[application_path] = application
    with RawWebSocket(
        server.port,
        path + "?a=%20b",
        headers=[("X-Tide", "high"), ("Sec-WebSocket-Protocol", "one, two")],
    ) as client:
        client.open()
        address = client.socket.getsockname()

    scope = application.result()
    assert scope["type"] == "websocket"
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.5"}
    assert scope["http_version"] == "1.1"
    assert scope["scheme"] == "ws"
    assert scope["path"] == application_path
    assert scope["raw_path"] == application_path.encode()
    assert scope["root_path"] == "/root"
    assert scope["query_string"] == b"a=%20b"
    assert (b"x-tide", b"high") in scope["headers"]
    assert scope["subprotocols"] == ["one", "two"]
    assert scope["server"] == ("127.0.0.1", server.port)
    assert scope["client"] == address
    assert scope["state"] == {}
    assert "websocket.http.response" in scope["extensions"]


@pytest.fixture(scope="module", params=LOOPS)
def plain(request):
    with RawServer(loop=request.param, ws_max_queue=8) as running:
        yield running


def test_the_path_is_unquoted(plain):
    async def act(scope, receive, send):
        await accept(receive, send)
        return scope["path"], scope["raw_path"]

    application = Once(act)
    plain._applications["/tíde/"] = application
    with RawWebSocket(plain.port, "/t%C3%ADde/") as client:
        client.open()

    assert application.result() == ("/tíde/", b"/t%C3%ADde/")


def test_a_trusted_proxy_tells_the_address_and_the_scheme_of_its_client(plain):
    async def act(scope, receive, send):
        await accept(receive, send)
        return scope["client"], scope["scheme"]

    application = Once(act)
    headers = [("X-Forwarded-For", "192.0.2.7"), ("X-Forwarded-Proto", "https")]
    with plain.open(application, headers=headers):
        pass

    assert application.result() == (("192.0.2.7", 0), "wss")


def test_an_open_socket_does_not_hold_what_its_middleware_has_not_copied(plain):
    class Value:
        pass

    known = []

    async def serve(receive, send):
        await accept(receive, send)
        await receive()

    def application(scope, receive, send):
        scope["test.value"] = value = Value()
        known.append(weakref.ref(value))
        return serve(receive, send)

    router = ProtocolTypeRouter({"websocket": OriginValidator(application, ["*"])})
    with plain.open(router):
        assert known[0]() is None


def test_the_accepted_subprotocol_and_headers_reach_the_client(plain):
    async def application(scope, receive, send):
        headers = [
            (b"x-tide", b"low"),
            (b"set-cookie", b"a=1"),
            (b"set-cookie", b"b=2"),
        ]
        await accept(receive, send, subprotocol="two", headers=headers)

    offer = [("Sec-WebSocket-Protocol", "one, two")]
    with plain.connect(application, headers=offer) as client:
        status, headers = client.read_head()

    assert status == 101
    assert headers["sec-websocket-protocol"] == "two"
    assert headers["x-tide"] == "low"
    assert headers["set-cookie"] == "b=2"  # the last one of both
    assert headers["server"] == "uvicorn"


@pytest.mark.parametrize("offer", [[], [("Sec-WebSocket-Protocol", "one")]])
def test_a_subprotocol_that_was_not_offered_is_refused(plain, offer):
    async def act(scope, receive, send):
        await accept(receive, send, subprotocol="two")

    application = Once(act)
    with plain.connect(application, headers=offer) as client:
        status, headers = client.read_head()

    assert "'two', which the client has not offered" in str(application.result())
    assert status == 500
    assert "sec-websocket-protocol" not in headers


@pytest.mark.parametrize("debug", [True, False])
def test_offered_subprotocols_without_an_answer_are_logged_while_debug_is_on(
    plain, caplog, settings, debug
):
    settings.DEBUG = debug

    async def application(scope, receive, send):
        await accept(receive, send)

    offer = [("Sec-WebSocket-Protocol", "secret")]
    with plain.connect(application, headers=offer) as client:
        client.read_head()

    assert ("none of the subprotocols" in caplog.text) is debug
    assert "secret" not in caplog.text


def test_a_line_break_in_an_accept_header_is_refused(plain):
    async def act(scope, receive, send):
        await accept(receive, send, headers=[(b"x-tide", b"low\r\nx-evil: 1")])

    application = Once(act)
    with plain.connect(application) as client:
        status, headers = client.read_head()

    assert isinstance(application.result(), ValueError)
    assert status == 500
    assert "x-evil" not in headers


def test_a_close_before_accept_is_403(plain):
    async def act(scope, receive, send):
        await receive()
        await send({"type": "websocket.close"})
        return await receive()

    application = Once(act)
    with plain.connect(application) as client:
        status, _ = client.read_head()
        assert client.read_rest() == b""

    assert status == 403
    assert application.result()["type"] == "websocket.disconnect"


def test_an_application_may_refuse_with_a_response_of_its_own(plain):
    async def application(scope, receive, send):
        await receive()
        await send(
            {
                "type": "websocket.http.response.start",
                "status": 401,
                "headers": [(b"content-type", b"text/html"), (b"x-tide", b"out")],
            }
        )
        await send({"type": "websocket.http.response.body", "body": b"<p>Who?"})

    with plain.connect(application) as client:
        status, headers = client.read_head()
        body = client.read_rest()

    assert status == 401
    assert headers["content-type"] == "text/html"
    assert headers["x-tide"] == "out"
    assert headers["content-length"] == "7"
    assert body == b"<p>Who?"


def test_a_refusal_may_come_in_pieces(plain):
    async def application(scope, receive, send):
        await receive()
        await send({"type": "websocket.http.response.start", "status": 429})
        for piece in (b"come ", b"back ", b"later"):
            event = {"type": "websocket.http.response.body", "body": piece}
            await send({**event, "more_body": True})
        await send({"type": "websocket.http.response.body"})

    with plain.connect(application) as client:
        status, headers = client.read_head()
        body = client.read_rest()

    assert (status, body) == (429, b"come back later")
    assert "content-length" not in headers


def test_a_refusal_left_unfinished_ends_the_connection(plain):
    async def application(scope, receive, send):
        await receive()
        await send({"type": "websocket.http.response.start", "status": 401})

    with plain.connect(application) as client:
        assert client.read_rest() == b""


@pytest.mark.parametrize("status", [101, 199, 600])
def test_a_status_that_is_no_refusal_is_an_error(plain, status):
    async def act(scope, receive, send):
        await receive()
        await send({"type": "websocket.http.response.start", "status": status})

    application = Once(act)
    with plain.connect(application) as client:
        answered, _ = client.read_head()

    assert isinstance(application.result(), RuntimeError)
    assert answered == 500


def test_an_error_before_accept_is_500(plain, caplog):
    async def application(scope, receive, send):
        raise LookupError("no such room")

    with plain.connect(application) as client:
        status, _ = client.read_head()

    assert status == 500
    wait_until(lambda: "no such room" in caplog.text, what="the log")


def test_an_application_that_returns_without_an_answer_is_500(plain, caplog):
    async def application(scope, receive, send):
        await receive()

    with plain.connect(application) as client:
        status, _ = client.read_head()

    assert status == 500
    assert "without completing handshake" in caplog.text


def test_an_application_that_never_answers_is_cut_off(impatient, caplog):
    async def act(scope, receive, send):
        await receive()
        return await receive()

    application = Once(act)
    with impatient.connect(application) as client:
        status, _ = client.read_head()
        client.read_rest()

    assert status == 504
    assert application.result()["code"] == 1006
    assert "neither accepted nor closed within 0.05 s" in caplog.text


def test_an_answer_that_comes_too_late_is_an_oserror(impatient):
    async def act(scope, receive, send):
        await receive()
        await receive()
        await send({"type": "websocket.accept"})

    application = Once(act)
    with impatient.connect(application) as client:
        client.read_head()

    assert isinstance(application.result(), OSError)


def test_a_message_before_accept_is_an_explained_error(plain):
    async def act(scope, receive, send):
        await receive()
        await send({"type": "websocket.send", "text": "too soon"})

    application = Once(act)
    with plain.connect(application) as client:
        client.read_head()

    assert "has to be answered first" in str(application.result())


def test_messages_sent_before_the_handshake_are_kept(plain):
    answer = asyncio.Event()
    loops = []

    async def application(scope, receive, send):
        loops.append(asyncio.get_running_loop())
        await answer.wait()
        await echo(scope, receive, send)

    with plain.connect(application) as client:
        # Uvicorn's HTTP side would swallow it if it came in one piece with the request.
        wait_until(lambda: loops, what="the handshake")
        client.say("early")
        protocol = plain.protocol_of(client)
        wait_until(lambda: protocol._unread, what="the early frame")
        loops[0].call_soon_threadsafe(answer.set)
        client.open()

        assert client.hear() == "early"


def test_the_log_has_the_path_and_the_result(plain, caplog):
    caplog.set_level(logging.INFO, "uvicorn.error")

    async def refuse(scope, receive, send):
        await send({"type": "websocket.close"})

    accepted, refused = plain.serve(echo), plain.serve(refuse)
    for path in (accepted, refused):
        with RawWebSocket(plain.port, path) as client:
            client.read_head()

    assert f'"WebSocket {accepted}" [accepted]' in caplog.text
    assert f'"WebSocket {refused}" 403' in caplog.text


def test_an_event_that_is_no_part_of_a_refusal_is_an_error(plain):
    async def act(scope, receive, send):
        await receive()
        await send({"type": "websocket.http.response.start", "status": 401})
        await send({"type": "websocket.accept"})

    application = Once(act)
    with plain.connect(application) as client:
        assert client.read_rest() == b""

    assert "is being refused" in str(application.result())


async def test_a_request_may_come_in_pieces():
    protocol, transport = protocol_without_a_server(echo)

    for byte in b"GET / HTTP/1.0\r\n\r\n":
        protocol.data_received(bytes((byte,)))

    assert transport.writes[0].startswith(b"HTTP/1.1 426 ")


async def test_a_request_without_an_end_is_431():
    protocol, transport = protocol_without_a_server(echo)

    protocol.data_received(b"GET / HTTP/1.1\r\nx: ")
    for _ in range(70):
        protocol.data_received(b"y" * 1000)

    assert len(transport.writes) == 1
    assert transport.writes[0].startswith(b"HTTP/1.1 431 ")


async def test_a_server_that_stops_refuses_a_request_that_is_not_read_yet():
    protocol, transport = protocol_without_a_server(echo)

    protocol.shutdown()

    assert transport.writes[0].startswith(b"HTTP/1.1 503 ")
    assert transport.closing


class Wire:
    """The least of a transport."""

    def __init__(self):
        self.writes = []
        self.closing = False

    def get_extra_info(self, name):
        return None

    def is_closing(self):
        return self.closing

    def resume_reading(self):
        raise AssertionError("reading was not paused")

    def write(self, data):
        self.writes.append(data)

    def close(self):
        self.closing = True


def protocol_without_a_server(application):
    """A protocol object in the running loop, and what it writes to."""
    config = uvicorn.Config(application, lifespan="off", log_config=None)
    protocol = WebSocketProtocol(config, ServerState(), {})
    transport = Wire()
    protocol.connection_made(transport)
    return protocol, transport


# Messages


def test_bytes_win_over_text_as_in_uvicorn(plain):
    async def application(scope, receive, send):
        await accept(receive, send)
        await send({"type": "websocket.send", "bytes": b"b", "text": None})
        await send({"type": "websocket.send", "bytes": None, "text": "t"})
        await receive()

    with plain.open(application) as client:
        assert client.read_frame() == (0x80 | BINARY, b"b")
        assert client.read_frame() == (0x80 | TEXT, b"t")


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_bytes_may_be_of_any_kind(plain, kind):
    async def application(scope, receive, send):
        await accept(receive, send)
        await send({"type": "websocket.send", "bytes": kind(b"\x00" * 200)})
        await receive()

    with plain.open(application) as client:
        assert client.read_frame() == (0x80 | BINARY, b"\x00" * 200)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "websocket.send"},
        {"type": "websocket.accept"},
        {"type": "websocket.http.response.start", "status": 401},
        {"type": "http.response.start"},
    ],
)
def test_an_event_out_of_order_is_an_error_and_1011(plain, event):
    async def act(scope, receive, send):
        await accept(receive, send)
        await send(event)

    application = Once(act)
    with plain.open(application) as client:
        assert client.read_close()[0] == 1011

    assert isinstance(application.result(), RuntimeError)


# The end


def test_the_applications_code_and_reason_reach_the_client(plain):
    async def act(scope, receive, send):
        await accept(receive, send)
        await send({"type": "websocket.close", "code": 4007, "reason": "go home"})
        return await receive()

    application = Once(act)
    with plain.open(application) as client:
        assert client.read_close() == (4007, "go home")
        client.frame(CLOSE, close_payload(4007))
        assert client.read_rest() == b""

    event = application.result()
    assert (event["type"], event["code"]) == ("websocket.disconnect", 4007)


def test_messages_sent_before_a_close_arrive_before_it(plain):
    async def application(scope, receive, send):
        await accept(receive, send)
        for number in range(100):
            await send({"type": "websocket.send", "text": str(number)})
        await send({"type": "websocket.close", "reason": None})

    with plain.open(application) as client:
        assert [client.hear() for _ in range(100)] == [str(n) for n in range(100)]
        assert client.read_close() == (1000, "")


def test_messages_after_the_applications_close_are_ignored(plain):
    async def act(scope, receive, send):
        await accept(receive, send)
        await send({"type": "websocket.close"})
        return [await receive(), await receive()]

    application = Once(act)
    with plain.open(application) as client:
        client.read_close()
        client.say("but …")
        client.frame(CLOSE, close_payload(1000))
        assert client.read_rest() == b""

    kinds = [event["type"] for event in application.result()]
    assert kinds == ["websocket.disconnect", "websocket.disconnect"]


@pytest.mark.parametrize("kind", ["websocket.send", "websocket.close"])
def test_an_event_after_close_is_an_error(plain, kind):
    async def act(scope, receive, send):
        await accept(receive, send)
        await send({"type": "websocket.close"})
        await send({"type": kind, "text": "too late"})

    application = Once(act)
    with plain.open(application) as client:
        client.read_close()

        assert "closing" in str(application.result())


@pytest.mark.parametrize("code", [999, 1006, 5000])
def test_a_code_that_may_not_be_sent_is_an_error_that_names_it(plain, code):
    async def act(scope, receive, send):
        await accept(receive, send)
        await send({"type": "websocket.close", "code": code})

    application = Once(act)
    with plain.open(application) as client:
        assert client.read_close()[0] == 1011

    assert str(code) in str(application.result())


def test_an_error_after_accept_is_1011(plain, caplog):
    async def application(scope, receive, send):
        await accept(receive, send)
        raise LookupError("no such move")

    with plain.open(application) as client:
        assert client.read_close()[0] == 1011

    assert "no such move" in caplog.text


def test_an_application_that_returns_has_closed(plain):
    async def application(scope, receive, send):
        await accept(receive, send)
        await send({"type": "websocket.send", "text": "that is all"})

    with plain.open(application) as client:
        assert client.hear() == "that is all"
        assert client.read_close() == (1000, "")


def test_a_lost_client_is_1006(plain):
    application = Journalist()
    plain.open(application).vanish()

    assert application.disconnect()["code"] == 1006


def test_a_client_that_hangs_up_without_a_close_frame_is_1006(plain):
    application = Journalist()
    plain.open(application).socket.close()

    assert application.disconnect()["code"] == 1006


def test_receive_returns_the_disconnect_event_again(plain):
    async def act(scope, receive, send):
        await accept(receive, send)
        return [await receive(), await receive()]

    application = Once(act)
    with plain.open(application) as client:
        client.frame(CLOSE, close_payload(4000))
        client.read_close()

    first, second = application.result()
    assert first == second
    assert first["code"] == 4000


def test_sending_to_a_client_that_is_gone_is_an_oserror(plain):
    async def act(scope, receive, send):
        await accept(receive, send)
        await receive()
        await send({"type": "websocket.send", "text": "anybody?"})

    application = Once(act)
    with plain.open(application) as client:
        client.frame(CLOSE, close_payload(1000))
        client.read_close()

    assert isinstance(application.result(), ClientDisconnected)


def test_the_error_of_a_gone_client_may_leave_the_application(plain, caplog):
    async def act(scope, receive, send):
        await accept(receive, send)
        await receive()
        await send({"type": "websocket.send", "text": "anybody?"})

    application = Once(act)
    with plain.open(application) as client:
        client.frame(CLOSE, close_payload(1000))
        client.read_close()
    application.result()

    assert "Exception in ASGI application" not in caplog.text


def test_a_client_that_does_not_answer_a_close_is_cut(impatient):
    async def application(scope, receive, send):
        await accept(receive, send)
        await send({"type": "websocket.close"})
        await receive()

    with impatient.open(application) as client:
        client.read_close()

        assert client.read_rest() == b""


def test_a_client_that_ignores_a_protocol_error_is_cut(impatient):
    with impatient.open(echo) as client:
        protocol = impatient.protocol_of(client)
        client.frame(TEXT, b"", mask=None)
        client.read_close()

        wait_until(
            lambda: protocol not in impatient.server.server_state.connections,
            what="the end of the connection",
        )


def test_a_protocol_error_after_the_applications_close_ends_the_connection(plain):
    async def application(scope, receive, send):
        await accept(receive, send)
        await send({"type": "websocket.close", "code": 4000})

    with plain.open(application) as client:
        assert client.read_close() == (4000, "")
        client.frame(TEXT, b"", mask=None)

        assert client.read_rest() == b""


def test_a_result_of_the_application_is_an_error_in_the_log(plain, caplog):
    async def application(scope, receive, send):
        await accept(receive, send)
        return 42

    with plain.open(application) as client:
        assert client.read_close() == (1000, "")

    assert "should return None, but returned '42'" in caplog.text


# Back-pressure


def test_send_waits_for_a_client_that_does_not_read(plain):
    sent = []
    frames = []

    async def application(scope, receive, send):
        await accept(receive, send)
        frames.append(scope["extensions"]["tiderace.frames"])
        for number in range(200):
            await send({"type": "websocket.send", "bytes": bytes(100_000)})
            sent.append(number)

    with plain.open(application) as client:
        wait_until(lambda: frames and frames[0].congested, what="congestion")
        assert len(sent) < 200
        assert frames[0].buffered > 0
        assert frames[0].unsent

        for _ in range(200):
            assert client.read_frame() == (0x80 | BINARY, bytes(100_000))
        assert client.read_close() == (1000, "")
    assert frames[0].buffered == 0
    assert not frames[0].unsent


def test_a_send_that_waits_ends_with_an_oserror_when_the_client_goes(plain):
    frames = []

    async def act(scope, receive, send):
        await accept(receive, send)
        frames.append(scope["extensions"]["tiderace.frames"])
        while True:
            await send({"type": "websocket.send", "bytes": bytes(100_000)})

    application = Once(act)
    client = plain.open(application)
    wait_until(lambda: frames and frames[0].congested, what="congestion")
    client.vanish()

    assert isinstance(application.result(), ClientDisconnected)


def test_a_send_that_waits_ends_with_an_oserror_at_a_close_frame(plain):
    frames = []

    async def act(scope, receive, send):
        await accept(receive, send)
        frames.append(scope["extensions"]["tiderace.frames"])
        while True:
            await send({"type": "websocket.send", "bytes": bytes(100_000)})

    application = Once(act)
    with plain.open(application) as client:
        wait_until(lambda: frames and frames[0].congested, what="congestion")
        client.frame(CLOSE, close_payload(1000))

        assert isinstance(application.result(), ClientDisconnected)


def test_a_client_that_pings_and_does_not_read_gets_one_pong_for_all(plain):
    frames = []

    async def application(scope, receive, send):
        await accept(receive, send)
        ready = scope["extensions"]["tiderace.frames"]
        while not ready.congested:
            ready.write(ready.binary_frame(bytes(100_000)))
        frames.append(ready)
        await receive()
        await receive()

    with plain.open(application) as client:
        wait_until(lambda: frames, what="congestion")
        client.send(b"".join(client_frame(PING, b"%d" % n) for n in range(1000)))
        client.say("that was all")
        protocol = plain.protocol_of(client)
        wait_until(
            lambda: protocol._connection._pending_pong == b"999", what="the last ping"
        )

        while (frame := client.read_frame()) == (0x80 | BINARY, bytes(100_000)):
            pass
        assert frame == (0x80 | PONG, b"999")


def test_a_client_is_not_read_while_the_application_does_not_read(plain):
    go_on = asyncio.Event()
    loops = []

    async def act(scope, receive, send):
        await accept(receive, send)
        loops.append(asyncio.get_running_loop())
        await go_on.wait()
        return [(await receive())["text"] for _ in range(40)]

    application = Once(act)
    with plain.open(application) as client:
        wait_until(lambda: loops, what="accept")
        protocol = plain.protocol_of(client)
        for number in range(40):
            client.say(str(number))
        wait_until(lambda: protocol.read_queue.paused, what="the pause")
        loops[0].call_soon_threadsafe(go_on.set)

        assert application.result() == [str(number) for number in range(40)]


def test_no_more_messages_are_read_ahead_than_the_server_allows(plain):
    go_on = asyncio.Event()
    loops, most = [], []

    async def act(scope, receive, send):
        await accept(receive, send)
        loops.append(asyncio.get_running_loop())
        await go_on.wait()
        received = 0
        while (await receive())["type"] == "websocket.receive":
            most.append(len(protocol.read_queue._events))
            received += 1
        return received

    application = Once(act)
    with plain.open(application) as client:
        wait_until(lambda: loops, what="accept")
        protocol = plain.protocol_of(client)
        client.send(client_frame(TEXT) * 20_000)
        wait_until(lambda: protocol.read_queue.paused, what="the pause")
        loops[0].call_soon_threadsafe(go_on.set)
        client.frame(CLOSE, close_payload(1000))

        assert client.read_close() == (1000, "")
        assert application.result() == 20_000
    assert max(most) <= 32


@pytest.mark.parametrize("end", ["application", "client"])
def test_a_close_ends_a_connection_whose_messages_are_not_read(plain, end):
    go_on = asyncio.Event()
    loops = []

    async def application(scope, receive, send):
        await accept(receive, send)
        loops.append(asyncio.get_running_loop())
        await go_on.wait()
        if end == "application":
            await send({"type": "websocket.close", "code": 4000})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    with plain.open(application) as client:
        wait_until(lambda: loops, what="accept")
        protocol = plain.protocol_of(client)
        client.send(client_frame(TEXT) * 20_000)
        wait_until(lambda: protocol.read_queue.paused, what="the pause")
        loops[0].call_soon_threadsafe(go_on.set)
        client.frame(CLOSE, close_payload(4000))

        assert client.read_close() == (4000, "")
        assert client.read_rest() == b""


def test_many_pings_at_once_are_answered_in_order(plain):
    with plain.open(echo) as client:
        client.send(b"".join(client_frame(PING, b"%d" % n) for n in range(5000)))
        client.say("after them")

        for number in range(5000):
            assert client.read_frame() == (0x80 | PONG, b"%d" % number)
        assert client.hear() == "after them"


def test_a_message_may_have_many_fragments(plain):
    with plain.open(echo) as client:
        client.frame(TEXT, b"a", final=False)
        client.send(client_frame(0, final=False) * 5000)
        client.frame(0, b"b")

        assert client.hear() == "ab"


# TLS


@pytest.fixture(scope="module", params=LOOPS)
def secure(request, tmp_path_factory):
    certificate = development_certificate("localhost", tmp_path_factory.mktemp("tls"))
    with RawServer(loop=request.param, ssl_certfile=certificate) as running:
        yield running


def test_messages_go_both_ways_over_tls(secure):
    schemes = []

    async def application(scope, receive, send):
        schemes.append(scope["scheme"])
        await echo(scope, receive, send)

    with secure.open(application, tls=True) as client:
        client.frame(BINARY, b"x" * 300_000)
        assert client.read_frame() == (0x80 | BINARY, b"x" * 300_000)
        client.frame(CLOSE, close_payload(1000))
        assert client.read_close() == (1000, "")

    assert schemes == ["wss"]


def test_a_protocol_error_is_answered_over_tls(secure):
    with secure.open(echo, tls=True) as client:
        client.frame(TEXT, b"", mask=None)

        assert client.read_close()[0] == 1002
        assert client.read_rest() == b""


# The server's end


@pytest.fixture(params=LOOPS)
def own(request):
    """A server that the test stops."""
    with RawServer(loop=request.param, timeout_graceful_shutdown=5) as running:
        yield running


def test_a_server_that_stops_closes_with_1012(own):
    application = Journalist()
    with own.open(application) as client:
        own.server.should_exit = True
        assert client.read_close() == (1012, "")
        client.frame(CLOSE, close_payload(1012))
        assert client.read_rest() == b""
        own.stop()

    assert application.disconnect()["code"] == 1012


def test_a_silent_client_does_not_delay_the_servers_end(own):
    with own.open(Journalist()) as client:
        own.stop()

        assert client.read_close() == (1012, "")


def test_a_client_that_answers_no_close_does_not_delay_the_servers_end(own):
    async def application(scope, receive, send):
        await accept(receive, send)
        await send({"type": "websocket.close"})

    with own.open(application) as client:
        client.read_close()
        started = time.monotonic()
        own.stop()

    assert time.monotonic() - started < WebSocketProtocol.close_timeout - 1


def test_a_handshake_under_way_is_answered_with_503_when_the_server_stops(own):
    started = threading.Event()

    async def application(scope, receive, send):
        await receive()
        started.set()
        await receive()

    with own.connect(application) as client:
        started.wait(10)
        own.server.should_exit = True
        status, _ = client.read_head()
        own.stop()

    assert status == 503


def test_an_application_that_never_ends_is_cancelled_at_the_servers_end():
    async def act(scope, receive, send):
        await accept(receive, send)
        try:
            await forever()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    cancelled = threading.Event()
    with RawServer(timeout_graceful_shutdown=1) as server, server.open(act) as client:
        server.stop()

        assert client.read_close() == (1012, "")
    assert cancelled.is_set()


# Keep-alive


def test_a_quiet_client_is_pinged():
    with RawServer(ws_ping_interval=0.05, ws_ping_timeout=10) as server:
        application = Journalist()
        with server.open(application) as client:
            first, _ = client.read_frame()

    assert first == 0x89


def test_a_client_that_does_not_answer_pings_is_lost():
    with RawServer(ws_ping_interval=0.05, ws_ping_timeout=0.05) as server:
        application = Journalist()
        with server.open(application) as client:
            client.read_frame()
            assert client.read_close() == (1011, "keepalive ping timeout")
            client.read_rest()

    event = application.disconnect()
    assert (event["code"], event["reason"]) == (1006, "keepalive ping timeout")


def test_an_application_that_pings_its_client_replaces_the_servers_pings():
    async def application(scope, receive, send):
        assert "tiderace.ping_interval" in scope["extensions"]
        await accept(receive, send, ping_interval=0.06)
        await receive()
        await send({"type": "websocket.send", "text": "own"})

    with (
        RawServer(ws_ping_interval=0.05, ws_ping_timeout=10) as server,
        server.open(application) as own,
        server.open(Journalist()) as other,
    ):
        assert other.read_frame()[0] == 0x89
        own.say("the interval is over")

        assert own.read_frame() == (0x81, b"own")


def test_an_application_with_much_rarer_pings_does_not_replace_the_servers():
    async def application(scope, receive, send):
        await accept(receive, send, ping_interval=0.1)
        await receive()

    with (
        RawServer(ws_ping_interval=0.05, ws_ping_timeout=10) as server,
        server.open(application) as client,
    ):
        assert client.read_frame()[0] == 0x89


# Ready frames


def test_a_text_that_the_application_takes_at_once_is_not_queued(plain):
    taken, received = [], []

    async def application(scope, receive, send):
        def take(text):
            taken.append(text)
            return text == "{}"

        scope["extensions"]["tiderace.frames"].on_text = take
        await accept(receive, send)
        received.append((await receive())["text"])
        await send({"type": "websocket.send", "text": "done"})

    with plain.open(application) as client:
        client.say("{}")
        client.say("more")
        client.read_frame()

    assert (taken, received) == (["{}", "more"], ["more"])


def test_ready_frames_and_messages_keep_their_order(plain):
    async def application(scope, receive, send):
        await accept(receive, send)
        ready = scope["extensions"]["tiderace.frames"]
        for number in range(0, 300, 3):
            await send({"type": "websocket.send", "text": str(number)})
            ready.write(ready.text_frame(b"%d" % (number + 1)))
            await send({"type": "websocket.send", "text": str(number + 2)})
        await receive()

    with plain.open(application) as client:
        assert [client.hear() for _ in range(300)] == [str(n) for n in range(300)]


def test_one_frame_is_sent_to_many_sockets(plain):
    members = []

    async def application(scope, receive, send):
        await accept(receive, send)
        members.append(scope["extensions"]["tiderace.frames"])
        if len(members) == 3:
            frame = members[0].binary_frame(b"\x00all")
            for member in members:
                member.write(frame)
        await receive()

    path = plain.serve(application)
    clients = [RawWebSocket(plain.port, path).open() for _ in range(3)]

    for client in clients:
        with client:
            assert client.read_frame() == (0x80 | BINARY, b"\x00all")


def test_a_frame_before_accept_or_after_close_is_dropped(plain):
    async def act(scope, receive, send):
        ready = scope["extensions"]["tiderace.frames"]
        ready.write(ready.text_frame(b"too soon"))
        await accept(receive, send)
        await send({"type": "websocket.close"})
        ready.write(ready.text_frame(b"too late"))
        await receive()
        return ready

    application = Once(act)
    with plain.open(application) as client:
        assert client.read_close() == (1000, "")
        client.frame(CLOSE, close_payload(1000))
        assert client.read_rest() == b""

    ready = application.result()
    ready.write(ready.text_frame(b"much too late"))
    assert ready.buffered == 0


def test_frames_for_a_slow_client_are_queued_in_order(plain):
    async def act(scope, receive, send):
        await accept(receive, send)
        ready = scope["extensions"]["tiderace.frames"]
        frame = ready.binary_frame(bytes(1000))
        for _ in range(20_000):
            ready.write(frame)
        held.append(ready.buffered)
        ready.write(ready.text_frame(b"last"))
        await receive()

    held = []
    application = Once(act)
    with plain.open(application) as client:
        wait_until(lambda: held, what="the writing")
        for _ in range(20_000):
            assert client.read_frame() == (0x80 | BINARY, bytes(1000))
        assert client.hear() == "last"

    assert held[0] > 1_000_000


# Sizes of messages


def _head(opcode, length):
    """The head of a client's frame, its mask included, whose payload never comes."""
    return bytes((0x80 | opcode, 0xFF)) + length.to_bytes(8, "big") + bytes(4)


def test_an_application_may_lower_the_size_of_its_sockets_messages(plain):
    async def act(scope, receive, send):
        assert "tiderace.max_size" in scope["extensions"]
        await accept(receive, send, max_size=1000)
        return [await receive(), await receive()]

    application = Once(act)
    with plain.open(application) as client:
        client.frame(BINARY, bytes(1000))
        client.send(_head(BINARY, 1001))
        assert client.read_close()[0] == 1009

    taken, refused = application.result()
    assert taken["bytes"] == bytes(1000)
    assert (refused["type"], refused["code"]) == ("websocket.disconnect", 1009)


def test_the_lower_size_holds_for_what_comes_before_the_answer(plain):
    answer = asyncio.Event()
    loops = []

    async def application(scope, receive, send):
        loops.append(asyncio.get_running_loop())
        await answer.wait()
        await accept(receive, send, max_size=1000)
        await receive()

    with plain.connect(application) as client:
        wait_until(lambda: loops, what="the handshake")
        client.send(_head(BINARY, 1001))
        protocol = plain.protocol_of(client)
        wait_until(lambda: protocol._unread, what="the early frame")
        loops[0].call_soon_threadsafe(answer.set)
        client.open()

        assert client.read_close()[0] == 1009


def test_an_application_cannot_raise_the_servers_size_limit():
    async def application(scope, receive, send):
        await accept(receive, send, max_size=2**40)
        await receive()

    with RawServer(ws_max_size=1000) as server, server.open(application) as client:
        client.send(_head(BINARY, 1001))

        assert client.read_close()[0] == 1009


@pytest.mark.parametrize("size", [0, -1, "1000", 1.5])
def test_an_invalid_max_size_is_an_error(plain, size):
    async def act(scope, receive, send):
        await accept(receive, send, max_size=size)

    application = Once(act)
    with plain.connect(application) as client:
        assert client.read_head()[0] == 500

    assert isinstance(application.result(), ValueError)
    assert "number of bytes" in str(application.outcome)


def test_an_option_for_compression_is_logged_as_ignored(caplog):
    from tiderace.server import protocol

    protocol._log_once_that_nothing_is_compressed.cache_clear()
    caplog.set_level(logging.INFO, "uvicorn.error")
    with RawServer(ws_per_message_deflate=True) as server:
        path = server.serve(echo)
        for _ in range(2):
            with RawWebSocket(server.port, path) as client:
                client.open()
                client.send(client_frame(CLOSE))
                client.read_close()

    assert caplog.text.count("does not compress") == 1
