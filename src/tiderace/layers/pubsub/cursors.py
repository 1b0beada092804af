"""How far this process has read each stream, and the fetching of missed messages.

A message carries its offset. When one does not follow the last, and after every
interruption, what is missing is fetched from the broker before anything newer is
delivered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Protocol

from tiderace import metrics
from tiderace.exceptions import LayerUnavailable
from tiderace.layers.broker import Broker, Position, StreamMessage
from tiderace.layers.pubsub.loop_tasks import LoopTasks

__all__ = ["START", "Sink", "StreamCursor", "StreamCursors"]

logger = logging.getLogger("tiderace.layers")

START = Position("", 0)
"""The position before the first message of any epoch."""

_FETCHES_AT_ONCE = 200  # few round trips, small bursts
_YIELD_EVERY = 32  # messages between two chances for consumers to run
_COUNTABLE = 1 << 20  # missed messages; more come from the leap after a failover
_REMEMBERED = 9.0  # expiries for which a broker certainly remembers a stream's epoch


class Sink(Protocol):
    """Takes the messages of a stream, in order; its methods do not raise."""

    async def deliver(
        self, subject: str, data: bytes, age: float, position: Position
    ) -> None:
        """Take a message that was published ``age`` seconds ago."""

    def report_gap(self, subject: str, missed: int | None) -> None:
        """Take note that messages are lost: how many, or None when that is unknown."""


class StreamCursor:
    """How far this process has read one stream."""

    __slots__ = (
        "broker",
        "buffered",
        "confirmed_at",
        "is_behind",
        "position",
        "ready",
        "sink",
        "subject",
    )

    def __init__(self, subject: str, broker: Broker, sink: Sink) -> None:
        self.subject = subject
        self.broker = broker
        self.sink = sink
        # The last message that was delivered; None until the position is fetched.
        self.position: Position | None = None
        # When the broker last confirmed the position.
        self.confirmed_at = float("-inf")
        # Messages that arrived while missing ones are being fetched, in order; None
        # while nothing is being fetched.
        self.buffered: list[StreamMessage] | None = None
        # Whether more may have been missed since the fetching began.
        self.is_behind = False
        # Done when the stream is subscribed to and its position fetched.
        self.ready: Future[None] = Future()


class StreamCursors:
    """The streams that this process reads.

    ``on_message``, ``on_reconnect`` and ``catch_up`` belong to the loop in which
    ``start`` was called, everything else may be called in any thread.

    Args:
        expiry: seconds after which a message is not delivered any more.
        max_buffered: messages held back per stream while missing ones are fetched;
            beyond it they are fetched as well.
        clock: seconds that never run backwards.
        tasks: runs the fetching.
    """

    def __init__(
        self,
        *,
        expiry: float,
        max_buffered: int,
        clock: Callable[[], float],
        tasks: LoopTasks,
    ) -> None:
        self._expiry = expiry
        self._max_buffered = max_buffered
        self._clock = clock
        self._tasks = tasks
        self._by_subject: dict[str, StreamCursor] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._by_subject))

    def __contains__(self, subject: str) -> bool:
        return subject in self._by_subject

    def get(self, subject: str) -> StreamCursor | None:
        """Return the cursor of a stream, or None when it is not read."""
        return self._by_subject.get(subject)

    def add(
        self, subject: str, broker: Broker, sink: Sink, position: Position | None = None
    ) -> StreamCursor:
        """Begin to read a stream, after ``position``.

        Without a position ``fetch_position`` must follow the subscription.
        """
        cursor = self._by_subject[subject] = StreamCursor(subject, broker, sink)
        if position is not None:
            cursor.position = position
            cursor.ready.set_result(None)
        return cursor

    def remove(self, subject: str, cursor: StreamCursor | None = None) -> None:
        """Stop reading a stream; only if ``cursor``, when given, is its cursor."""
        if cursor is None or self._by_subject.get(subject) is cursor:
            self._by_subject.pop(subject, None)

    def clear(self) -> None:
        """Stop reading all streams."""
        self._by_subject.clear()

    def start(self) -> None:
        """Fetch missed messages in the running loop; the tasks of another are over."""
        self._loop = asyncio.get_running_loop()
        for cursor in list(self._by_subject.values()):
            cursor.buffered = None
            cursor.is_behind = False

    def stop(self) -> None:
        """Begin no more fetching before the next ``start``."""
        self._loop = None

    async def fetch_position(self, cursor: StreamCursor) -> None:
        """Begin at the end of the stream, which must be subscribed to already.

        Raises:
            LayerUnavailable: when the broker could not be reached.
        """
        position = await cursor.broker.streams.position(cursor.subject)
        # Messages that arrived meanwhile are later than this position, or part of it.
        with self._lock:
            if cursor.position is None:
                cursor.position = position or START
                cursor.confirmed_at = self._clock()
            is_behind, cursor.is_behind = cursor.is_behind, False
        if is_behind:
            self.request_catch_up([cursor])

    def request_catch_up(self, cursors: list[StreamCursor]) -> None:
        """Call ``catch_up`` soon in the loop that fetches, if there is one."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # that loop is closed
                loop.call_soon_threadsafe(self.catch_up, cursors)

    # In the loop that receives from the brokers

    async def on_message(self, item: StreamMessage) -> None:
        """Deliver a message, now or when the missing ones before it are delivered."""
        cursor = self._by_subject.get(item.subject)
        if cursor is None:
            return
        if cursor.buffered is not None:
            cursor.buffered.append(item)
            if len(cursor.buffered) > self._max_buffered:
                cursor.buffered.clear()
                cursor.is_behind = True
            return
        position = cursor.position
        if position is None:
            with self._lock:
                position = cursor.position
                if position is None:
                    cursor.position = here = Position(item.epoch, item.offset)
                    cursor.confirmed_at = self._clock()
            if position is None:
                await cursor.sink.deliver(item.subject, item.data, 0.0, here)
                return
        if item.epoch == position.epoch and item.offset <= position.offset:
            return
        if not _follows(item, position):
            cursor.buffered = [item]
            self._tasks.spawn(self._fill_gap(cursor))
            return
        cursor.position = here = Position(item.epoch, item.offset)
        cursor.confirmed_at = self._clock()
        await cursor.sink.deliver(item.subject, item.data, 0.0, here)

    def on_reconnect(self, broker: Broker) -> None:
        """Fetch what may have been missed on all streams of ``broker``."""
        cursors = list(self._by_subject.values())
        self.catch_up(cursor for cursor in cursors if cursor.broker is broker)

    def catch_up(self, cursors: Iterable[StreamCursor]) -> None:
        """Fetch what may have been missed on these streams."""
        waiting = []
        for cursor in cursors:
            with self._lock:
                if cursor.position is None:
                    # ``fetch_position`` is at work and will see this.
                    cursor.is_behind = True
                    continue
            if cursor.buffered is None:
                cursor.buffered = []
                waiting.append(cursor)
            else:
                cursor.is_behind = True
        if waiting:
            self._tasks.spawn(_run_for_each(self._fill_gap, waiting))

    async def check_positions(self, subjects: Iterable[str]) -> None:
        """Fetch the position of streams on which nothing arrived for an expiry.

        It finds messages that were missed without a sign, and the broker does not
        forget the position of a stream that is read.

        Raises:
            LayerUnavailable: when a broker could not be reached.
        """
        since = self._clock() - self._expiry
        cursors = [self._by_subject.get(subject) for subject in subjects]
        await _run_for_each(
            self._check_position,
            [
                cursor
                for cursor in cursors
                if cursor is not None and cursor.confirmed_at <= since
            ],
        )

    async def _check_position(self, cursor: StreamCursor) -> None:
        known = cursor.position
        if known is None or cursor.buffered is not None:
            return
        end = await cursor.broker.streams.position(cursor.subject) or START
        if cursor.position is not known or self.get(cursor.subject) is not cursor:
            return
        if end == known:
            cursor.confirmed_at = self._clock()
        else:
            self.catch_up([cursor])

    async def _fill_gap(self, cursor: StreamCursor) -> None:
        """Fetch what was missed on a stream, then deliver what has arrived since."""
        buffered = cursor.buffered
        if buffered is None:
            return
        tries = 0
        try:
            while self._is_current(cursor, buffered):
                cursor.is_behind = False
                try:
                    await self._fetch(cursor, buffered)
                    has_gap = await self._deliver_buffered(cursor, buffered)
                    if not has_gap and not cursor.is_behind:
                        return
                except LayerUnavailable as error:
                    if tries == 0:
                        logger.warning(
                            "missed messages of %s cannot be fetched yet: %s",
                            cursor.subject,
                            error,
                        )
                    tries += 1
                    await asyncio.sleep(min(1.0, 0.05 * 2.0**tries))
        finally:
            if cursor.buffered is buffered:
                cursor.buffered = None

    def _is_current(self, cursor: StreamCursor, buffered: list[StreamMessage]) -> bool:
        return (
            cursor.buffered is buffered
            and self._by_subject.get(cursor.subject) is cursor
        )

    async def _fetch(self, cursor: StreamCursor, buffered: list[StreamMessage]) -> None:
        base = (cursor.position or START).offset
        while True:
            position = cursor.position or START
            end, entries = await cursor.broker.streams.read_after(
                cursor.subject, position.offset
            )
            if not self._is_current(cursor, buffered):
                return
            if end is None or end.epoch != position.epoch:
                self._begin_epoch(cursor, position, end)
                base = 0
                if end is None:
                    return
                if position.offset:
                    continue
            cursor.confirmed_at = self._clock()
            living = [entry for entry in entries if entry.age < self._expiry]
            is_complete = not entries or entries[-1].offset >= end.offset
            if living or is_complete:
                # After a leap that is not how many, but that there are some is sure.
                missed = (living[0].before if living else end.offset) - base
                if missed > 0:
                    cursor.sink.report_gap(
                        cursor.subject, missed if missed < _COUNTABLE else None
                    )
            for number, entry in enumerate(living):
                base = entry.offset
                cursor.position = here = Position(end.epoch, entry.offset)
                metrics.GAPS_FILLED.add()
                age = max(0.0, entry.age)
                await cursor.sink.deliver(cursor.subject, entry.data, age, here)
                if number % _YIELD_EVERY == _YIELD_EVERY - 1:
                    await asyncio.sleep(0)
                if not self._is_current(cursor, buffered):
                    return
            if is_complete:
                cursor.position = Position(end.epoch, max(base, end.offset))
                return
            cursor.position = Position(end.epoch, entries[-1].offset)

    def _begin_epoch(
        self, cursor: StreamCursor, position: Position, end: Position | None
    ) -> None:
        # The broker forgets an unused stream, but not within this time: then it has
        # lost its data.
        is_recent = self._clock() - cursor.confirmed_at < self._expiry * _REMEMBERED
        if position.epoch and is_recent:
            cursor.sink.report_gap(cursor.subject, None)
        cursor.position = START if end is None else Position(end.epoch, 0)
        cursor.confirmed_at = self._clock()

    async def _deliver_buffered(
        self, cursor: StreamCursor, buffered: list[StreamMessage]
    ) -> bool:
        """Deliver what arrived during the fetching; return True at another gap."""
        done = 0
        while done < len(buffered) and self._is_current(cursor, buffered):
            item = buffered[done]
            position = cursor.position or START
            if item.epoch != position.epoch or item.offset > position.offset:
                if not _follows(item, position):
                    del buffered[:done]
                    return True
                cursor.position = here = Position(item.epoch, item.offset)
                await cursor.sink.deliver(item.subject, item.data, 0.0, here)
            done += 1
            if done % _YIELD_EVERY == 0:
                del buffered[:done]
                done = 0
                await asyncio.sleep(0)
        return False


def _follows(item: StreamMessage, position: Position) -> bool:
    if not position.epoch:
        return item.offset == 1
    return item.epoch == position.epoch and item.offset == position.offset + 1


async def _run_for_each(
    function: Callable[[StreamCursor], Coroutine[Any, Any, None]],
    cursors: list[StreamCursor],
) -> None:
    """Call ``function`` for each of ``cursors``, for many at a time."""
    waiting = iter(cursors)

    async def work() -> None:
        for cursor in waiting:
            await function(cursor)

    await asyncio.gather(*(work() for _ in cursors[:_FETCHES_AT_ONCE]))
