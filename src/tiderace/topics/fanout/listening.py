"""Starts and stops the listening of clients to topics: each on its own, or to a feed."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from tiderace import conf
from tiderace.history import Position
from tiderace.runtime.lifespan import on_shutdown
from tiderace.runtime.tasks import TaskGroup
from tiderace.topics.declaration.occupancy import Occupancy
from tiderace.topics.declaration.topic import Topic
from tiderace.topics.fanout.latest_feed import LatestFeed
from tiderace.topics.fanout.occupancy_feed import OccupancyFeed, counted_topic
from tiderace.topics.names import events_group, topic_group
from tiderace.topics.streams import layer_of

logger = logging.getLogger("tiderace.topics")

_paced = True


@contextmanager
def without_pace() -> Iterator[None]:
    """Make topics that get their first subscriber in the block deliver without a limit."""
    global _paced
    before, _paced = _paced, False
    try:
        yield
    finally:
        _paced = before


class _Listening(NamedTuple):
    """A feed, and the layer in which it listens."""

    feed: LatestFeed
    layer: Any


class _Feeds:
    """The feeds of one event loop, by alias of the layer and group of the topic."""

    def __init__(self) -> None:
        self.by_topic: dict[tuple[str, str], _Listening] = {}
        self.tasks = TaskGroup(logger)


_by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Feeds] = (
    weakref.WeakKeyDictionary()
)


@on_shutdown
async def close() -> None:
    """Cancel the background tasks of this event loop's feeds."""
    feeds = _by_loop.pop(asyncio.get_running_loop(), None)
    if feeds is not None:
        await feeds.tasks.cancel()


def feed_of(topic: Topic) -> LatestFeed | None:
    """Return the feed of a topic in the running event loop, while it has subscribers."""
    listening = _find(topic)
    return None if listening is None else listening.feed


def _find(topic: Topic) -> _Listening | None:
    feeds = _by_loop.get(asyncio.get_running_loop())
    return None if feeds is None else feeds.by_topic.get(_key(topic))


async def start_listening(topic: Topic, subscriber: Any) -> None:
    """Listen to a topic: through its feed where it delivers the newest values.

    Raises:
        Refused: when it counts the members of a topic without presence.
        UnknownTopic: when it counts those of a topic that is not declared.
        LayerUnavailable: when the broker could not be reached in time.
    """
    if topic.deliver is None:
        await layer_of(topic).stream_subscribe(topic_group(topic.topic), subscriber)
        return
    feed, layer = _find(topic) or _add_feed(topic)
    feed.add(subscriber)
    async with feed.starting:
        if not feed.listening:
            await layer.stream_subscribe(feed.group, feed)
            feed.listening = True
            feed.start()
    if not feed.receivers:  # all subscribers have left meanwhile
        layer.stream_unsubscribe(feed.group, feed)


def _add_feed(topic: Topic) -> _Listening:
    loop = asyncio.get_running_loop()
    feeds = _by_loop.setdefault(loop, _Feeds())
    assert topic.deliver is not None  # noqa: S101 (checked by the caller)
    feed: LatestFeed
    limit = conf.current().outbox_limit
    if isinstance(topic, Occupancy):
        counted = counted_topic(topic)
        layer = layer_of(counted)
        feed = OccupancyFeed(
            counted,
            events_group(counted.topic),
            topic.deliver,
            loop.call_later,
            loop.time,
            feeds.tasks,
            limit=limit,
            paced=_paced,
        )
    else:
        layer, group = layer_of(topic), topic_group(topic.topic)
        feed = LatestFeed(
            group, topic.deliver, loop.call_later, limit=limit, paced=_paced
        )
    listening = feeds.by_topic[_key(topic)] = _Listening(feed, layer)
    return listening


def _key(topic: Topic) -> tuple[str, str]:
    return topic.layer, topic_group(topic.topic)


def follows(topic: Topic, subscriber: Any) -> Callable[[Position], bool] | None:
    """Return the argument ``follows`` of ``start_stream``: None without a feed."""
    feed = None if topic.deliver is None else feed_of(topic)
    return None if feed is None else partial(feed.begin_at, subscriber)


def activate(topic: Topic, subscriber: Any) -> None:
    """Send what has waited until the reply to a subscriber of the topic was sent."""
    feed = None if topic.deliver is None else feed_of(topic)
    if feed is not None:
        feed.activate(subscriber)


def stop_listening(topic: Topic, subscriber: Any) -> None:
    """Undo ``start_listening``; without effect where it has failed or not begun."""
    if topic.deliver is None:
        group = topic_group(topic.topic)
        if group in subscriber.groups:
            layer_of(topic).stream_unsubscribe(group, subscriber)
        return
    listening = _find(topic)
    if listening is None:
        return
    feed, layer = listening
    feed.discard(subscriber)
    if not feed.receivers:
        layer.stream_unsubscribe(feed.group, feed)
        del _by_loop[asyncio.get_running_loop()].by_topic[_key(topic)]
