"""The position of this process in one stream, and the fetching of missed messages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Protocol

from tiderace import metrics
from tiderace.asgi import printable
from tiderace.exceptions import LayerUnavailable
from tiderace.history import Position
from tiderace.layers.backoff import backoff
from tiderace.layers.broker import Broker, StreamMessage

logger = logging.getLogger("tiderace.layers")

START = Position("", 0)
"""The position before the first message of any epoch."""

_YIELD_EVERY = 32  # messages between two chances for consumers to run
_COUNTABLE = 1 << 20  # missed messages; a larger number comes from offsets skipped
_REMEMBERED = 9.0  # expiries for which a broker is sure to keep a stream's epoch


class Sink(Protocol):
    """Takes the messages of a stream, in order; its methods do not raise."""

    async def deliver(self, message: StreamMessage) -> None:
        """Handle a message."""

    def report_gap(self, subject: str, missed: int | None) -> None:
        """Handle a loss: the number of messages, or None when that is unknown."""


class StreamCursor:
    """The position of this process in one stream, and messages ahead of it."""

    __slots__ = (
        "broker",
        "buffered",
        "confirmed_at",
        "is_behind",
        "position",
        "published",
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
        # The position of the last message that this process has published.
        self.published = START
        # When the broker last confirmed the position.
        self.confirmed_at = float("-inf")
        # Messages that arrived while missing ones are being fetched, in order; None
        # while nothing is being fetched.
        self.buffered: list[StreamMessage] | None = None
        # Whether more may have been missed since the fetching began.
        self.is_behind = False
        # Done when the stream is subscribed to and its position fetched.
        self.ready: Future[None] = Future()

    @property
    def awaits_own(self) -> bool:
        """Whether a message that this process has published has not come back yet."""
        own, position = self.published, self.position or START
        return own.offset > position.offset or own.epoch not in ("", position.epoch)


class GapFiller:
    """Fetches the missed messages of streams from their brokers.

    Args:
        cursors: the streams that are read, by name; fetching for a
            cursor that is no longer among them ends.
        expiry: seconds after which a message is not delivered any more.
        clock: seconds that never run backwards.
    """

    def __init__(
        self,
        cursors: Mapping[str, StreamCursor],
        *,
        expiry: float,
        clock: Callable[[], float],
    ) -> None:
        self._cursors = cursors
        self._expiry = expiry
        self._clock = clock

    async def fill(self, cursor: StreamCursor) -> None:
        """Fetch missed messages of a stream, then deliver those that came meanwhile."""
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
                            printable(cursor.subject),
                            error,
                        )
                    tries += 1
                    await asyncio.sleep(backoff(tries))
        finally:
            if cursor.buffered is buffered:
                cursor.buffered = None

    def _is_current(self, cursor: StreamCursor, buffered: list[StreamMessage]) -> bool:
        return (
            cursor.buffered is buffered and self._cursors.get(cursor.subject) is cursor
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
            is_complete = not entries or entries[-1].position.offset >= end.offset
            if living or is_complete:
                # After skipped offsets the number is too large, but some were lost.
                missed = (living[0].before if living else end.offset) - base
                if missed > 0:
                    cursor.sink.report_gap(
                        cursor.subject, missed if missed < _COUNTABLE else None
                    )
            for number, entry in enumerate(living):
                base = entry.position.offset
                cursor.position = entry.position
                metrics.GAPS_FILLED.add()
                await cursor.sink.deliver(entry)
                if number % _YIELD_EVERY == _YIELD_EVERY - 1:
                    await asyncio.sleep(0)
                if not self._is_current(cursor, buffered):
                    return
            if is_complete:
                cursor.position = Position(end.epoch, max(base, end.offset))
                return
            cursor.position = entries[-1].position

    def _begin_epoch(
        self, cursor: StreamCursor, position: Position, end: Position | None
    ) -> None:
        # The broker drops an unused stream, but not within this time: if it is recent,
        # the broker has lost its data.
        is_recent = self._clock() - cursor.confirmed_at < self._expiry * _REMEMBERED
        if position.epoch and is_recent:
            cursor.sink.report_gap(cursor.subject, None)
        cursor.position = START if end is None else Position(end.epoch, 0)
        cursor.confirmed_at = self._clock()

    async def _deliver_buffered(
        self, cursor: StreamCursor, buffered: list[StreamMessage]
    ) -> bool:
        """Deliver messages that arrived meanwhile; return True at another gap."""
        done = 0
        while done < len(buffered) and self._is_current(cursor, buffered):
            item = buffered[done]
            position = cursor.position or START
            if is_new(item, position):
                if not follows(item, position):
                    del buffered[:done]
                    return True
                cursor.position = item.position
                await cursor.sink.deliver(item)
            done += 1
            if done % _YIELD_EVERY == 0:
                del buffered[:done]
                done = 0
                await asyncio.sleep(0)
        return False


def is_new(message: StreamMessage, position: Position) -> bool:
    """Return whether a message comes after ``position`` or is of another epoch."""
    place = message.position
    return place.epoch != position.epoch or place.offset > position.offset


def follows(message: StreamMessage, position: Position) -> bool:
    """Return whether a message is the next one after ``position``."""
    if position.epoch not in ("", message.position.epoch):
        return False
    return message.before == position.offset
