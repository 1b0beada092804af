"""One connection to a Redis server, with a fake transport."""

from __future__ import annotations

import asyncio
import time

import pytest

from tiderace.layers.redis.connection import ConnectionLost, RedisConnection, connect


class Transport:
    """Collects what is written; may refuse it, as uvloop's transport does once closed."""

    def __init__(self) -> None:
        self.written = b""
        self.writes = 0
        self.refuses = False

    def set_protocol(self, protocol):
        self.protocol = protocol

    def write(self, data):
        if self.refuses:
            raise RuntimeError("the handler is closed")
        self.written += data
        self.writes += 1

    def close(self):
        self.refuses = True

    abort = close


@pytest.fixture
async def connection():
    made = RedisConnection(Transport(), None, timeout=5)
    yield made
    made.close()


async def test_replies_come_to_their_commands_in_order(connection):
    first, second = connection.execute("GET", "a"), connection.execute("GET", "b")

    connection.data_received(b"$1\r\n1\r\n$1")
    assert await first == b"1"
    assert not second.done()
    connection.data_received(b"\r\n2\r\n")

    assert await second == b"2"


async def test_commands_of_one_tick_are_sent_in_one_write():
    transport = Transport()
    connection = RedisConnection(transport, None, timeout=5)

    connection.execute("GET", "a")
    connection.execute("GET", "b")
    await asyncio.sleep(0)

    assert transport.written.count(b"GET") == 2
    assert transport.writes == 1
    connection.close()


async def test_a_reply_is_overdue_though_other_replies_come():
    connection = RedisConnection(Transport(), None, timeout=0.05)
    first, second = connection.execute("GET", "a"), connection.execute("GET", "b")
    connection.data_received(b"$1\r\n1\r\n")

    with pytest.raises(ConnectionLost, match="silent"):
        await asyncio.wait_for(second, 5)

    assert await first == b"1"


async def test_a_late_health_check_is_repeated_before_it_closes_the_connection():
    connection = RedisConnection(Transport(), None, timeout=0.3)
    loop = asyncio.get_running_loop()
    first = connection.execute("GET", "a")
    # As if it lay in the socket: it is read after the timers of the same iteration.
    loop.call_later(0.001, loop.call_soon, connection.data_received, b"$1\r\n1\r\n")

    time.sleep(0.5)  # noqa: ASYNC251 (blocks the loop)

    assert await first == b"1"
    assert not connection.lost
    second = connection.execute("GET", "b")
    with pytest.raises(ConnectionLost, match="silent"):
        await asyncio.wait_for(second, 5)


async def test_the_time_until_a_command_is_sent_counts():
    connection = RedisConnection(Transport(), None, timeout=30)

    reply = connection.execute("GET", "a", begun=asyncio.get_running_loop().time() - 30)

    with pytest.raises(ConnectionLost, match="silent"):
        await asyncio.wait_for(reply, 5)


async def test_messages_received_by_a_loop_that_stood_still_are_dropped():
    connection = RedisConnection(Transport(), None, timeout=0.05)
    subscribed = connection.execute_pubsub("SUBSCRIBE", [b"c"])
    connection.data_received(b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
    await subscribed

    time.sleep(0.2)  # noqa: ASYNC251 (blocks the loop)
    await asyncio.sleep(0)
    connection.data_received(b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$3\r\nold\r\n")

    assert connection.lost
    assert connection.take_messages() == []


async def test_a_command_on_a_closed_transport_fails_with_connection_lost(connection):
    waiting = connection.execute("GET", "a")
    connection._transport.refuses = True

    refused = connection.execute("GET", "b")

    for future in (waiting, refused):
        with pytest.raises(ConnectionLost, match="the handler is closed"):
            await future
    assert connection.lost


async def test_a_subscription_on_a_closed_transport_fails_with_connection_lost(
    connection,
):
    connection._transport.refuses = True

    future = connection.execute_pubsub("SUBSCRIBE", [b"a"])

    with pytest.raises(ConnectionLost):
        await future


class Connection:
    """A connection of redis-py whose server closes it during the handshake."""

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
async def test_every_error_while_connecting_becomes_connection_lost(error, said):
    connection = Connection(error)

    with pytest.raises(ConnectionLost, match=f"cannot connect: {said}"):
        await connect(lambda: connection, timeout=5)

    assert connection.disconnected


async def test_connecting_fails_with_connection_lost_after_the_timeout():
    class Stuck(Connection):
        async def connect(self):
            await asyncio.get_running_loop().create_future()

    with pytest.raises(ConnectionLost):
        await connect(lambda: Stuck(None), timeout=0.01)
