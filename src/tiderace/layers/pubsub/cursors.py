"""The streams that this process reads.

A message carries its offset. When one does not follow the last, and after every
reconnect, the missing messages are fetched from the broker before newer ones are
delivered.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any

from tiderace.history import Position
from tiderace.layers.broker import Broker, StreamMessage
from tiderace.layers.pubsub.gap_filler import (
    START,
    GapFiller,
    Sink,
    StreamCursor,
    follows,
    is_new,
)
from tiderace.layers.pubsub.loop_tasks import LoopTasks

_FETCHES_AT_ONCE = 200  # few round trips, small bursts


class StreamCursors:
    """The position of this process in each stream that it reads.

    ``on_message``, ``on_reconnect`` and ``catch_up`` belong to the loop in which
    ``start`` was called, everything else may be called in any thread.

    Args:
        expiry: seconds after which a message is not delivered any more.
        max_buffered: messages buffered per stream while missing ones are fetched;
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
        self._gaps = GapFiller(self._by_subject, expiry=expiry, clock=clock)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._by_subject))

    def __contains__(self, subject: str) -> bool:
        return subject in self._by_subject

    @property
    def is_receiving(self) -> bool:
        """Whether a running loop delivers the messages of the streams."""
        return self._loop is not None and self._loop.is_running()

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
        """Fetch missed messages in the running loop from now on."""
        self._loop = asyncio.get_running_loop()
        for cursor in list(self._by_subject.values()):
            cursor.buffered = None
            cursor.is_behind = False

    def stop(self) -> None:
        """Start no fetch before the next ``start``."""
        self._loop = None

    async def fetch_position(self, cursor: StreamCursor) -> None:
        """Begin at the end of the stream, which must be subscribed to already.

        Raises:
            LayerUnavailable: when the broker could not be reached.
        """
        position = await cursor.broker.streams.position(cursor.subject)
        # Messages that arrived meanwhile may be before or after this position.
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

    def on_message(self, item: StreamMessage) -> Awaitable[None] | None:
        """Return the delivery of a message, to be awaited.

        None for a message that is not delivered now: an earlier one, or one that waits for
        the missing ones before it.
        """
        cursor = self._by_subject.get(item.subject)
        if cursor is None:
            return None
        if cursor.buffered is not None:
            cursor.buffered.append(item)
            if len(cursor.buffered) > self._max_buffered:
                cursor.buffered.clear()
                cursor.is_behind = True
            return None
        position = cursor.position
        if position is None:
            with self._lock:
                position = cursor.position
                if position is None:
                    if cursor.broker.delivers_earlier:
                        # If it was sent after the position, it is fetched again.
                        cursor.is_behind = True
                        return None
                    cursor.position = item.position
        if position is not None:
            if not is_new(item, position):
                return None
            if not follows(item, position):
                cursor.buffered = [item]
                self._tasks.spawn(self._gaps.fill(cursor))
                return None
            cursor.position = item.position
        cursor.confirmed_at = self._clock()
        return cursor.sink.deliver(item)

    def on_reconnect(self, broker: Broker) -> None:
        """Fetch messages that may have been missed on all streams of ``broker``."""
        cursors = list(self._by_subject.values())
        self.catch_up(cursor for cursor in cursors if cursor.broker is broker)

    def catch_up(self, cursors: Iterable[StreamCursor]) -> None:
        """Fetch messages that may have been missed on these streams."""
        waiting = []
        for cursor in cursors:
            with self._lock:
                if cursor.position is None:
                    # ``fetch_position`` is running and reads this when it ends.
                    cursor.is_behind = True
                    continue
            if cursor.buffered is None:
                cursor.buffered = []
                waiting.append(cursor)
            else:
                cursor.is_behind = True
        if waiting:
            self._tasks.spawn(_run_for_each(self._gaps.fill, waiting))

    async def check_positions(self, subjects: Iterable[str]) -> None:
        """Fetch the position of streams on which nothing arrived for an expiry.

        It finds messages that were missed without a disconnect, and keeps the broker
        from dropping the position of a stream that is read.

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
