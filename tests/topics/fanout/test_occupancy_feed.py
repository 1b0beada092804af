"""When the numbers of a topic's members are read, with a clock that tests move."""

from __future__ import annotations

import asyncio
import logging

import pytest
from django.core.exceptions import ImproperlyConfigured

from support.waiting import settle
from tiderace.exceptions import LayerUnavailable
from tiderace.history import Position, Publication
from tiderace.protocol.codec import JSON
from tiderace.runtime.tasks import TaskGroup
from tiderace.topics import History, Latest, Occupancy, Topic
from tiderace.topics.fanout.occupancy_feed import OccupancyFeed
from tiderace.topics.fanout.outbox import ClientOutbox


class Clock:
    """An event loop's time and timers; ``pass_by`` moves it."""

    def __init__(self):
        self.now = 0.0
        self.timers = []

    def time(self):
        return self.now

    def call_later(self, delay, callback):
        timer = type(
            "Handle", (), {"cancel": lambda handle: self.timers.remove(handle)}
        )()
        timer.at, timer.callback = self.now + delay, callback
        self.timers.append(timer)
        return timer

    async def pass_by(self, seconds):
        end = self.now + seconds
        while due := [each for each in self.timers if each.at <= end]:
            first = min(due, key=lambda each: each.at)
            self.now = first.at
            self.timers.remove(first)
            first.callback()
            await settle()
        self.now = end


class Store:
    """A presence store whose numbers a test sets."""

    def __init__(self):
        self.numbers = (0, 0)
        self.reads = 0
        self.error = None
        """The error that reads raise."""
        self.slow = None
        """The event for which reads wait; None where they take no time."""

    async def stats(self, group):
        self.reads += 1
        if self.error is not None:
            raise self.error
        numbers = self.numbers
        if self.slow is not None:
            await self.slow.wait()
        return numbers


class Outbox(ClientOutbox):
    def __init__(self, got):
        super().__init__(JSON, None, writer=None, limit=99, on_slow=None)
        self.got = got

    def push(self, frame):
        self.got.append(frame)


class Subscriber:
    encoding = JSON
    active = True

    def __init__(self):
        self.got = []
        self.outbox = Outbox(self.got)

    def encode(self, publication):
        return publication.data.encode()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store():
    return Store()


@pytest.fixture
async def feed(clock, store, monkeypatch):
    class Layer:
        presence = store

        async def stream_publish(self): ...

    monkeypatch.setattr(
        "tiderace.topics.fanout.occupancy_feed.layer_of", lambda topic: Layer()
    )
    tasks = TaskGroup(logging.getLogger("test"))
    yield OccupancyFeed(
        Topic("room:tea"),
        "events",
        Latest(rate="1/s"),
        clock.call_later,
        clock.time,
        tasks,
        limit=1000,
    )
    await tasks.cancel()


def event(number=1):
    return Publication(Position("e", number), "{}")


async def test_many_joins_in_a_second_are_one_read_for_all_subscribers(
    feed, clock, store
):
    subscribers = [Subscriber() for _ in range(50)]
    for each in subscribers:
        feed.add(each)
    feed.start()
    await clock.pass_by(0)

    for number in range(100):
        store.numbers = (number, number)
        feed.on_publication("events", event(number))
    await clock.pass_by(2)

    assert store.reads == 2
    assert all(
        each.got == [b'{"connections":0,"users":0}', b'{"connections":99,"users":99}']
        for each in subscribers
    )


async def test_a_quiet_topic_is_read_every_ten_seconds(feed, clock, store):
    one = Subscriber()
    feed.add(one)
    feed.start()
    await clock.pass_by(5)

    store.numbers = (2, 1)  # a further connection of a present user
    await clock.pass_by(10)

    assert store.reads == 2
    assert one.got[-1] == b'{"connections":2,"users":1}'


async def test_numbers_that_have_not_changed_are_not_sent(feed, clock, store):
    one = Subscriber()
    feed.add(one)
    feed.start()
    await clock.pass_by(60)

    assert store.reads > 2
    assert one.got == [b'{"connections":0,"users":0}']


async def test_numbers_are_read_after_lost_events(feed, clock, store):
    feed.add(Subscriber())
    feed.start()
    await clock.pass_by(5)

    feed.on_gap("events")
    await clock.pass_by(0)

    assert store.reads == 2


@pytest.mark.parametrize(
    ("error", "logged"), [(LayerUnavailable("away"), 0), (ValueError("broken"), 4)]
)
async def test_numbers_whose_read_failed_are_read_again(
    error, logged, feed, clock, store, caplog
):
    one = Subscriber()
    feed.add(one)
    store.error = error
    feed.start()
    await clock.pass_by(3)
    store.error, store.numbers = None, (1, 1)

    await clock.pass_by(1)

    assert one.got == [b'{"connections":1,"users":1}']
    assert len(caplog.records) == logged


async def test_an_old_read_that_ends_late_does_not_replace_newer_numbers(
    feed, clock, store
):
    one = Subscriber()
    feed.add(one)
    old = store.slow = asyncio.Event()
    feed.start()
    await clock.pass_by(1)
    store.numbers, store.slow = (1, 1), None
    feed.on_publication("events", event())
    await clock.pass_by(2)

    old.set()
    await settle()
    await clock.pass_by(2)

    assert one.got[-1] == b'{"connections":1,"users":1}'


async def test_nothing_is_read_after_the_last_subscriber(feed, clock, store):
    one = Subscriber()
    feed.add(one)
    feed.start()
    await clock.pass_by(0)

    feed.discard(one)
    feed.on_publication("events", event())
    await clock.pass_by(60)

    assert store.reads == 1
    assert clock.timers == []


def test_an_occupancy_that_names_no_topic_is_refused_where_it_is_defined():
    with pytest.raises(ImproperlyConfigured, match="write def counted"):
        type("Numbers", (Occupancy,), {"pattern": "numbers"})


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"history": History()}, "has a history, or deliver = None"),
        ({"deliver": None}, "has a history, or deliver = None"),
    ],
)
def test_an_occupancy_that_cannot_work_is_refused(attributes, text):
    attributes = {"pattern": "numbers", "counted": lambda self: "room", **attributes}

    with pytest.raises(ImproperlyConfigured, match=text):
        type("Numbers", (Occupancy,), attributes)


def test_a_counted_name_that_has_to_be_awaited_is_refused():
    async def counted(self):
        return "room"

    with pytest.raises(ImproperlyConfigured, match="is a coroutine function"):
        type("Numbers", (Occupancy,), {"pattern": "numbers", "counted": counted})
