"""How far this process has read each subject, and how it gets what it has missed.

A publication carries its offset. Where one does not follow the last, and after every
interruption, what lies between is fetched from the broker before anything newer is
delivered. It knows the broker's verbs, and nothing of groups, channels and messages.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Protocol

from tiderace import metrics
from tiderace.exceptions import LayerUnavailable
from tiderace.layers.broker import Broker, Position, StreamMessage

__all__ = ["StreamCursor", "StreamCursors"]

logger = logging.getLogger("tiderace.layers")

_NOTHING = Position("", 0)
_AT_ONCE = 200  # subjects that are fetched side by side: few round trips, small bursts
_YIELD_EVERY = 32  # messages, after which the consumers get their turn
_COUNTABLE = 1 << 20  # missed messages; more are a broker's leap
_REMEMBERED = 9.0  # expiries for which a broker certainly remembers a subject's epoch


class StreamCursor:
    """How far this process has read one subject."""

    __slots__ = (
        "again",
        "broker",
        "filling",
        "known_at",
        "position",
        "ready",
        "subject",
    )

    def __init__(self, subject: str, broker: Broker) -> None:
        self.subject = subject
        self.broker = broker
        # None until it is known; then the last publication that was delivered.
        self.position: Position | None = None
        # When the broker last confirmed it.
        self.known_at = float("-inf")
        # What has arrived while missing ones are being fetched, in order.
        self.filling: list[StreamMessage] | None = None
        # Whether something may have been missed since the fetching began.
        self.again = False
        # Done when it is subscribed and its position known.
        self.ready: Future[None] = Future()


class _Deliver(Protocol):
    async def __call__(
        self, subject: str, data: bytes, age: float, position: Position
    ) -> None: ...


class StreamCursors:
    """The subjects that this process hears.

    ``heard`` and ``interrupted`` belong to the loop that hears the brokers, everything
    else may be called in any thread.

    Args:
        expiry: seconds after which a message is not delivered any more.
        at_most: publications held back per subject while missing ones are fetched;
            beyond it they are fetched as well.
        clock: seconds that never run backwards.
        deliver: takes a publication, its age and its position; must not raise.
        report_gap: takes a subject and how many of its messages are lost, if known.
        start: runs a coroutine as a task of the loop that hears the brokers.
        at_home: calls a function in that loop, soon, if there is one.
    """

    def __init__(
        self,
        *,
        expiry: float,
        at_most: int,
        clock: Callable[[], float],
        deliver: _Deliver,
        report_gap: Callable[[str, int | None], None],
        start: Callable[[Coroutine[Any, Any, None]], None],
        at_home: Callable[[Callable[[], None]], None],
    ) -> None:
        self._expiry = expiry
        self._at_most = at_most
        self._clock = clock
        self._deliver = deliver
        self._report_gap = report_gap
        self._start = start
        self._at_home = at_home
        self._by_subject: dict[str, StreamCursor] = {}
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._by_subject))

    def __contains__(self, subject: str) -> bool:
        return subject in self._by_subject

    def get(self, subject: str) -> StreamCursor | None:
        """The stream of ``subject``, if it is heard."""
        return self._by_subject.get(subject)

    def add(
        self, subject: str, broker: Broker, *, from_the_beginning: bool = False
    ) -> StreamCursor:
        """Begin with ``subject``; ``locate`` must follow, or all of it is for us."""
        stream = self._by_subject[subject] = StreamCursor(subject, broker)
        if from_the_beginning:
            stream.position = _NOTHING
            stream.ready.set_result(None)
        return stream

    def remove(self, subject: str, stream: StreamCursor | None = None) -> None:
        """Hear ``subject`` no more; only if it is ``stream``, when that is given."""
        if stream is None or self._by_subject.get(subject) is stream:
            self._by_subject.pop(subject, None)

    def clear(self) -> None:
        """Hear nothing more."""
        self._by_subject.clear()

    def reset(self) -> None:
        """Forget what was being fetched, by tasks that are no more."""
        for stream in list(self._by_subject.values()):
            stream.filling = None
            stream.again = False

    async def locate(self, stream: StreamCursor) -> None:
        """Ask where the subject's stream ends; it must be subscribed to already.

        Raises:
            LayerUnavailable: when the broker could not be reached.
        """
        position = await stream.broker.streams.position(stream.subject)
        # What was heard meanwhile is later than, or part of, what stands there.
        with self._lock:
            if stream.position is None:
                stream.position = position or _NOTHING
                stream.known_at = self._clock()
            missed, stream.again = stream.again, False
        if missed:
            self._at_home(lambda: self.behind([stream]))

    # In the loop that hears the brokers

    async def heard(self, item: StreamMessage) -> None:
        """Deliver a publication, now or when the missing ones before it are there."""
        stream = self._by_subject.get(item.subject)
        if stream is None:
            return
        if stream.filling is not None:
            stream.filling.append(item)
            if len(stream.filling) > self._at_most:
                stream.filling.clear()
                stream.again = True
            return
        position = stream.position
        if position is None:
            with self._lock:
                position = stream.position
                if position is None:
                    stream.position = here = Position(item.epoch, item.offset)
                    stream.known_at = self._clock()
            if position is None:
                await self._deliver(item.subject, item.data, 0.0, here)
                return
        if item.epoch == position.epoch and item.offset <= position.offset:
            return
        if not _follows(item, position):
            stream.filling = [item]
            self._start(self._fill(stream))
            return
        stream.position = here = Position(item.epoch, item.offset)
        stream.known_at = self._clock()
        await self._deliver(item.subject, item.data, 0.0, here)

    def interrupted(self, broker: Broker) -> None:
        """Something may have been missed on every subject of ``broker``: fetch it."""
        self.behind(
            stream
            for stream in list(self._by_subject.values())
            if stream.broker is broker
        )

    def behind(self, streams: Iterable[StreamCursor]) -> None:
        """Something may have been missed on these: fetch it."""
        waiting = []
        for stream in streams:
            with self._lock:
                if stream.position is None:
                    # Whoever is asking for it will see to that.
                    stream.again = True
                    continue
            if stream.filling is None:
                stream.filling = []
                waiting.append(stream)
            else:
                stream.again = True
        if waiting:
            self._start(self._catch_up(waiting))

    async def check(self, subjects: Iterable[str]) -> None:
        """Ask where those streams end that nothing was heard of for an expiry.

        What was missed without a sign is fetched then; and the broker does not forget
        the position of a stream that somebody waits for.

        Raises:
            LayerUnavailable: when a broker could not be reached.
        """
        since = self._clock() - self._expiry
        streams = [self._by_subject.get(subject) for subject in subjects]
        await _side_by_side(
            self._check,
            [each for each in streams if each is not None and each.known_at <= since],
        )

    async def _check(self, stream: StreamCursor) -> None:
        known = stream.position
        if known is None or stream.filling is not None:
            return
        end = await stream.broker.streams.position(stream.subject) or _NOTHING
        if stream.position is not known or self.get(stream.subject) is not stream:
            return
        if end == known:
            stream.known_at = self._clock()
        else:
            self.behind([stream])

    async def _catch_up(self, streams: list[StreamCursor]) -> None:
        await _side_by_side(self._fill, streams)

    async def _fill(self, stream: StreamCursor) -> None:
        """Fetch what was missed on a subject, then go on with what has come since."""
        mine = stream.filling
        if mine is None:
            return
        tries = 0
        try:
            while self._is_current(stream, mine):
                stream.again = False
                try:
                    await self._fetch(stream, mine)
                    if not await self._go_on(stream, mine) and not stream.again:
                        return
                except LayerUnavailable as error:
                    if tries == 0:
                        logger.warning(
                            "missed messages of %s cannot be fetched yet: %s",
                            stream.subject,
                            error,
                        )
                    tries += 1
                    await asyncio.sleep(min(1.0, 0.05 * 2.0**tries))
        finally:
            if stream.filling is mine:
                stream.filling = None

    def _is_current(self, stream: StreamCursor, mine: list[StreamMessage]) -> bool:
        return stream.filling is mine and self._by_subject.get(stream.subject) is stream

    async def _fetch(self, stream: StreamCursor, mine: list[StreamMessage]) -> None:
        base = (stream.position or _NOTHING).offset
        while True:
            position = stream.position or _NOTHING
            end, entries = await stream.broker.streams.read_after(
                stream.subject, position.offset
            )
            if not self._is_current(stream, mine):
                return
            if end is None or end.epoch != position.epoch:
                self._note_loss(stream, position, end)
                base = 0
                if end is None:
                    return
                if position.offset:
                    continue
            stream.known_at = self._clock()
            living = [entry for entry in entries if entry.age < self._expiry]
            complete = not entries or entries[-1].offset >= end.offset
            if living or complete:
                # After a leap that is not how many, but that there are some is sure.
                missing = (living[0].before if living else end.offset) - base
                if missing > 0:
                    self._report_gap(
                        stream.subject, missing if missing < _COUNTABLE else None
                    )
            for number, entry in enumerate(living):
                base = entry.offset
                stream.position = here = Position(end.epoch, entry.offset)
                metrics.GAPS_FILLED.add()
                age = max(0.0, entry.age)
                await self._deliver(stream.subject, entry.data, age, here)
                if number % _YIELD_EVERY == _YIELD_EVERY - 1:
                    await asyncio.sleep(0)
                if not self._is_current(stream, mine):
                    return
            if complete:
                stream.position = Position(end.epoch, max(base, end.offset))
                return
            stream.position = Position(end.epoch, entries[-1].offset)

    def _note_loss(
        self, stream: StreamCursor, position: Position, end: Position | None
    ) -> None:
        # Forgotten for want of use, unless the broker cannot have forgotten it yet.
        lately = self._clock() - stream.known_at < self._expiry * _REMEMBERED
        if position.epoch and lately:
            self._report_gap(stream.subject, None)
        stream.position = _NOTHING if end is None else Position(end.epoch, 0)
        stream.known_at = self._clock()

    async def _go_on(self, stream: StreamCursor, mine: list[StreamMessage]) -> bool:
        """Deliver what arrived while filling; True when there is a gap again."""
        done = 0
        while done < len(mine) and self._is_current(stream, mine):
            item = mine[done]
            position = stream.position or _NOTHING
            if item.epoch != position.epoch or item.offset > position.offset:
                if not _follows(item, position):
                    del mine[:done]
                    return True
                stream.position = here = Position(item.epoch, item.offset)
                await self._deliver(item.subject, item.data, 0.0, here)
            done += 1
            if done % _YIELD_EVERY == 0:
                del mine[:done]
                done = 0
                await asyncio.sleep(0)
        return False


def _follows(item: StreamMessage, position: Position) -> bool:
    if not position.epoch:
        return item.offset == 1
    return item.epoch == position.epoch and item.offset == position.offset + 1


async def _side_by_side(
    do: Callable[[StreamCursor], Coroutine[Any, Any, None]], streams: list[StreamCursor]
) -> None:
    """Do it for each of ``streams``, many at a time."""
    waiting = iter(streams)

    async def work() -> None:
        for stream in waiting:
            await do(stream)

    await asyncio.gather(*(work() for _ in streams[:_AT_ONCE]))
