"""Delivers a topic's newest values at a limited rate to its subscribers in one event loop.

One listener, one timer and one table of values serve all subscribers of a topic in an
event loop. The table has the newest publication of each key, by offset; a subscriber has
only the offset up to which it has received everything. So a publication costs the same
for any number of subscribers, and a client that reads slowly has no backlog: it is
skipped until it has read, and then gets the values above its offset. The values that wait
for such clients alone are bounded in bytes.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable
from typing import Any, Protocol

from tiderace import metrics
from tiderace.history import Position, Publication
from tiderace.topics.declaration.latest import Latest
from tiderace.topics.fanout.outbox import ClientOutbox, write_all


class LatestSubscriber(Protocol):
    """A subscriber of a feed, which belongs to its event loop."""

    outbox: ClientOutbox
    seen: int
    """The offset up to which it has received everything; written by the feed."""

    @property
    def active(self) -> bool:
        """Whether publications may be sent: not before the reply to its command."""

    @property
    def encoding(self) -> Hashable:
        """Equal for all subscribers that get the same bytes."""

    def encode(self, publication: Publication) -> bytes:
        """Return a publication as a frame."""

    def on_gap(self, group: str) -> None:
        """React to publications that are lost."""


class LatestFeed:
    """A listener to the topic's stream; its subscribers get the newest values.

    Args:
        group: the topic's.
        deliver: the rate and the key.
        call_later: that of the event loop; a parameter for tests.
        limit: bytes of the values that wait for clients that read slowly.
        paced: whether the rate is limited and slow clients are skipped; False in the
            tests of projects.
    """

    def __init__(
        self,
        group: str,
        deliver: Latest,
        call_later: Callable[[float, Callable[[], None]], asyncio.TimerHandle],
        *,
        limit: int,
        paced: bool = True,
    ) -> None:
        self.groups: Collection[str] = ()
        self.starting = asyncio.Lock()
        """Held while the feed begins to listen."""
        self.listening = False
        """Whether the layer has confirmed that it listens."""
        self.group = group
        self._deliver = deliver
        self._call_later = call_later
        self._limit = limit
        self._paced = paced
        self._subscribers: dict[int, LatestSubscriber] = {}
        # The newest publication of each key, by offset, until all subscribers have it.
        self._values: dict[Hashable, Publication] = {}
        # The bytes of their data.
        self._size = 0
        # The feed has received all publications after offset _start up to _position.
        self._start = 0
        self._position: Position | None = None
        # The offset up to which the last delivery went, and that of the last value dropped.
        self._delivered = 0
        self._dropped = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin, now that the feed listens."""

    @property
    def receivers(self) -> int:
        """The number of subscribers."""
        return len(self._subscribers)

    def add(self, subscriber: LatestSubscriber) -> None:
        """Add a subscriber; it gets what is published from now on."""
        position = self._position
        subscriber.seen = 0 if position is None else position.offset
        self._subscribers[id(subscriber)] = subscriber

    def discard(self, subscriber: LatestSubscriber) -> None:
        """Remove a subscriber; the last one stops the timer."""
        self._subscribers.pop(id(subscriber), None)
        if not self._subscribers and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def begin_at(self, subscriber: LatestSubscriber, position: Position) -> bool:
        """Have a subscriber continue at a position of the stream.

        Returns:
            False when the publications that the feed has do not follow the position
            without a gap: read the stream again.
        """
        known = self._position
        if known is None or known.epoch != position.epoch:
            if known is not None:
                self._lose_all()
            self._start, self._position = position.offset, position
        elif position.offset < self._start:
            return False
        subscriber.seen = position.offset
        return True

    def activate(self, subscriber: LatestSubscriber) -> None:
        """Send what has waited for a subscriber that is active now, as the rate allows."""
        if self._timer is None:
            self._send()

    # Publications

    def on_publication(self, group: str, publication: Publication) -> None:
        """Take a publication; send it at once if the last delivery is long enough ago."""
        place, known = publication.position, self._position
        if known is not None and known.epoch != place.epoch:
            if known.epoch:
                self._lose_all()
            known = self._position = None
        if known is not None:
            if place.offset <= known.offset:
                return
            if publication.before != known.offset:
                self.on_gap(group)
        if self._position is None:
            self._start = publication.before
        self._position = place
        key, values = self._deliver.key_of(publication.data), self._values
        if key in values and self._remove(key) > self._delivered:
            metrics.PUBLICATIONS_REPLACED.add()
        values[key] = publication
        self._size += len(publication.data)
        if len(values) > self._deliver.keys:
            self._dropped = self._remove(next(iter(values)))
        if self._size > self._limit:
            self._drop_delivered()
        if self._timer is None:
            self._send()

    def on_gap(self, group: str) -> None:
        """Report lost publications to all subscribers."""
        self._position = None
        for each in list(self._subscribers.values()):
            each.on_gap(group)

    def _lose_all(self) -> None:
        """Drop everything at the beginning of another epoch, whose offsets begin anew."""
        self._values.clear()
        self._delivered = self._dropped = self._size = 0
        self.on_gap(self.group)
        for each in self._subscribers.values():
            each.seen = 0

    def _tick(self) -> None:
        self._timer = None
        self._send()

    def _send(self) -> None:
        """Send what is new to all subscribers that have read what they got before."""
        if not self._values:
            return
        end = next(reversed(self._values.values())).position.offset
        batches: defaultdict[tuple[Hashable, int], list[Any]] = defaultdict(list)
        oldest, lagging = end, False
        for each in list(self._subscribers.values()):
            seen = each.seen
            if seen < end:
                if each.active and seen < self._dropped:
                    metrics.LATEST_VALUES_DROPPED.add()
                    each.on_gap(self.group)
                    if id(each) not in self._subscribers:
                        continue  # it subscribes again
                if each.active and not (self._paced and each.outbox.busy):
                    batches[each.encoding, seen].append(each)
                    continue
                lagging = lagging or each.active
                oldest = min(oldest, seen)
        for (_, seen), subscribers in batches.items():
            self._send_since(seen, end, subscribers)
        self._delivered = max(self._delivered, end)
        self._forget(oldest)
        if (batches or lagging) and self._paced and self._subscribers:
            self._timer = self._call_later(self._deliver.interval, self._tick)

    def _send_since(
        self, seen: int, end: int, subscribers: list[LatestSubscriber]
    ) -> None:
        new: list[Publication] = []
        for publication in reversed(self._values.values()):
            if publication.position.offset <= seen:
                break
            new.append(publication)
        first = subscribers[0]
        frames = [first.encode(each) for each in reversed(new)]
        frame = frames[0] if len(frames) == 1 else first.outbox.codec.join(frames)
        for each in subscribers:
            each.seen = end
        metrics.MESSAGES_DELIVERED.add(len(subscribers) * len(frames))
        write_all([each.outbox for each in subscribers], frame)

    def _forget(self, offset: int) -> None:
        """Forget the values up to ``offset``, which all subscribers have."""
        values = self._values
        while values:
            key = next(iter(values))
            if values[key].position.offset > offset:
                return
            self._remove(key)

    def _remove(self, key: Hashable) -> int:
        """Remove a value, and return its offset."""
        removed = self._values.pop(key)
        self._size -= len(removed.data)
        return removed.position.offset

    def _drop_delivered(self) -> None:
        """Drop the oldest values beyond the limit that only slow clients have not got."""
        values = self._values
        while self._size > self._limit:
            key = next(iter(values))
            if values[key].position.offset > self._delivered:
                return
            self._dropped = self._remove(key)
