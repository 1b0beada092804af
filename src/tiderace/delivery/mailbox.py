"""Queues events of a client and messages of a channel until a consumer handles them.

Messages are bounded in number and expire; events are handed over one at a time.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from enum import Enum
from typing import Any, Generic, TypeVar

from tiderace import metrics
from tiderace.delivery.outbox import FrameWriter

M = TypeVar("M")

# The messages of mailboxes that had none yet: an empty deque takes 0.7 KB.
_NO_MESSAGES: deque[Any] = deque(maxlen=0)


class Source(Enum):
    """Where an item of a mailbox comes from."""

    EVENT = "event"
    MESSAGE = "message"


class ExpiryQueue:
    """The mailboxes without a consumer, by the time at which a message of theirs expires.

    A heap, so that mailboxes in which nothing has expired cost nothing.
    """

    __slots__ = ("_heap", "_serial")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Mailbox[Any]]] = []
        self._serial = itertools.count()

    def add(self, when: float, mailbox: Mailbox[Any]) -> None:
        """Let ``pop`` return ``mailbox`` at ``when``, in seconds of the clock."""
        heapq.heappush(self._heap, (when, next(self._serial), mailbox))

    def pop(self, now: float) -> Mailbox[Any] | None:
        """Return one mailbox whose time has come, or None."""
        if not self._heap:
            return None
        try:
            if self._heap[0][0] > now:
                return None
            return heapq.heappop(self._heap)[2]
        except IndexError:  # emptied meanwhile by another thread
            return None

    def clear(self) -> None:
        """Remove all mailboxes; they may be added again."""
        added, self._heap = self._heap, []
        for _, _, mailbox in added:
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
        "_messages",
        "_next_source",
        "_removal",
        "_reported_at",
        "_waiters",
        "attached",
        "capacity",
        "expiry_queue",
        "groups",
        "held",
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
        expiry_queue: ExpiryQueue | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.capacity = capacity
        # The queue that this mailbox is in while it has messages; None once it belongs to
        # a consumer, whose end empties it.
        self.expiry_queue = expiry_queue
        self.attached = False
        # Whether it is in ``expiry_queue``.
        self.scheduled = False
        # How many callers are reading, or about to read or push; set by the layer only.
        self.readers = 0
        # The groups of this mailbox; set by the hub only.
        self.groups: Collection[str] = ()
        self._clock = clock
        self._messages: deque[tuple[float, M]] = _NO_MESSAGES
        # Held while the oldest message is removed: by a reader, or by a push that finds
        # it expired.
        self._removal = threading.Lock()
        self._events: list[tuple[Source, Any, asyncio.Future[None]]] = []
        self._first: Any = None
        # Handles a message at once if the consumer is idle; if it returns False, the
        # message is queued.
        self.run_eagerly: Callable[[M], bool] | None = None
        # Writes broadcasts to the client past the mailbox; set only while the consumer is
        # idle and the mailbox empty. ``write_to_idle`` uses it.
        self.writer: FrameWriter | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._next_source = Source.EVENT
        # Whether ``next`` returns events only.
        self.held = False
        self._drops = 0
        self._reported_at = float("-inf")

    def __repr__(self) -> str:
        return f"<Mailbox {self.name} {len(self._messages)}/{self.capacity}>"

    # For a layer

    def push(self, message: M, deadline: float) -> bool:
        """Queue ``message``; return False if the mailbox is full of unexpired messages."""
        messages = self._messages
        if (
            self.run_eagerly is not None
            and not messages
            and not self.held
            and self.run_eagerly(message)
        ):
            return True
        if len(messages) >= self.capacity:
            self.discard_expired()
            if len(messages) >= self.capacity:
                return False
        if messages is _NO_MESSAGES:
            messages = self._begin_queue()
        messages.append((deadline, message))
        # A later broadcast must not overtake it.
        self.writer = None
        if self.expiry_queue is not None and not self.scheduled:
            self.scheduled = True
            self.expiry_queue.add(deadline, self)
        # Readers add their waiter before they look for messages. So of two threads, one
        # always sees what the other has added.
        if self._waiters:
            if self.held:
                self._wake_all()
            else:
                self._wake()
        return True

    def _begin_queue(self) -> deque[tuple[float, M]]:
        with self._removal:  # another thread may push the first message too
            if self._messages is _NO_MESSAGES:
                self._messages = deque()
            return self._messages

    def count_drop(self, interval: float) -> int:
        """Count a refused message; return the number to report now, mostly 0.

        Drops are reported every ``interval`` seconds at most, all since the last report.
        """
        self._drops += 1
        now = self._clock()
        if now - self._reported_at < interval:
            return 0
        self._reported_at = now
        drops, self._drops = self._drops, 0
        return drops

    def discard_expired(self) -> int:
        """Drop the messages past their deadline; return their number."""
        now = self._clock()
        dropped = 0
        messages = self._messages
        with self._removal:
            while messages and messages[0][0] <= now:
                messages.popleft()
                dropped += 1
        if dropped:
            metrics.MESSAGES_DROPPED_EXPIRED.add(dropped)
        return dropped

    def drop_and_reschedule(self) -> int:
        """Drop expired messages when ``expiry_queue`` has returned this mailbox.

        It is added again for its oldest message. Returns the number of dropped messages.
        """
        self.scheduled = False
        dropped = self.discard_expired()
        with self._removal:
            if self._messages and self.expiry_queue is not None:
                self.scheduled = True
                self.expiry_queue.add(self._messages[0][0], self)
        return dropped

    def clear(self) -> None:
        """Drop all messages."""
        self._messages.clear()

    # For a connection

    def put_first(self, item: Any) -> None:
        """Make ``next`` return ``item`` before anything else."""
        self._first = item
        self._wake_all()

    def take_first(self) -> Any:
        """Remove and return the item of ``put_first``, or None."""
        item, self._first = self._first, None
        return item

    def post(self, item: Any, source: Source = Source.EVENT) -> asyncio.Future[None]:
        """Queue an event; return a future that is done when it is taken.

        A caller that awaits it reads at most one event of its source ahead, so a client
        that sends faster than its consumer handles is slowed down. Messages of layers
        that are read with ``receive`` are posted too, as ``Source.MESSAGE``.
        """
        taken = asyncio.get_running_loop().create_future()
        self._events.append((source, item, taken))
        # Wake all readers: one in ``get`` cannot take it, and one that was woken for a
        # message may take this event instead.
        self._wake_all()
        return taken

    # For readers

    async def get(self) -> M:
        """Wait for the next message and return it."""
        while True:
            message = self._take_message()
            if message is not None:
                return message[1]
            waiter = self._add_waiter()
            if self._messages:  # another thread has pushed before the line above
                self._discard_waiter(waiter)
                continue
            try:
                await waiter
            except asyncio.CancelledError:
                self._discard_waiter(waiter)
                raise

    def take(self) -> tuple[Source, Any] | None:
        """Return the next event or message, or None; they alternate when there are both."""
        if self._first is not None:
            return Source.EVENT, self.take_first()
        # None of the calls where there is nothing: most mailboxes have one item.
        if self._next_source is Source.EVENT or not self._messages:
            return (self._events and self._next_event()) or self._next_message()
        return self._next_message() or self._next_event()

    async def next(self) -> tuple[Source, Any]:
        """Wait for what ``take`` returns."""
        while (item := self.take()) is None:
            await self.wait()
        return item

    async def wait(self) -> None:
        """Wait until there may be something to ``take``."""
        waiter = self._add_waiter()
        if self.has_next():  # another thread has pushed before the line above
            self._discard_waiter(waiter)
            return
        try:
            await waiter
        except asyncio.CancelledError:
            self._discard_waiter(waiter)
            raise

    def hold(self) -> None:
        """Let ``next`` return only events until ``release``."""
        self.held = True
        self.writer = None

    def release(self) -> None:
        """Let ``next`` return messages again."""
        if self.held:
            self.held = False
            self._wake_all()

    def __len__(self) -> int:
        return len(self._messages)

    def qsize(self) -> int:
        """Messages waiting, expired ones included (the name of ``asyncio.Queue``)."""
        return len(self._messages)

    def empty(self) -> bool:
        """Whether no message is waiting (the name of ``asyncio.Queue``)."""
        return not self._messages

    def _next_event(self) -> tuple[Source, Any] | None:
        for index, (source, item, taken) in enumerate(self._events):
            if self.held and source is Source.MESSAGE:
                continue
            del self._events[index]
            if not taken.done():
                taken.set_result(None)
            self._next_source = Source.MESSAGE
            return source, item
        return None

    def _next_message(self) -> tuple[Source, Any] | None:
        if self.held or (message := self._take_message()) is None:
            return None
        self._next_source = Source.EVENT
        return Source.MESSAGE, message[1]

    def _take_message(self) -> tuple[float, M] | None:
        messages = self._messages
        while messages:
            with self._removal:
                if not messages:  # another thread has taken it
                    return None
                item = messages.popleft()
            if item[0] > self._clock():
                return item
            metrics.MESSAGES_DROPPED_EXPIRED.add()
        return None

    def has_next(self) -> bool:
        """Whether ``next`` returns at once, unless all messages have expired."""
        if self._first is not None:
            return True
        if not self.held:
            return bool(self._messages or self._events)
        return any(source is Source.EVENT for source, _, _ in self._events)

    def _add_waiter(self) -> asyncio.Future[None]:
        """Return a future that is done when there may be something to take."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    def _discard_waiter(self, waiter: asyncio.Future[None]) -> None:
        """Remove a waiter, or wake the next reader if this one was woken already."""
        try:
            self._waiters.remove(waiter)
        except ValueError:
            self._wake()

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
