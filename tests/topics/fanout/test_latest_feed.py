"""The newest values of a topic at a pace, with a clock that tests move."""

from __future__ import annotations

import json

import pytest
from django.core.exceptions import ImproperlyConfigured

from tiderace import metrics
from tiderace.history import Position, Publication
from tiderace.protocol.codec import JSON
from tiderace.topics import Latest
from tiderace.topics.fanout.latest_feed import LatestFeed
from tiderace.topics.fanout.outbox import ClientOutbox


class Timers:
    """An event loop's ``call_later`` whose time passes in ``fire``."""

    def __init__(self):
        self.waiting = []
        self.delays = []

    def __call__(self, delay, callback):
        timer = type("Handle", (), {"cancel": lambda handle: self.drop(handle)})()
        timer.callback = callback
        self.waiting.append(timer)
        self.delays.append(delay)
        return timer

    def drop(self, timer):
        self.waiting = [each for each in self.waiting if each is not timer]

    def fire(self):
        (timer,) = self.waiting
        self.waiting = []
        timer.callback()


class Outbox(ClientOutbox):
    """Counts what is written to it, of a client that may be slow."""

    def __init__(self):
        super().__init__(JSON, None, writer=None, limit=1, on_slow=None)
        self.frames = []
        self.slow = False

    @property
    def busy(self):
        return self.slow

    def push(self, frame):
        self.frames.append(frame)


class Subscriber:
    encoding = JSON

    def __init__(self, feed, *, positions=True):
        self.feed = feed
        self.outbox = Outbox()
        self.active = True
        self.gaps = 0
        self.encoded = 0
        self.positions = positions
        feed.add(self)

    def encode(self, publication):
        self.encoded += 1
        return publication.data.encode()

    def on_gap(self, group):
        self.gaps += 1
        if self.positions:
            self.feed.discard(self)

    def values(self):
        """Return what has come since the last call."""
        frames, self.outbox.frames = self.outbox.frames, []
        return [json.loads(line) for each in frames for line in each.split(b"\n")]


class Stream:
    """Publishes to a feed as a layer does."""

    def __init__(self, feed):
        self.feed = feed
        self.offset = 0
        self.epoch = "e"

    def publish(self, *values):
        for value in values:
            self.offset += 1
            place = Position(self.epoch, self.offset)
            self.feed.on_publication("group", Publication(place, json.dumps(value)))


@pytest.fixture
def timers():
    return Timers()


def make(timers, *, limit=1_000_000, **options):
    deliver = Latest(**{"rate": "5/s", **options})
    feed = LatestFeed("group", deliver, timers, limit=limit)
    return feed, Stream(feed)


def test_a_quiet_topic_delivers_a_publication_at_once(timers):
    feed, stream = make(timers)
    one = Subscriber(feed)

    stream.publish(1)

    assert one.values() == [1]


def test_later_publications_wait_for_the_pace_and_the_last_one_is_delivered(timers):
    feed, stream = make(timers)
    one = Subscriber(feed)
    stream.publish(1, 2, 3, 4)
    assert one.values() == [1]

    timers.fire()

    assert one.values() == [4]
    assert timers.delays == [0.2, 0.2]


def test_the_newest_of_each_key_is_delivered_in_the_order_of_publication(timers):
    feed, stream = make(timers, key="id")
    one = Subscriber(feed)
    stream.publish({"id": "a", "v": 1})
    stream.publish({"id": "b", "v": 1}, {"id": "a", "v": 2}, {"id": "b", "v": 2})
    stream.publish({"id": "c", "v": 1}, {"id": "b", "v": 3})
    one.values()

    timers.fire()

    assert one.values() == [
        {"id": "a", "v": 2},
        {"id": "c", "v": 1},
        {"id": "b", "v": 3},
    ]


def test_a_topic_without_publications_has_no_timer(timers):
    feed, stream = make(timers)
    Subscriber(feed)
    stream.publish(1)

    timers.fire()

    assert timers.waiting == []


def test_the_last_subscriber_that_leaves_stops_the_timer(timers):
    feed, stream = make(timers)
    one = Subscriber(feed)
    stream.publish(1)

    feed.discard(one)

    assert timers.waiting == []


def test_a_value_is_encoded_once_for_all_subscribers(timers):
    feed, stream = make(timers)
    many = [Subscriber(feed) for _ in range(50)]

    stream.publish(1, 2, 3)
    timers.fire()

    assert sum(each.encoded for each in many) == 2
    assert all(each.values() == [1, 3] for each in many)


def test_a_client_that_reads_slowly_gets_the_newest_when_it_has_read(timers):
    feed, stream = make(timers, key="id")
    slow, fast = Subscriber(feed), Subscriber(feed)
    stream.publish({"id": 1, "v": 0})
    slow.values()
    slow.outbox.slow = True
    for v in range(1, 6):
        stream.publish({"id": 1, "v": v}, {"id": 2, "v": v})
        timers.fire()
    assert slow.values() == []
    assert len(fast.values()) == 11

    slow.outbox.slow = False
    timers.fire()

    assert slow.values() == [{"id": 1, "v": 5}, {"id": 2, "v": 5}]
    assert fast.values() == []


def test_a_slow_client_is_tried_again_without_a_further_publication(timers):
    feed, stream = make(timers)
    one = Subscriber(feed)
    one.outbox.slow = True
    stream.publish(1)

    timers.fire()
    timers.fire()
    one.outbox.slow = False
    timers.fire()

    assert one.values() == [1]
    timers.fire()
    assert timers.waiting == []


