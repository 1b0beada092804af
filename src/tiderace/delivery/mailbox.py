"""What a consumer has still to read: its client's events and its channel's messages.

Messages are bounded in number and expire; events are handed over one at a time. It
knows no layer and no group, only its name and what was put into it.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, Generic, TypeVar

from tiderace import metrics
from tiderace.delivery.outbox import FrameWriter

__all__ = ["ExpiryQueue", "Mailbox", "Source"]

M = TypeVar("M")


class Source(Enum):
    """Which way an item came into a mailbox."""

    EVENT = "event"
    MESSAGE = "message"


class ExpiryQueue:
    """Which mailboxes without a consumer have to be looked at again, and when.

    A heap over all of them, so that finding what has expired costs nothing for those
    in which nothing has.
    """

    __slots__ = ("_heap", "_serial")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Mailbox[Any]]] = []
        self._serial = itertools.count()

    def add(self, when: float, mailbox: Mailbox[Any]) -> None:
        """Have ``pop`` return ``mailbox`` once ``when`` (the clock's seconds) is past."""
        heapq.heappush(self._heap, (when, next(self._serial), mailbox))

    def pop(self, now: float) -> Mailbox[Any] | None:
        """One mailbox whose time has come, or None."""
        try:
            if self._heap[0][0] > now:
                return None
            return heapq.heappop(self._heap)[2]
        except IndexError:  # empty, or emptied meanwhile by another thread
            return None

    def clear(self) -> None:
        """Forget everything; the mailboxes may be noted again."""
        noted, self._heap = self._heap, []
        for _, _, mailbox in noted:
            mailbox.scheduled = False

    def __len__(self) -> int:
        return len(self._heap)


class Mailbox(Generic[M]):
    """The mailbox of one channel.

    ``push`` may be called from any thread and any event loop; readers are woken in
    theirs. Several readers may wait at once; each message goes to one of them. An
    item is never lost when a waiting reader is cancelled.

    Guaranteed: messages are read in the order in which they were pushed, a message
    is never read after its deadline, and ``push`` never waits. Not guaranteed: that
    a message pushed before its deadline is read before it.
    """

    __slots__ = (
        "_clock",
        "_drops",
        "_events",
        "_first",
        "_held",
        "_messages",
        "_oldest",
        "_reported_at",
        "_turn",
        "_waiters",
        "attached",
        "capacity",
        "deadlines",
        "groups",
        "name",
        "readers",
        "run_eagerly",
        "scheduled",
        "writer",
    )

    def __init__(
        self,
        name: str,
        capacity: int,
        *,
        deadlines: ExpiryQueue | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.capacity = capacity
        # Where to note when a message expires; None once a consumer owns the box,
        # for then its end empties it.
        self.deadlines = deadlines
        self.attached = False
        # Whether ``deadlines`` has it noted.
        self.scheduled = False
        # How many callers are reading, or about to read or push; written by the layer
        # alone.
        self.readers = 0
        # The groups this mailbox is in; written by the hub alone.
        self.groups: set[str] = set()
        self._clock = clock
        self._messages: deque[tuple[float, M]] = deque()
        # Held by whoever takes out the oldest message: a reader, or a push that finds
        # it expired.
        self._oldest = threading.Lock()
        self._events: list[tuple[Source, Any, asyncio.Future[None]]] = []
        self._first: Any = None
        # Handles a message at once where its consumer has nothing else to do; False
        # where it cannot, and then the message waits here.
        self.run_eagerly: Callable[[M], bool] | None = None
        # What writes to the client, set only while nothing is to be done but to wait
        # for a message that is written as it is; see ``write_to_waiting``.
        self.writer: FrameWriter | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._turn = Source.EVENT
        self._held = False
        self._drops = 0
        self._reported_at = float("-inf")

    def __repr__(self) -> str:
        return f"<Mailbox {self.name} {len(self._messages)}/{self.capacity}>"

    # What a layer puts in

    def push(self, message: M, deadline: float) -> bool:
        """Put ``message`` in; False when the mailbox is full of living messages."""
        messages = self._messages
        if (
            self.run_eagerly is not None
            and not messages
            and not self._held
            and self.run_eagerly(message)
        ):
            return True
        if len(messages) >= self.capacity:
            self.discard_expired()
            if len(messages) >= self.capacity:
                return False
        messages.append((deadline, message))
        # What comes after it may not pass it by.
        self.writer = None
        if self.deadlines is not None and not self.scheduled:
            self.scheduled = True
            self.deadlines.add(deadline, self)
        # Appended before the waiters are looked at; readers do it the other way
        # round, so over threads one of the two always sees the other.
        if self._waiters:
            if self._held:
                self._wake_all()
            else:
                self._wake()
        return True

    def note_drop(self, interval: float) -> int:
        """Count a message that was refused; the number to report now, mostly 0.

        At most one report every ``interval`` seconds, holding all drops since the
        last one.
        """
        self._drops += 1
        now = self._clock()
        if now - self._reported_at < interval:
            return 0
        self._reported_at = now
        drops, self._drops = self._drops, 0
        return drops

    def discard_expired(self) -> int:
        """Drop the messages past their deadline; how many there were."""
        now = self._clock()
        dropped = 0
        messages = self._messages
        with self._oldest:
            while messages and messages[0][0] <= now:
                messages.popleft()
                dropped += 1
        if dropped:
            metrics.MESSAGES_DROPPED_EXPIRED.add(dropped)
        return dropped

    def look_again(self) -> int:
        """Do what ``deadlines`` had this mailbox noted for; how many were dropped.

        It is noted once, for its oldest message, however many it holds.
        """
        self.scheduled = False
        dropped = self.discard_expired()
        with self._oldest:
            if self._messages and self.deadlines is not None:
                self.scheduled = True
                self.deadlines.add(self._messages[0][0], self)
        return dropped

    def clear(self) -> None:
        """Forget all messages."""
        self._messages.clear()

    # What a connection puts in

    def put_first(self, item: Any) -> None:
        """Put in what ``next`` must return before anything else."""
        self._first = item
        self._wake_all()

    def take_first(self) -> Any:
        """What ``put_first`` put in and nobody has taken, else None."""
        item, self._first = self._first, None
        return item

    async def offer(self, item: Any, lane: Source = Source.EVENT) -> None:
        """Put an event in and wait until it is taken.

        So at most one event of each source is read ahead, and a client that is
        faster than its consumer feels it. A message of a layer that must be read one
        by one comes in this way too, in its own ``lane``.
        """
        taken = asyncio.get_running_loop().create_future()
        self._events.append((lane, item, taken))
        # All of them: a reader of messages cannot take it, and one that was woken for
        # a message will take this instead.
        self._wake_all()
        await taken

    # What readers take out

    async def get(self) -> M:
        """The next message; waits for one."""
        while True:
            message = self._take_message()
            if message is not None:
                return message[1]
            await self._wait(self._has_message)

    async def next(self) -> tuple[Source, Any]:
        """The next event or message; they take turns when there are both."""
        while True:
            if self._first is not None:
                return Source.EVENT, self.take_first()
            if self._turn is Source.EVENT:
                item = self._next_event() or self._next_message()
            else:
                item = self._next_message() or self._next_event()
            if item is not None:
                return item
            await self._wait(self._has_next)

    def hold(self) -> None:
        """Let ``next`` return no messages until ``release``, events only."""
        self._held = True
        self.writer = None

    def release(self) -> None:
        """Let ``next`` return messages again."""
        if self._held:
            self._held = False
            self._wake_all()

    @property
    def held(self) -> bool:
        """Whether ``next`` returns events only."""
        return self._held

    def __len__(self) -> int:
        return len(self._messages)

    def qsize(self) -> int:
        """Messages waiting, expired ones included (the name of ``asyncio.Queue``)."""
        return len(self._messages)

    def empty(self) -> bool:
        """Whether no message is waiting (the name of ``asyncio.Queue``)."""
        return not self._messages

    def _next_event(self) -> tuple[Source, Any] | None:
        for index, (lane, item, taken) in enumerate(self._events):
            if self._held and lane is Source.MESSAGE:
                continue
            del self._events[index]
            if not taken.done():
                taken.set_result(None)
            self._turn = Source.MESSAGE
            return lane, item
        return None

    def _next_message(self) -> tuple[Source, Any] | None:
        if self._held or (message := self._take_message()) is None:
            return None
        self._turn = Source.EVENT
        return Source.MESSAGE, message[1]

    def _take_message(self) -> tuple[float, M] | None:
        messages = self._messages
        while messages:
            with self._oldest:
                if not messages:  # another thread has taken it
                    return None
                item = messages.popleft()
            if item[0] > self._clock():
                return item
            metrics.MESSAGES_DROPPED_EXPIRED.add()
        return None

    def _has_message(self) -> bool:
        return bool(self._messages)

    def _has_next(self) -> bool:
        if self._first is not None:
            return True
        if not self._held:
            return bool(self._messages or self._events)
        return any(lane is Source.EVENT for lane, _, _ in self._events)

    async def _wait(self, ready: Callable[[], bool]) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        if ready():  # another thread was faster than the line above
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)
            return
        try:
            await waiter
        except asyncio.CancelledError:
            try:
                self._waiters.remove(waiter)
            except ValueError:
                # It had been woken, which is now due to the next reader.
                self._wake()
            raise

    def _wake(self) -> None:
        # None outside a loop, where get_running_loop() would raise; this is the hot path.
        running = asyncio._get_running_loop()  # noqa: SLF001
        while self._waiters:
            try:
                waiter = self._waiters.pop(0)
            except IndexError:  # another thread has woken it
                return
            loop = waiter.get_loop()
            if loop is running:
                if not waiter.done():
                    waiter.set_result(None)
                    return
            else:
                try:
                    loop.call_soon_threadsafe(self._resume, waiter)
                except RuntimeError:  # that loop is closed, its reader is gone
                    continue
                return

    def _wake_all(self) -> None:
        for _ in range(len(self._waiters)):
            self._wake()

    def _resume(self, waiter: asyncio.Future[None]) -> None:
        if waiter.done():
            self._wake()
        else:
            waiter.set_result(None)
