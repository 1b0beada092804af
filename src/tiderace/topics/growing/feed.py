"""From a topic's growth stream to its subscribers in one event loop."""

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
"""The kind of the bus's messages that ask a writer for the whole text of its message."""
ENDED = "growing.ended"
"""The kind of those that tell a writer that its message was ended for it."""

LOST_WRITER = "the process that wrote it is gone"

_WANTED_PAUSE = 1.0  # seconds between two requests for the same text


class GrowingFeeds:
    """The feeds of an event loop, one for each topic with messages and subscribers."""

    def __init__(self) -> None:
        self._feeds: dict[str, TopicFeed] = {}
        self._tasks = TaskGroup(logger)

    async def join(self, subscription: ActiveSubscription) -> None:
        """Have the growing messages of a subscription's topic ready for ``begin``.

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
        feed.users.add(subscription)
        await feed.ready()

    def begin(self, subscription: ActiveSubscription) -> None:
        """Send the messages that are growing, and from now on their appends."""
        feed = self._feeds.get(subscription.channel)
        if feed is not None and subscription in feed.users:
            feed.begin(subscription)

    def leave(self, subscription: ActiveSubscription) -> None:
        """Undo ``join``; do nothing without one."""
        feed = self._feeds.get(subscription.channel)
        if feed is None or subscription not in feed.users:
            return
        feed.discard(subscription)
        if not feed.users:
            del self._feeds[subscription.channel]
            feed.close()

    async def close(self) -> None:
        """End what runs in the background."""
        await self._tasks.cancel()

    def find(self, topic: str, message_id: str) -> Message | None:
        """Return a message that grows in a topic with subscribers here, or None."""
        feed = self._feeds.get(topic)
        message = None if feed is None else feed.log.messages.get(message_id)
        if message is None or message.state is not State.GROWING:
            return None
        return message


class TopicFeed:
    """A listener to one topic's growth stream, and the subscribers that it serves.

    Args:
        topic: the topic.
        options: those of its class.
        tasks: where it does what waits for the layer.
    """

    def __init__(self, topic: Topic, options: Growing, tasks: TaskGroup) -> None:
        # The groups it listens to; the stream hub changes them.
        self.groups: set[str] = set()
        self.log = MessageLog()
        self.users: set[ActiveSubscription] = set()
        self._active: set[ActiveSubscription] = set()
        self._topic = topic
        self._lease = options.lease
        self._group = growth_group(topic.topic)
        self._loop = asyncio.get_running_loop()
        self._tasks = tasks
        self._opening = SingleFlight()
        self._closed = False
        # What has arrived while the stream is read; None at other times.
        self._buffer: list[Publication] | None = None
        # Whether something was lost in transit while the stream was read.
        self._read_again = False
        self._position: Position | None = None
        self._wanted_at: dict[str, float] = {}
        self._check: asyncio.TimerHandle | None = None

    # Beginning and end

    async def ready(self) -> None:
        """Return when the messages that are growing have been read."""
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
        """Send each message as it is now, and from now on its appends."""
        for message in list(self.log.messages.values()):
            _send(self._topic.topic, message.as_pub(), [subscription])
        self._active.add(subscription)

    def discard(self, subscription: ActiveSubscription) -> None:
        """Send it nothing any more."""
        self.users.discard(subscription)
        self._active.discard(subscription)

    # Records

    def on_publication(self, group: str, publication: Publication) -> None:
        if self._buffer is not None:
            self._buffer.append(publication)
        else:
            self._apply(publication)

    def on_gap(self, group: str) -> None:
        """Read the stream again: it may still have what was lost in transit."""
        self._read_again = True
        if self._buffer is None:
            self._buffer = []
            self._tasks.spawn(self._reload())

    async def _reload(self) -> None:
        try:
            await self._load()
        except LayerUnavailable as error:
            # Another gap follows when the broker is back, and texts are asked for.
            logger.warning("the growth stream of %r: %s", self._topic.topic, error)

    def _apply(self, publication: Publication) -> None:
        if self._closed:
            return  # else its timer would end messages whose records it does not get
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
            self._want(record.id)
            return
        if change is not None:
            self._send(change)
        if self._check is None and self.log.messages:
            self._check_later(self._lease * 2 / 3)

    def _send(self, change: Change) -> None:
        if self._active:
            _send(self._topic.topic, change.as_pub(), self._active)

    def _want(self, message_id: str) -> None:
        """Ask the writer of a message for the whole text."""
        now = self._loop.time()
        if now - self._wanted_at.get(message_id, -_WANTED_PAUSE) < _WANTED_PAUSE:
            return
        self._wanted_at[message_id] = now
        self._tasks.spawn(self._ask_for_text(message_id))

    async def _ask_for_text(self, message_id: str) -> bool:
        """Ask the writer of a message for the whole text; return whether it was sent."""
        try:
            await self._tell(WANTED, message_id)
        except LayerUnavailable:
            return False  # the layer has logged it, and the next append asks again
        return True

    async def _tell(self, kind: str, message_id: str) -> None:
        payload = {"topic": self._topic.topic, "id": message_id}
        await cluster.current().tell(kind, payload)

    # Messages whose writer is gone

    def _check_later(self, seconds: float) -> None:
        self._check = self._loop.call_later(seconds, self._check_leases)

    def _check_leases(self) -> None:
        """Ask writers that have been silent, and end the messages of those that stay so.

        A writer is asked after two thirds of the lease. Only an answer that does not come
        counts: while the broker is away no sign of a writer arrives, and no question.
        """
        self._check = None
        if not self.users:
            return
        now, third = self._loop.time(), self._lease / 3
        next_due = None
        for message in list(self.log.messages.values()):
            if message.asked_at is None:
                due = message.seen_at + 2 * third
                if due <= now:
                    self._tasks.spawn(self._ask(message))
                    due = now + third
            else:
                due = message.asked_at + third
                if due <= now:
                    # Asked again later, until it is closed, by any process.
                    message.seen_at, message.asked_at = now, None
                    self._tasks.spawn(self._end(message))
                    due = now + 2 * third
            next_due = due if next_due is None else min(next_due, due)
        self._wanted_at = {
            message_id: at
            for message_id, at in self._wanted_at.items()
            if now - at < self._lease
        }
        if next_due is not None:
            self._check_later(next_due - now)

    async def _ask(self, message: Message) -> None:
        seen_at = message.seen_at
        if await self._ask_for_text(message.id) and message.seen_at == seen_at:
            message.asked_at = self._loop.time()

    async def _end(self, message: Message) -> None:
        """End a message whose writer has given no sign of itself for the lease."""
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
                # As this process has it, where the record has not come back yet.
                message.state, message.reason = State.FAILED, LOST_WRITER
            await publish_end(self._topic, message)
        except LayerUnavailable as error:
            logger.warning("the message %r was not ended: %s", message.id, error)


def _send(
    channel: str, pub: Pub, subscriptions: Collection[ActiveSubscription]
) -> None:
    reply = Reply(push=Push(channel=channel, pub=pub))
    if len(subscriptions) == 1:  # as most answers have, and takes half the time
        (one,) = subscriptions
        one.outbox.push(one.codec.encode(reply))
        return
    receivers: defaultdict[Codec, list[ClientOutbox]] = defaultdict(list)
    for subscription in subscriptions:
        receivers[subscription.codec].append(subscription.outbox)
    for codec, outboxes in receivers.items():
        write_all(outboxes, codec.encode(reply))
