"""Delivers a topic's growth stream to its subscribers in one event loop."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Collection

from tiderace import cluster
from tiderace.exceptions import LayerUnavailable
from tiderace.history import Position, Publication
from tiderace.protocol.codec import Codec
from tiderace.protocol.messages import Pub, Push, Reply
from tiderace.runtime.single_flight import SingleFlight
from tiderace.runtime.tasks import TaskGroup
from tiderace.topics.declaration.topic import Topic
from tiderace.topics.fanout.dispatcher import ActiveSubscription
from tiderace.topics.fanout.outbox import ClientOutbox, write_all
from tiderace.topics.growing.options import Growing
from tiderace.topics.growing.records import (
    Change,
    Message,
    MessageLog,
    MissingText,
    Record,
    State,
)
from tiderace.topics.growing.stream import (
    publish_end,
    publish_record,
    read_records,
    record_in,
)
from tiderace.topics.names import growth_group
from tiderace.topics.streams import layer_of

logger = logging.getLogger("tiderace.topics")

WANTED = "growing.wanted"
"""The kind of the control messages that request the whole text from a writer."""
ENDED = "growing.ended"
"""The kind of the control messages that tell a writer that its message was ended."""

LOST_WRITER = "the process that wrote it is gone"

_REQUEST_PAUSE = 1.0  # seconds between two requests for the same text


class GrowingFeeds:
    """The feeds of an event loop: one for each topic with ``growing`` and a subscriber."""

    def __init__(self) -> None:
        self._feeds: dict[str, TopicFeed] = {}
        self._tasks = TaskGroup(logger)

    async def join(self, subscription: ActiveSubscription) -> None:
        """Wait until the messages that ``begin`` sends to a subscription are read.

        Raises:
            LayerUnavailable: when the broker could not be reached in time.
        """
        topic = subscription.topic
        if topic.growing is None:
            return
        feed = self._feeds.get(topic.topic)
        if feed is None:
            feed = self._feeds[topic.topic] = TopicFeed(
                topic, topic.growing, self._tasks
            )
        feed.subscriptions.add(subscription)
        await feed.ready()

    def begin(self, subscription: ActiveSubscription) -> None:
        """Send the messages that are growing now, and their appends from now on."""
        feed = self._feeds.get(subscription.channel)
        if feed is not None and subscription in feed.subscriptions:
            feed.begin(subscription)

    def leave(self, subscription: ActiveSubscription) -> None:
        """Undo ``join``; do nothing without one."""
        feed = self._feeds.get(subscription.channel)
        if feed is None or subscription not in feed.subscriptions:
            return
        feed.discard(subscription)
        if not feed.subscriptions:
            del self._feeds[subscription.channel]
            feed.close()

    async def close(self) -> None:
        """Cancel the background tasks."""
        await self._tasks.cancel()

    def find(self, topic: str, message_id: str) -> Message | None:
        """Return a growing message of a topic with a subscriber in this loop, or None."""
        feed = self._feeds.get(topic)
        message = None if feed is None else feed.log.messages.get(message_id)
        if message is None or message.state is not State.GROWING:
            return None
        return message


class TopicFeed:
    """A listener to one topic's growth stream, and the subscriptions that it serves.

    Args:
        topic: the topic.
        options: ``growing`` of its class.
        tasks: the task group for calls of the layer.
    """

    def __init__(self, topic: Topic, options: Growing, tasks: TaskGroup) -> None:
        # The groups it listens to; set by the stream hub.
        self.groups: Collection[str] = ()
        self.log = MessageLog()
        self.subscriptions: set[ActiveSubscription] = set()
        self._active: set[ActiveSubscription] = set()
        self._topic = topic
        self._lease = options.lease
        self._group = growth_group(topic.topic)
        self._loop = asyncio.get_running_loop()
        self._tasks = tasks
        self._opening = SingleFlight()
        self._closed = False
        # The records that arrive while the stream is read; None at other times.
        self._buffer: list[Publication] | None = None
        # Whether records were lost in transit while the stream was read.
        self._read_again = False
        self._position: Position | None = None
        self._requested_at: dict[str, float] = {}
        self._check: asyncio.TimerHandle | None = None

    # Beginning and end

    async def ready(self) -> None:
        """Wait until the messages that are growing are read."""
        await self._opening.do(self._group, self._open)

    async def _open(self) -> None:
        if self.groups:
            return
        layer = layer_of(self._topic)
        self._buffer = []
        try:
            await layer.stream_subscribe(self._group, self)
            await self._load()
        except BaseException:
            self._buffer = None
            layer.stream_unsubscribe(self._group, self)
            raise
        if self._closed:
            layer.stream_unsubscribe(self._group, self)

    async def _load(self) -> None:
        """Apply the records since the last one that was applied, then the buffered ones."""
        self._read_again = True
        try:
            while self._read_again:
                self._read_again = False
                top, publications = await read_records(self._topic, self._position)
                if self._position is not None and top.epoch != self._position.epoch:
                    _, publications = await read_records(self._topic, None)
                for publication in publications:
                    self._apply(publication)
        finally:
            buffered, self._buffer = self._buffer, None
        for publication in buffered or ():
            self._apply(publication)

    def close(self) -> None:
        """Stop listening, also where the stream is still being read."""
        self._closed = True
        layer_of(self._topic).stream_unsubscribe(self._group, self)
        if self._check is not None:
            self._check.cancel()

    # Subscribers

    def begin(self, subscription: ActiveSubscription) -> None:
        """Send each message as it is now, and its appends from now on."""
        for message in list(self.log.messages.values()):
            _send(self._topic.topic, message.as_pub(), [subscription])
        self._active.add(subscription)

    def discard(self, subscription: ActiveSubscription) -> None:
        """Stop sending to a subscription."""
        self.subscriptions.discard(subscription)
        self._active.discard(subscription)

    # Records

    def on_publication(self, group: str, publication: Publication) -> None:
        if self._buffer is not None:
            self._buffer.append(publication)
        else:
            self._apply(publication)

    def on_gap(self, group: str) -> None:
        """Read the stream again: it may still have records that were lost in transit."""
        self._read_again = True
        if self._buffer is None:
            self._buffer = []
            self._tasks.spawn(self._reload())

    async def _reload(self) -> None:
        try:
            await self._load()
        except LayerUnavailable as error:
            # Another gap is reported when the broker is back; a text whose beginning is
            # missing then is requested from its writer.
            logger.warning("the growth stream of %r: %s", self._topic.topic, error)

    def _apply(self, publication: Publication) -> None:
        if self._closed:
            return  # a closed feed gets no records, so its timer would end live messages
        place, last = publication.position, self._position
        if (
            last is not None
            and place.epoch == last.epoch
            and place.offset <= last.offset
        ):
            return
        self._position = place
        record = record_in(publication)
        try:
            change = self.log.apply(record, self._loop.time())
        except MissingText:
            self._request_text_soon(record.id)
            return
        if change is not None:
            self._send(change)
        if self._check is None and self.log.messages:
            self._check_later(self._lease * 2 / 3)

    def _send(self, change: Change) -> None:
        if self._active:
            _send(self._topic.topic, change.as_pub(), self._active)

    def _request_text_soon(self, message_id: str) -> None:
        """Request the whole text of a message in the background, at most once a second."""
        now = self._loop.time()
        if now - self._requested_at.get(message_id, -_REQUEST_PAUSE) < _REQUEST_PAUSE:
            return
        self._requested_at[message_id] = now
        self._tasks.spawn(self._request_text(message_id))

    async def _request_text(self, message_id: str) -> bool:
        """Request the whole text from a writer; return whether the request was sent."""
        try:
            await self._tell(WANTED, message_id)
        except LayerUnavailable:
            # The layer has logged the error, and the next append requests the text again.
            return False
        return True

    async def _tell(self, kind: str, message_id: str) -> None:
        payload = {"topic": self._topic.topic, "id": message_id}
        await cluster.current().tell(kind, payload)

    # Messages whose writer is gone

    def _check_later(self, seconds: float) -> None:
        self._check = self._loop.call_later(seconds, self._check_writers)

    def _check_writers(self) -> None:
        """Send a request to silent writers, and end messages whose writer does not reply.

        A request is sent after two thirds of the lease without a record. A message is
        ended only when a request was sent and no record has come in the last third: while
        the broker is away, records and requests fail alike.
        """
        self._check = None
        if not self.subscriptions:
            return
        now, third = self._loop.time(), self._lease / 3
        next_due = None
        for message in list(self.log.messages.values()):
            if message.asked_at is None:
                due = message.seen_at + 2 * third
                if due <= now:
                    self._tasks.spawn(self._check_writer(message))
                    due = now + third
            else:
                due = message.asked_at + third
                if due <= now:
                    # If this fails, it is tried again after another lease, until a record
                    # of this or another process closes the message.
                    message.seen_at, message.asked_at = now, None
                    self._tasks.spawn(self._end(message))
                    due = now + 2 * third
            next_due = due if next_due is None else min(next_due, due)
        self._requested_at = {
            message_id: at
            for message_id, at in self._requested_at.items()
            if now - at < self._lease
        }
        if next_due is not None:
            self._check_later(next_due - now)

    async def _check_writer(self, message: Message) -> None:
        seen_at = message.seen_at
        if await self._request_text(message.id) and message.seen_at == seen_at:
            message.asked_at = self._loop.time()

    async def _end(self, message: Message) -> None:
        """End a message without a record of its writer for the lease."""
        try:
            if message.state is State.GROWING:
                logger.warning(
                    "the message %r of %r has had no sign of its writer for %g s and is "
                    "marked failed",
                    message.id,
                    self._topic.topic,
                    self._lease,
                )
                failed = Record(
                    message.id,
                    message.writer,
                    at=message.length,
                    state=State.FAILED,
                    reason=LOST_WRITER,
                )
                await publish_record(self._topic, failed)
                await self._tell(ENDED, message.id)
                # The record may not have come back from the stream yet.
                message.state, message.reason = State.FAILED, LOST_WRITER
            await publish_end(self._topic, message)
        except LayerUnavailable as error:
            logger.warning("the message %r was not ended: %s", message.id, error)


def _send(
    channel: str, pub: Pub, subscriptions: Collection[ActiveSubscription]
) -> None:
    reply = Reply(push=Push(channel=channel, pub=pub))
    if len(subscriptions) == 1:  # as for most messages; this takes half the time
        (one,) = subscriptions
        one.outbox.push(one.codec.encode(reply))
        return
    receivers: defaultdict[Codec, list[ClientOutbox]] = defaultdict(list)
    for subscription in subscriptions:
        receivers[subscription.codec].append(subscription.outbox)
    for codec, outboxes in receivers.items():
        write_all(outboxes, codec.encode(reply))
