"""A feed of growing messages while it reads its topic's growth stream."""

from __future__ import annotations

import asyncio

import pytest

from support.waiting import settle, until
from tiderace.cluster import Cluster
from tiderace.exceptions import LayerUnavailable
from tiderace.layers import get_channel_layer
from tiderace.topics import AllowAny, Growing, Topic
from tiderace.topics.growing import feed as feed_module
from tiderace.topics.growing.feed import GrowingFeeds
from tiderace.topics.growing.records import Record
from tiderace.topics.growing.stream import publish_record, read_records
from tiderace.topics.names import growth_group


class Subscription:
    """A subscription as a feed uses it before it begins."""

    def __init__(self, topic):
        self.topic = topic
        self.channel = topic.topic


class SlowReads:
    """Reads of a growth stream that a test lets go on."""

    def __init__(self):
        self.begun = 0
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def __call__(self, topic, since):
        self.begun += 1
        read = await read_records(topic, since)
        await self.may_end.wait()
        return read


@pytest.fixture
def topic(own_topics, settings):
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }

    class Room(Topic):
        pattern = "grow-feed"
        growing = Growing(lease=60)
        permission_classes = [AllowAny]

    return Room("grow-feed")


@pytest.fixture
def reads(monkeypatch):
    reads = SlowReads()
    monkeypatch.setattr(feed_module, "read_records", reads)
    return reads


@pytest.fixture
async def feeds():
    feeds = GrowingFeeds()
    yield feeds
    await feeds.close()


async def begin(topic, message_id="m"):
    await publish_record(topic, Record(message_id, "w", text="a", data={}))


async def test_a_second_gap_while_the_stream_is_read_again_loses_nothing(
    topic, reads, feeds, caplog
):
    subscription = Subscription(topic)
    await feeds.join(subscription)
    feed = feeds._feeds[topic.topic]
    reads.may_end.clear()

    feed.on_gap("")
    feed.on_gap("")
    await until(lambda: reads.begun > 1)
    assert reads.begun == 2  # the two gaps are read together
    await begin(topic)
    reads.may_end.set()
    await settle()

    assert feeds.find(topic.topic, "m").text == "a"
    assert "failed" not in caplog.text


async def test_a_feed_whose_last_subscriber_left_while_it_was_read_ends_no_message(
    topic, reads, feeds
):
    await begin(topic)
    subscription = Subscription(topic)
    reads.may_end.clear()
    joining = asyncio.create_task(feeds.join(subscription))
    await until(lambda: reads.begun)
    feed = feeds._feeds[topic.topic]

    feeds.leave(subscription)
    reads.may_end.set()
    await joining

    # Its timer would find no sign of the writer, whose records the feed does not get.
    assert feed._check is None
    assert not feed.groups


async def test_a_feed_that_was_closed_while_it_began_to_listen_does_not_listen(
    topic, feeds, monkeypatch
):
    layer = get_channel_layer()
    subscribe, begun, may_end = layer.stream_subscribe, asyncio.Event(), asyncio.Event()

    async def slow(group, listener):
        begun.set()
        await may_end.wait()
        await subscribe(group, listener)

    monkeypatch.setattr(layer, "stream_subscribe", slow)
    subscription = Subscription(topic)
    joining = asyncio.create_task(feeds.join(subscription))
    await begun.wait()

    feeds.leave(subscription)
    may_end.set()
    await joining

    assert layer._local.listeners.count(growth_group(topic.topic)) == 0


async def test_a_broker_that_is_away_when_a_text_is_asked_for_fails_no_task(
    topic, feeds, monkeypatch, caplog
):
    asked = []

    async def tell(self, kind, payload):
        asked.append(kind)
        raise LayerUnavailable

    monkeypatch.setattr(Cluster, "tell", tell)
    await feeds.join(Subscription(topic))

    await publish_record(topic, Record("m", "w", at=5, text="the beginning is missing"))
    await settle()

    assert asked == [feed_module.WANTED]
    assert "failed" not in caplog.text
