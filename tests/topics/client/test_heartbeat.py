"""The pings to the clients of an event loop, with a loop whose time tests move."""

from __future__ import annotations

import pytest

from tiderace.protocol.codec import JSON
from tiderace.protocol.session import Session
from tiderace.ratelimit import Rate
from tiderace.topics.client.heartbeat import Heartbeat
from tiderace.topics.fanout.outbox import ClientOutbox


class Loop:
    """Calls what is due in ``advance``."""

    def __init__(self):
        self.now = 100.0
        self.timer = None

    def time(self):
        return self.now

    def call_at(self, when, callback):
        assert self.timer is None
        self.timer = when, callback
        return self

    def cancel(self):
        self.timer = None

    def advance(self, seconds):
        end = self.now + seconds
        while self.timer is not None and self.timer[0] <= end:
            when, callback = self.timer
            self.now = max(self.now, when)
            self.timer = None
            callback()
        self.now = max(self.now, end)


class Outbox(ClientOutbox):
    def __init__(self):
        super().__init__(JSON, None, writer=None, limit=1, on_slow=None)
        self.frames = []

    def push(self, frame):
        self.frames.append(frame)


class Client:
    """A client with a session, and the times that it is given for a pong."""

    def __init__(self, *, connected=True):
        self.transport = type("Transport", (), {"codec": JSON})
        self.outbox = Outbox()
        self.session = Session(JSON, frame_size=1, commands=Rate.parse("1/s"))
        self.session.connected = connected
        self.waits = []

    @property
    def pings(self):
        return len(self.outbox.frames)

    def next_ping(self):
        return self.session.next_ping() if self.session.connected else None

    def await_pong(self, timeout):
        if self.session.pong_due:
            self.waits.append(timeout)


@pytest.fixture
def loop():
    return Loop()


def test_a_client_is_pinged_once_an_interval(loop):
    heartbeat, client = Heartbeat(25.0, 10.0, loop), Client()
    heartbeat.add(client)

    loop.advance(24.9)
    assert client.pings == 0
    loop.advance(0.7)
    assert client.pings == 1
    loop.advance(25 * 10)
    assert client.pings == 11


def test_clients_are_pinged_at_the_times_at_which_they_came(loop):
    heartbeat, first, second = Heartbeat(25.0, 10.0, loop), Client(), Client()
    heartbeat.add(first)
    loop.advance(12)
    heartbeat.add(second)

    loop.advance(14)
    assert (first.pings, second.pings) == (1, 0)
    loop.advance(12)
    assert (first.pings, second.pings) == (1, 1)


def test_a_ping_is_the_same_frame_for_all_clients(loop):
    heartbeat, clients = Heartbeat(25.0, 10.0, loop), [Client(), Client()]
    for client in clients:
        heartbeat.add(client)

    loop.advance(26)

    assert clients[0].outbox.frames == [b"{}"]
    assert clients[0].outbox.frames[0] is clients[1].outbox.frames[0]


def test_a_client_without_a_pong_gets_a_timer_for_the_rest_of_its_time(loop):
    heartbeat, client = Heartbeat(25.0, 10.0, loop), Client()
    heartbeat.add(client)

    loop.advance(25.5 + 8.5)
    assert client.waits == []
    loop.advance(0.5)

    assert client.waits == [1.0]


def test_a_client_that_has_answered_gets_no_timer(loop):
    heartbeat, client = Heartbeat(25.0, 10.0, loop), Client()
    heartbeat.add(client)

    loop.advance(26)
    assert client.session.take_pong("{}")
    loop.advance(10)

    assert client.waits == []


def test_a_short_time_for_pongs_begins_with_the_ping(loop):
    heartbeat, client = Heartbeat(25.0, 0.5, loop), Client()
    heartbeat.add(client)

    loop.advance(26)

    assert (client.pings, client.waits) == (1, [0.5])


def test_a_client_that_has_not_connected_gets_no_ping(loop):
    heartbeat, client = Heartbeat(25.0, 10.0, loop), Client(connected=False)
    heartbeat.add(client)

    loop.advance(26)
    assert client.pings == 0
    client.session.connected = True
    loop.advance(25)

    assert client.pings == 1


def test_a_client_that_left_gets_no_ping(loop):
    heartbeat, left, other = Heartbeat(25.0, 10.0, loop), Client(), Client()
    heartbeat.add(left)
    heartbeat.add(other)
    heartbeat.discard(left)

    loop.advance(26)

    assert (left.pings, other.pings) == (0, 1)


def test_there_is_no_timer_without_clients(loop):
    heartbeat, client = Heartbeat(25.0, 10.0, loop), Client()
    heartbeat.add(client)
    loop.advance(30)

    heartbeat.discard(client)

    assert loop.timer is None


def test_a_blocked_loop_does_not_make_up_for_the_pings_it_missed(loop):
    heartbeat, client = Heartbeat(25.0, 10.0, loop), Client()
    heartbeat.add(client)
    loop.advance(26)
    loop.now += 100

    loop.advance(26)

    assert client.pings == 2
