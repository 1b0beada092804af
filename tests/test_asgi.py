"""ASGI events, built by pure functions."""

from __future__ import annotations

import asyncio

import pytest
from asgiref.compatibility import is_double_callable
from hypercorn.utils import is_asgi

from tiderace import asgi
from tiderace.consumer import AsyncConsumer
from tiderace.routing import URLRouter
from tiderace.security.websocket import AllowedHostsOriginValidator, OriginValidator
from tiderace.topics import TopicsEndpoint


def test_accept_always_contains_its_subprotocol():
    assert asgi.websocket_accept() == {"type": "websocket.accept", "subprotocol": None}
    assert asgi.websocket_accept("chat")["subprotocol"] == "chat"


def test_accept_contains_headers_only_when_there_are_any():
    assert "headers" not in asgi.websocket_accept(headers=[])
    assert asgi.websocket_accept(headers=((b"x-a", b"1"),))["headers"] == [
        (b"x-a", b"1")
    ]


def test_text_takes_precedence_over_bytes():
    assert asgi.websocket_send("text", b"bytes") == {
        "type": "websocket.send",
        "text": "text",
    }


def test_empty_text_and_empty_bytes_are_sent():
    assert asgi.websocket_send("") == {"type": "websocket.send", "text": ""}
    assert asgi.websocket_send(None, b"") == {"type": "websocket.send", "bytes": b""}


def test_a_message_without_text_and_bytes_is_refused():
    with pytest.raises(
        ValueError, match="You must pass one of bytes_data or text_data"
    ):
        asgi.websocket_send()


@pytest.mark.parametrize("code", [None, True])
def test_a_close_without_a_code_has_no_code_in_its_event(code):
    assert asgi.websocket_close(code) == {"type": "websocket.close"}


@pytest.mark.parametrize("code", [0, 1000, 4001])
def test_a_close_contains_its_code(code):
    assert asgi.websocket_close(code) == {"type": "websocket.close", "code": code}


def test_a_close_contains_its_reason_unless_it_is_empty():
    assert asgi.websocket_close(4001, "bye")["reason"] == "bye"
    assert asgi.websocket_close(4001, "half \ud83d")["reason"] == "half \ufffd"
    assert "reason" not in asgi.websocket_close(4001, "")


DENIAL = {"extensions": {"websocket.http.response": {}}}


async def refused(scope, **options):
    """Refuse a connection; return the events that were sent."""
    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(event):
        sent.append(event)

    assert await asgi.refuse(scope, receive, send, 429, "caf\u00e9", **options)
    return sent


async def test_a_refused_request_gets_a_text_with_its_length_in_bytes():
    start, body = await refused({"type": "http"}, headers=[(b"retry-after", b"1")])

    assert start["type"] == "http.response.start"
    assert start["status"] == 429
    assert (b"content-length", b"5") in start["headers"]
    assert (b"retry-after", b"1") in start["headers"]
    assert body == {"type": "http.response.body", "body": b"caf\xc3\xa9"}


async def test_a_refused_handshake_gets_a_denial_response():
    start, body = await refused({"type": "websocket", **DENIAL})

    assert start["type"] == "websocket.http.response.start"
    assert body["type"] == "websocket.http.response.body"


async def test_a_handshake_is_closed_where_the_server_sends_no_response():
    assert await refused({"type": "websocket"}) == [{"type": "websocket.close"}]


async def test_a_refusal_with_a_close_code_accepts_the_socket_first():
    accept, close = await refused({"type": "websocket"}, close=(4429, "too many"))

    assert accept["type"] == "websocket.accept"
    assert close == {"type": "websocket.close", "code": 4429, "reason": "too many"}


async def test_a_disconnected_client_gets_no_refusal():
    async def receive():
        return {"type": "websocket.disconnect", "code": 1006}

    async def send(event):
        raise AssertionError(event)

    assert not await asgi.refuse({"type": "websocket"}, receive, send, 429, "no")


@pytest.mark.parametrize(
    ("scope", "able"),
    [
        ({}, False),
        ({"extensions": None}, False),
        ({"extensions": {}}, False),
        ({"extensions": {"websocket.http.response": {}}}, True),
    ],
)
def test_the_scope_shows_whether_the_server_supports_a_denial_response(scope, able):
    assert asgi.can_deny_with_response(scope) is able


class Connection:
    """uvicorn's: ``send`` is a method of what has the transport."""

    def __init__(self, *unread):
        self.transport = self
        self._unread = iter(unread)
        self.cut = asyncio.Event()

    def get_write_buffer_size(self):
        return next(self._unread)

    def abort(self):
        self.cut.set()

    async def send(self, event):
        raise AssertionError("nothing is to be sent")


async def test_a_client_is_cut_when_it_reads_no_more_of_its_response(monkeypatch):
    monkeypatch.setattr(asgi, "_READ_TIMEOUT", 0)
    connection = Connection(300, 200, 100, 100)

    asgi.abort_if_stalled(connection.send)

    await asyncio.wait_for(connection.cut.wait(), 10)


async def test_a_client_that_has_read_its_response_is_not_cut(monkeypatch):
    monkeypatch.setattr(asgi, "_READ_TIMEOUT", 0)
    connection = Connection(300, 0)

    asgi.abort_if_stalled(connection.send)
    await asyncio.sleep(0.01)

    assert not connection.cut.is_set()


async def test_the_rest_of_a_response_is_left_to_servers_that_show_no_transport():
    async def send(event):
        raise AssertionError("nothing is to be sent")

    asgi.abort_if_stalled(send)


@pytest.mark.parametrize(
    ("client", "address"),
    [
        (None, "unknown"),
        (("127.0.0.1", 5000), "127.0.0.1:5000"),
        (["::1", 5000], "::1:5000"),
    ],
)
def test_the_client_address_is_that_of_the_scope(client, address):
    assert asgi.client_address({"client": client}) == address


def test_a_connection_is_described_without_its_query_string():
    scope = {
        "type": "websocket",
        "path": "/ws/",
        "query_string": b"token=secret",
        "client": ("10.0.0.1", 5000),
    }

    assert asgi.describe(scope) == "websocket '/ws/' from 10.0.0.1:5000"


def test_a_path_cannot_add_a_line_to_the_log():
    scope = {"type": "websocket", "path": "/ws/\nERROR all is lost", "client": None}

    assert "\n" not in asgi.describe(scope)


def test_a_workers_channel_is_described_by_its_name():
    assert asgi.describe({"type": "channel", "channel": "thumbs"}) == "channel 'thumbs'"


@pytest.mark.parametrize(
    "application",
    [
        AsyncConsumer.as_asgi(),
        TopicsEndpoint.as_asgi(),
        URLRouter([]),
        OriginValidator(URLRouter([]), ["*"]),
        AllowedHostsOriginValidator(URLRouter([])),
    ],
    ids=["consumer", "endpoint", "router", "origins", "hosts"],
)
def test_servers_recognise_an_outermost_application(application):
    assert is_asgi(application)
    assert not is_double_callable(application)
