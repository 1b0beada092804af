"""One connection to a Redis server, with a transport of the test's own."""

from __future__ import annotations

import asyncio

import pytest

from tiderace.layers.redis.connection import ConnectionLost, RedisConnection, connect


class Transport:
    """Takes what is written; may refuse it, as uvloop's does once it is closed."""

    def __init__(self) -> None:
        self.written = b""
        self.refuses = False

    def set_protocol(self, protocol):
        self.protocol = protocol

    def write(self, data):
        if self.refuses:
            raise RuntimeError("the handler is closed")
        self.written += data

    def close(self):
        self.refuses = True

    abort = close


@pytest.fixture
async def link():
    made = RedisConnection(Transport(), None, timeout=5)
    yield made
    made.close()


async def test_replies_come_to_their_commands_in_order(link):
    first, second = link.execute("GET", "a"), link.execute("GET", "b")

    link.data_received(b"$1\r\n1\r\n$1")
    assert await first == b"1"
    assert not second.done()
    link.data_received(b"\r\n2\r\n")

    assert await second == b"2"


async def test_a_transport_that_is_closed_already_is_a_lost_link(link):
    waiting = link.execute("GET", "a")
    link._transport.refuses = True

    refused = link.execute("GET", "b")

    for future in (waiting, refused):
        with pytest.raises(ConnectionLost, match="the handler is closed"):
            await future
    assert link.lost


async def test_a_subscription_on_a_transport_that_is_closed_already_fails(link):
    link._transport.refuses = True

    future = link.execute_pubsub("SUBSCRIBE", [b"a"])

    with pytest.raises(ConnectionLost):
        await future


class Connection:
    """A connection of redis-py whose server goes away while it says hello."""

    def __init__(self, error):
        self.error = error
        self.disconnected = False

    async def connect(self):
        raise self.error

    async def disconnect(self, nowait=False):
        self.disconnected = True


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("the handler is closed"), "the handler is closed"),
        (ConnectionResetError("reset"), "reset"),
        (TimeoutError(), "TimeoutError"),
    ],
)
async def test_whatever_keeps_a_connection_from_opening_is_a_lost_link(error, said):
    connection = Connection(error)

    with pytest.raises(ConnectionLost, match=f"cannot connect: {said}"):
        await connect(lambda: connection, timeout=5)

    assert connection.disconnected


async def test_a_connection_that_does_not_open_in_time_is_a_lost_link():
    class Stuck(Connection):
        async def connect(self):
            await asyncio.get_running_loop().create_future()

    with pytest.raises(ConnectionLost):
        await connect(lambda: Stuck(None), timeout=0.01)
