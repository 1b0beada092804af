"""An outbox: events are sent in order, and dropped once the client is gone."""

from __future__ import annotations

import pytest

from tiderace import metrics
from tiderace.delivery.outbox import Outbox

ACCEPT = {"type": "websocket.accept", "subprotocol": None}
HELLO = {"type": "websocket.send", "text": "hello"}
CLOSE = {"type": "websocket.close"}


class Server:
    """The ``send`` of a server: keeps what it took, fails as told."""

    def __init__(self):
        self.sent = []
        self.error = None

    async def __call__(self, event):
        if self.error is not None:
            raise self.error
        self.sent.append(event)


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def outbox(server):
    return Outbox(server)


@pytest.fixture
def dropped():
    """How many events were dropped since the test began."""
    before = metrics.SENDS_AFTER_CLOSE.value
    return lambda: metrics.SENDS_AFTER_CLOSE.value - before


async def test_events_go_to_the_server_in_order(outbox, server):
    for event in (ACCEPT, HELLO, CLOSE):
        await outbox.send(event)

    assert server.sent == [ACCEPT, HELLO, CLOSE]


async def test_a_socket_is_open_between_accept_and_close(outbox):
    seen = [outbox.open]
    for event in (ACCEPT, HELLO, CLOSE):
        await outbox.send(event)
        seen.append(outbox.open)

    assert seen == [False, True, True, False]


async def test_an_accepted_socket_is_counted_once(outbox):
    before = metrics.CONNECTIONS_ACCEPTED.value

    await outbox.send(ACCEPT)
    await outbox.send(HELLO)

    assert metrics.CONNECTIONS_ACCEPTED.value == before + 1


async def test_a_message_after_the_close_is_dropped_and_counted(
    outbox, server, dropped
):
    await outbox.send(ACCEPT)
    await outbox.send(CLOSE)

    await outbox.send(HELLO)

    assert server.sent == [ACCEPT, CLOSE]
    assert dropped() == 1


async def test_a_second_close_is_dropped_and_counted(outbox, server, dropped):
    await outbox.send(CLOSE)
    await outbox.send(CLOSE)

    assert server.sent == [CLOSE]
    assert dropped() == 1


async def test_nothing_follows_a_close_that_is_still_being_sent(server, dropped):
    async def send(event):
        if event is CLOSE:
            await outbox.send(HELLO)
        await server(event)

    outbox = Outbox(send)
    await outbox.send(ACCEPT)
    await outbox.send(CLOSE)

    assert server.sent == [ACCEPT, CLOSE]
    assert dropped() == 1


async def test_an_oserror_of_the_server_is_no_error(outbox, server, dropped):
    await outbox.send(ACCEPT)
    server.error = ConnectionResetError("gone")

    await outbox.send(HELLO)

    assert outbox.lost
    assert not outbox.open
    assert dropped() == 1


async def test_send_is_not_called_again_after_the_client_is_gone(
    outbox, server, dropped
):
    await outbox.send(ACCEPT)
    server.error = OSError("gone")
    await outbox.send(HELLO)
    server.error = AssertionError("asked again")

    await outbox.send(HELLO)
    await outbox.send(CLOSE)

    assert dropped() == 3


async def test_a_socket_lost_while_it_was_accepted_is_not_open(outbox, server):
    server.error = OSError("gone")

    await outbox.send(ACCEPT)

    assert not outbox.accepted
    assert not outbox.open


async def test_a_server_error_for_an_event_out_of_order_is_raised(outbox, server):
    server.error = RuntimeError("not accepted yet")

    with pytest.raises(RuntimeError, match="not accepted yet"):
        await outbox.send(HELLO)
    assert not outbox.lost


async def test_server_errors_after_its_own_close_are_ignored(outbox, server, dropped):
    """At shutdown: closed by the server, the disconnect event is read, not handled."""
    await outbox.send(ACCEPT)
    outbox.leaving = True
    server.error = RuntimeError("unexpected message after websocket.close")

    await outbox.send(HELLO)

    assert outbox.lost
    assert dropped() == 1


async def test_a_client_that_is_leaving_is_still_sent_to(outbox, server):
    await outbox.send(ACCEPT)
    outbox.leaving = True

    await outbox.send(HELLO)

    assert server.sent == [ACCEPT, HELLO]


async def test_http_response_events_are_sent_after_a_refusal(outbox, server):
    events = [
        {"type": "websocket.http.response.start", "status": 403, "headers": []},
        {"type": "websocket.http.response.body", "body": b"no"},
    ]

    for event in events:
        await outbox.send(event)

    assert server.sent == events
    assert not outbox.open