def test_a_new_subscriber_gets_no_older_publication(timers):
    feed, stream = make(timers)
    Subscriber(feed)
    stream.publish(1, 2)

    late = Subscriber(feed)
    timers.fire()

    assert late.values() == []


def test_nothing_is_sent_before_the_reply(timers):
    feed, stream = make(timers)
    one = Subscriber(feed)
    one.active = False
    stream.publish(1, 2)
    assert one.values() == []

    one.active = True
    feed.activate(one)

    assert one.values() == [2]


def test_a_subscriber_gets_only_what_is_after_its_position(timers):
    feed, stream = make(timers, key="id")
    one = Subscriber(feed)
    one.active = False
    stream.publish({"id": "a"}, {"id": "b"}, {"id": "c"})

    assert feed.begin_at(one, Position("e", 2)) is True
    one.active = True
    feed.activate(one)

    assert one.values() == [{"id": "c"}]


def test_a_position_before_the_publications_of_the_feed_is_read_again(timers):
    feed, stream = make(timers)
    stream.offset = 5
    one = Subscriber(feed)
    stream.publish(6)

    assert feed.begin_at(one, Position("e", 4)) is False
    assert feed.begin_at(one, Position("e", 5)) is True


def test_publications_that_a_position_includes_already_are_not_taken_again(timers):
    feed, stream = make(timers)
    one = Subscriber(feed)
    feed.begin_at(one, Position("e", 2))

    stream.publish(1, 2, 3)

    assert one.values() == [3]
    assert one.gaps == 0


def test_a_missing_publication_is_a_gap_for_all(timers):
    feed, stream = make(timers)
    both = [Subscriber(feed), Subscriber(feed)]
    stream.publish(1)

    stream.offset += 1
    stream.publish(3)

    assert [each.gaps for each in both] == [1, 1]


def test_a_new_epoch_is_a_gap_and_its_publications_are_delivered(timers):
    feed, stream = make(timers)
    one = Subscriber(feed, positions=False)
    stream.publish(1)
    timers.fire()
    one.values()

    stream.epoch, stream.offset = "other", 0
    stream.publish("first")

    assert one.gaps == 1
    assert one.values() == ["first"]


def test_more_keys_than_fit_are_a_gap_for_subscribers_that_lack_a_value(timers):
    feed, stream = make(timers, key="id", keys=2)
    slow, fast = Subscriber(feed), Subscriber(feed)
    stream.publish({"id": 1})
    slow.outbox.slow = True
    before = metrics.LATEST_VALUES_DROPPED.value

    for number in (2, 3, 4):
        stream.publish({"id": number})
        timers.fire()

    assert (slow.gaps, fast.gaps) == (1, 0)
    assert metrics.LATEST_VALUES_DROPPED.value == before + 1


def test_values_that_wait_for_slow_clients_alone_are_bounded_in_bytes(timers):
    feed, stream = make(timers, key="id", limit=100)
    slow, fast = Subscriber(feed), Subscriber(feed)
    stream.publish({"id": 0})
    slow.outbox.slow = True

    for number in range(1, 9):
        stream.publish({"id": number, "text": "x" * 20})
        timers.fire()

    assert (slow.gaps, fast.gaps) == (1, 0)
    assert [value["id"] for value in fast.values()] == list(range(9))


def test_values_of_one_period_are_delivered_whatever_their_bytes(timers):
    feed, stream = make(timers, key="id", limit=100)
    one = Subscriber(feed)

    stream.publish(*({"id": number, "text": "x" * 20} for number in range(9)))
    timers.fire()

    assert one.gaps == 0
    assert [value["id"] for value in one.values()] == list(range(9))


def test_replaced_publications_are_counted_unless_they_were_delivered(timers):
    feed, stream = make(timers)
    Subscriber(feed)
    before = metrics.PUBLICATIONS_REPLACED.value

    stream.publish(1, 2, 3, 4)

    assert metrics.PUBLICATIONS_REPLACED.value == before + 2


@pytest.mark.parametrize(
    ("key", "data", "expected"),
    [
        (None, {"id": 1}, None),
        ("id", {"id": 1, "other": [{}]}, b"1"),
        ("id", {"other": 1}, None),
        ("id", [1], None),
        ("id", "id", None),
        (lambda data: data["at"][0], {"at": [7, 8]}, 7),
        (lambda data: data["at"], {"at": 9.5}, 9.5),
    ],
)
def test_a_key_is_a_field_or_what_a_function_returns(key, data, expected):
    assert Latest(key=key).key_of(json.dumps(data)) == expected


@pytest.mark.parametrize(
    "key",
    [lambda data: data["missing"], lambda data: data],
    ids=["raises", "unhashable"],
)
def test_a_key_function_that_fails_gives_no_key_and_is_logged_once(key, caplog):
    latest = Latest(key=key)

    assert [latest.key_of('{"id": 1}') for _ in range(3)] == [None] * 3
    assert caplog.text.count("the key function of Latest") == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rate": "fast"}, "Latest(rate='fast'): 'fast' is no rate"),
        ({"rate": 5}, "Latest(rate=5): 5 is no rate"),
        ({"key": 7}, "Latest(key=7) is neither the name of a field nor a function"),
        ({"keys": 0}, "Latest(keys=0) keeps no value"),
    ],
)
def test_a_declaration_that_cannot_work_raises_with_what_to_write(options, text):
    with pytest.raises(ImproperlyConfigured) as raised:
        Latest(**options)

    assert text in str(raised.value)
