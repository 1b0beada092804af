"""Delivers the numbers of members of a topic to all clients in one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from tiderace.exceptions import LayerUnavailable
from tiderace.history import Position, Publication
from tiderace.presence.tracker import Presence
from tiderace.protocol import codes
from tiderace.protocol.session import Refused
from tiderace.runtime.tasks import TaskGroup
from tiderace.topics.declaration.latest import Latest
from tiderace.topics.declaration.occupancy import Occupancy, OccupancyNumbers
from tiderace.topics.declaration.topic import Topic, declared
from tiderace.topics.fanout.latest_feed import LatestFeed, LatestSubscriber
from tiderace.topics.streams import layer_of, without_presence

# Seconds between two reads while there are no joins and leaves: another connection of a
# present user causes no event, and an event may be lost.
_POLL = 10.0

# The fewest seconds before the next read while the last one has not ended.
_BUSY = 0.1

# The fewest seconds before the next read after one that failed.
_AFTER_ERROR = 1.0


def counted_topic(topic: Occupancy) -> Topic:
    """Return the topic that is counted.

    Raises:
        UnknownTopic: when no topic is declared for its name.
        Refused: when it has no presence.
    """
    counted = declared.resolve(topic.counted())
    if counted.presence is Presence.OFF:
        raise Refused(codes.NOT_AVAILABLE, reason=without_presence(counted))
    return counted


class OccupancyFeed(LatestFeed):
    """A listener to the joins and leaves of a topic, which reads the numbers after them.

    Args:
        counted: the topic that is counted.
        group: the group of its joins and leaves.
        deliver: how often the numbers are read and delivered.
        call_later: that of the event loop; a parameter for tests.
        clock: the ``time`` of the event loop; a parameter for tests.
        tasks: the task group in which the numbers are read.
        limit, paced: as for ``LatestFeed``.
    """

    def __init__(
        self,
        counted: Topic,
        group: str,
        deliver: Latest,
        call_later: Callable[[float, Callable[[], None]], asyncio.TimerHandle],
        clock: Callable[[], float],
        tasks: TaskGroup,
        *,
        limit: int,
        paced: bool = True,
    ) -> None:
        super().__init__(group, deliver, call_later, limit=limit, paced=paced)
        self._store: Any = layer_of(counted).presence
        self._counted = counted.topic
        self._interval = deliver.interval if paced else 0.0
        self._clock = clock
        self._tasks = tasks
        self._numbers: OccupancyNumbers | None = None
        self._count = 0
        # When the numbers were read last, and when they are to be read next.
        self._read_at = float("-inf")
        self._due_at = float("inf")
        self._reading = False
        self._due: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Read the numbers, now and then regularly."""
        self._read_in(0.0)

    def add(self, subscriber: LatestSubscriber) -> None:
        """Add a subscriber; it gets the last numbers when it is active."""
        super().add(subscriber)
        subscriber.seen = 0

    def discard(self, subscriber: LatestSubscriber) -> None:
        """Remove a subscriber; after the last one the numbers are no longer read."""
        super().discard(subscriber)
        if not self.receivers and self._due is not None:
            self._due.cancel()
            self._due = None

    def activate(self, subscriber: LatestSubscriber) -> None:
        """Send the numbers to a new subscriber at once."""
        if self._count:
            self._send_since(0, self._count, [subscriber])

    def on_publication(self, group: str, publication: Publication) -> None:
        """Read the numbers after a join or leave, as soon as the rate allows."""
        self._read_in(self._read_at + self._interval - self._clock())

    def on_gap(self, group: str) -> None:
        """Read the numbers after events that were lost."""
        self._read_in(self._read_at + self._interval - self._clock())

    def _forget(self, offset: int) -> None:
        """Keep the numbers, for subscribers that come later."""

    def _read_in(self, delay: float) -> None:
        if not self.receivers:
            return
        at = self._clock() + max(0.0, delay)
        if self._due is not None:
            if self._due_at <= at:
                return
            self._due.cancel()
        self._due_at = at
        self._due = self._call_later(max(0.0, delay), self._on_due)

    def _on_due(self) -> None:
        self._due = None
        if self._reading:
            # Two reads must not run at once: the older one could end last.
            self._read_in(max(_BUSY, self._interval))
            return
        self._reading = True
        self._tasks.spawn(self._read())

    async def _read(self) -> None:
        self._read_at = self._clock()
        try:
            numbers = OccupancyNumbers(*await self._store.stats(self._counted))
        except Exception as error:
            # Without another read the subscribers would get no numbers any more.
            self._read_in(max(_AFTER_ERROR, self._interval))
            if isinstance(error, LayerUnavailable):  # which is expected
                return
            raise
        finally:
            self._reading = False
        if numbers != self._numbers:
            self._numbers = numbers
            self._count += 1
            data = msgspec.json.encode(numbers).decode()
            place = Position("", self._count)
            super().on_publication(self.group, Publication(place, data))
        self._read_in(max(_POLL, self._interval))
