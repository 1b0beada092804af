"""Which groups this process hears, from the first who wants one until after the last.

It knows streams, queues and the broker's ``subscribe``, and neither who wants to hear a
group nor what is said in it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from tiderace.layers.broker import Broker
from tiderace.layers.pubsub.cursors import StreamCursor, StreamCursors
from tiderace.layers.pubsub.queues import Queues
from tiderace.runtime.futures import wait_future

__all__ = ["Subscriptions"]


class _Abandoned(Exception):
    """Whoever was to make a group heard here has given up, since it was cancelled."""


class Subscriptions:
    """What this process has subscribed to at its brokers.

    May be used in any thread and event loop.

    Args:
        brokers: where.
        index_of: which of them serves a group or queue.
        streams: how far each group has been read.
        queues: those that are heard, too, while somebody waits for them.
        wanted: whether a group has a member or listener here.
        expiry: seconds after which a message is not delivered any more.
        clock: seconds that never run backwards.
        lock: held by whoever comes to want a group, and while is looked who does.
    """

    def __init__(
        self,
        brokers: Sequence[Broker],
        *,
        index_of: Callable[[str], int],
        streams: StreamCursors,
        queues: Queues,
        wanted: Callable[[str], bool],
        expiry: float,
        clock: Callable[[], float],
        lock: threading.RLock,
    ) -> None:
        self._brokers = brokers
        self._index_of = index_of
        self._streams = streams
        self._queues = queues
        self._wanted = wanted
        self._expiry = expiry
        self._clock = clock
        self._lock = lock
        # Groups that nobody wants any more, still heard until the next tick.
        self._vacated: set[str] = set()
        # When it was last looked whether a broker's streams miss anything.
        self._checked: dict[int, float] = {}

    @property
    def vacated(self) -> int:
        """How many groups are still heard, and perhaps wanted no more."""
        return len(self._vacated)

    async def hear(self, group: str, want: Callable[[], None]) -> None:
        """Wait until ``group`` is heard; whoever is the first sees to that.

        ``want`` makes that it is wanted. It is called at once, and may be again.

        Raises:
            LayerUnavailable: when the broker could not be reached; it is still wanted.
        """
        while True:
            with self._lock:
                want()
                stream = self._streams.get(group)
                first = stream is None
                if stream is None:
                    broker = self._brokers[self._index_of(group)]
                    stream = self._streams.add(group, broker)
            try:
                if first:
                    await self._begin(stream)
                else:
                    await wait_future(stream.ready)
                return
            except _Abandoned:
                continue

    async def _begin(self, stream: StreamCursor) -> None:
        try:
            await stream.broker.subscribe([stream.subject])
            await self._streams.locate(stream)
        except BaseException as error:
            # Only then tell the others: they may try anew.
            self._streams.remove(stream.subject, stream)
            stream.ready.set_exception(
                error if isinstance(error, Exception) else _Abandoned()
            )
            raise
        stream.ready.set_result(None)

    def vacate(self, group: str) -> None:
        """Nobody here wants the group any more, for now."""
        with self._lock:
            self._vacated.add(group)

    def clear(self) -> None:
        """Hear nothing any more."""
        with self._lock:
            self._vacated.clear()
            self._streams.clear()

    async def tidy(self, index: int) -> None:
        """Unsubscribe from what nobody here wants, or waits for, any more.

        Raises:
            LayerUnavailable: when the broker could not be told; the next call tells it.
        """
        broker = self._brokers[index]
        with self._lock:
            vacated = [each for each in self._vacated if self._index_of(each) == index]
            self._vacated.difference_update(vacated)
            empty = [group for group in vacated if not self._wanted(group)]
            for group in empty:
                self._streams.remove(group)
            idle = self._queues.let_go(lambda queue: self._index_of(queue) == index)
        if not empty and not idle:
            return
        try:
            await broker.unsubscribe(empty, idle)
        except BaseException:
            with self._lock:
                self._vacated.update(empty)
                self._queues.keep(idle)
            raise
        finally:
            # Another thread may have come in between the look and the word.
            groups = [each for each in empty if each in self._streams]
            queues = self._queues.awaited(idle)
            if groups or queues:
                await broker.subscribe(groups, queues)
                streams = (self._streams.get(each) for each in groups)
                self._streams.behind(each for each in streams if each is not None)

    async def check(self, index: int, groups: Iterable[str]) -> None:
        """Look whether what was heard of ``groups`` is all there is, now and then.

        Raises:
            LayerUnavailable: when the broker could not be asked.
        """
        now = self._clock()
        if now - self._checked.get(index, float("-inf")) >= self._expiry / 4:
            self._checked[index] = now
            await self._streams.check(
                each for each in groups if self._index_of(each) == index
            )
