"""The listeners to streams in one process, and the delivery of publications to them.

The counterpart of the hub of mailboxes: a listener gets each publication with its
position, in order, in the event loop in which it was added; and a call when one is lost.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

from tiderace import metrics
from tiderace.delivery.hub import with_group, without_group
from tiderace.history import Publication

logger = logging.getLogger("tiderace.layers")

# Listeners served before the loop may do something else: a few milliseconds.
_SLICE = 4096

# The most publications queued for a loop that is busy or blocked. Beyond it they are
# dropped, and the listeners read the stream again, which keeps more than this.
_QUEUE_LIMIT = 4096


class Listener(Protocol):
    """A listener to groups of a layer.

    Its methods are called in the event loop in which ``stream_subscribe`` was called. They must
    return at once and not raise.
    """

    groups: Collection[str]
    """The groups that it listens to; at first empty, and set by the layer alone."""

    def on_publication(self, group: str, publication: Publication) -> None:
        """Take a publication, shared by all listeners.

        They come in order. Compare positions: one that was published before the call of
        ``stream_subscribe`` may come too. Where a position does not follow the one before
        it, ``on_gap`` was called in between or the epoch is a new one.
        """

    def on_gap(self, group: str) -> None:
        """React to publications lost in transit; the stream may still have them."""


class BatchListener(Listener, Protocol):
    """A listener that takes a publication together with others of its class."""

    @staticmethod
    def dispatch(
        group: str, publication: Publication, listeners: Sequence[Any]
    ) -> None:
        """Deliver ``publication`` to ``listeners``; called instead of ``on_publication``."""


class ListenerBatch(list[Any]):
    """All listeners to a group that one ``dispatch`` delivers to, until they change.

    Attributes:
        derived: for ``dispatch``, to keep what it has derived from the listeners; None at
            first.
    """

    __slots__ = ("derived",)

    def __init__(self) -> None:
        super().__init__()
        self.derived: Any = None


# Listeners of one class with its ``dispatch``; None if they get publications one by one.
_Batch: TypeAlias = tuple[Any, list[Listener]]

_UNGROUPED: tuple[int, list[_Batch]] = (-1, [])


class _LoopListeners:
    """The listeners to one group in one event loop, and the items queued for them.

    Any thread may call ``put``; items are delivered in this loop, in order.
    """

    __slots__ = (
        "_batches",
        "_changes",
        "_current",
        "_grouped",
        "_left",
        "_number",
        "_place",
        "_queue",
        "_running",
        "_scheduled",
        "delivered",
        "group",
        "loop",
        "members",
    )

    def __init__(self, group: str, loop: asyncio.AbstractEventLoop) -> None:
        self.group = group
        self.loop = loop
        # By their ids, in the order in which they were added.
        self.members: dict[int, Listener] = {}
        # How often they have changed; and the members by what delivers to them, with the
        # number of changes at which they were grouped: they change far more seldom than
        # publications come.
        self._changes = 0
        self._grouped = _UNGROUPED
        # Publications, None for a loss, with the number of each. A list, as it is mostly
        # empty or short: an empty deque takes 0.7 KB, and many groups have one listener.
        self._queue: list[tuple[int, Publication | None]] = []
        self._number = 0
        # The number of the last item that all listeners have got.
        self.delivered = 0
        # The item being delivered, the batches that wait for it, the place in the first of
        # them, and the listeners that left.
        self._current: tuple[int, Publication | None] = (0, None)
        self._batches: list[_Batch] = []
        self._place = 0
        # A dict, which takes less than a set while it is empty.
        self._left: dict[int, None] = {}
        # Whether ``_run`` is to be called by the loop, and whether it is running.
        self._scheduled = False
        self._running = False

    def put(self, item: Publication | None) -> int:
        """Queue ``item``; return its number, for comparison with ``delivered``."""
        if len(self._queue) >= _QUEUE_LIMIT:
            metrics.GAPS_LOST.add()
            logger.warning(
                "the event loop of listeners to %s is so far behind that publications "
                "to it were dropped (listeners: %d, dropped: %d); on_gap is called, "
                "after which they may read the stream again",
                self.group,
                len(self.members),
                len(self._queue),
            )
            self._queue.clear()
            item = None
        self._number += 1
        self._queue.append((self._number, item))
        return self._number

    def add(self, listener: Listener) -> None:
        """Add a listener, for what is queued from now on."""
        self.members[id(listener)] = listener
        self._changes += 1

    def discard(self, listener: Listener) -> None:
        """Remove a listener, if it is here, also from the delivery that is under way."""
        if self.members.pop(id(listener), None) is not None:
            self._changes += 1
            # Else the batches would keep the listener until the next publication.
            self._grouped = _UNGROUPED
            self._left[id(listener)] = None

    def clear(self) -> None:
        """Remove all listeners."""
        for listener in list(self.members.values()):
            listener.groups = without_group(listener.groups, self.group)
            self.discard(listener)

    def deliver(self) -> None:
        """Deliver a slice of the queue now and the rest soon; in this loop only."""
        if not self._scheduled:
            self._run()

    def schedule(self) -> bool:
        """Have the loop deliver the queue, from any thread; False if it is closed."""
        if self._scheduled:
            return not self.loop.is_closed()
        self._scheduled = True
        try:
            # An empty context: a copy would keep the request or socket that came first.
            self.loop.call_soon_threadsafe(self._run, context=contextvars.Context())
        except RuntimeError:
            return False
        return True

    def _run(self) -> None:
        # First, so that a thread that calls ``put`` from now on schedules again.
        self._scheduled = False
        if self._running:
            return  # a listener publishes; the running call delivers it
        self._running = True
        try:
            if self._deliver_slice():
                self.schedule()
        finally:
            self._running = False

    def _deliver_slice(self) -> bool:
        """Deliver to as many listeners as a slice holds; return whether more wait."""
        room = _SLICE
        while room > 0:
            if not self._batches:
                self.delivered = self._current[0]
                if not self._queue:
                    return False
                try:
                    self._current = self._queue.pop(0)
                except IndexError:  # emptied meanwhile by another thread
                    return False
                self._left.clear()
                batches = self._members_by_dispatch()
                if len(batches) == 1 and len(batches[0][1]) <= room:
                    # The usual case, in one go.
                    room -= len(batches[0][1])
                    self._deliver_timed(*batches[0])
                    continue
                self._batches.extend(batches)
                if not self._batches:
                    room -= 1
                    continue
            dispatch, targets = self._batches[0]
            if self._place or len(targets) > room:
                targets = targets[self._place : self._place + room]
                self._place += len(targets)
            if not self._place or self._place >= len(self._batches[0][1]):
                self._batches.pop(0)
                self._place = 0
            room -= len(targets)
            self._deliver_timed(dispatch, targets)
        return True

    def _deliver_timed(self, dispatch: Any, targets: list[Listener]) -> None:
        started = time.perf_counter()
        self._deliver(self._current[1], dispatch, targets)
        metrics.FAN_OUT_DURATION.observe(time.perf_counter() - started)
        metrics.MESSAGES_DELIVERED.add(len(targets))

    def _members_by_dispatch(self) -> list[_Batch]:
        """Return the members, together with what delivers to several of them at once."""
        changes = self._changes
        grouped_at, batches = self._grouped
        if grouped_at != changes:
            by_dispatch: defaultdict[Any, list[Listener]] = defaultdict(ListenerBatch)
            # In one step under the GIL: other threads add and discard members.
            for each in list(self.members.values()):
                by_dispatch[getattr(each, "dispatch", None)].append(each)
            batches = list(by_dispatch.items())
            self._grouped = changes, batches
        return batches

    def _deliver(
        self, item: Publication | None, dispatch: Any, targets: list[Listener]
    ) -> None:
        group, left = self.group, self._left
        if left:
            targets = [each for each in targets if id(each) not in left]
        if item is not None and dispatch is not None:
            try:
                if targets:
                    dispatch(group, item, targets)
            except Exception:
                logger.exception("the listeners to %s failed", group)
            return
        for each in targets:
            if left and id(each) in left:
                continue
            try:
                if item is None:
                    each.on_gap(group)
                else:
                    each.on_publication(group, item)
            except Exception:
                # The other listeners must still get it.
                logger.exception("a listener to %s failed", group)


class PendingDelivery:
    """The delivery of one item, queued by ``StreamHub.put``."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[tuple[_LoopListeners, int]] = ()) -> None:
        self._parts = parts

    def start(self) -> bool:
        """Start the delivery; return False if the loop of a listener is closed."""
        here = asyncio._get_running_loop()  # noqa: SLF001 (None in sync code)
        open_ = True
        for listeners, _ in self._parts:
            if listeners.loop is here:
                listeners.deliver()
            else:
                open_ = listeners.schedule() and open_
        return open_

    async def finish(self) -> bool:
        """Deliver, and wait for the listeners of this loop; return as ``start`` does.

        Does not wait where they fit in one slice, or no loop is running.
        """
        here = asyncio._get_running_loop()  # noqa: SLF001 (None in sync code)
        open_ = self.start()
        for listeners, number in self._parts:
            if listeners.loop is here:
                while listeners.delivered < number:  # noqa: ASYNC110
                    await asyncio.sleep(0)  # one pass of the loop for each slice
        return open_


_NOTHING = PendingDelivery()


class StreamHub:
    """The groups with a listener in this process.

    Every method may be called from any thread; ``add`` where an event loop runs.
    """

    def __init__(self) -> None:
        self._groups: dict[str, list[_LoopListeners]] = {}
        self._lock = threading.Lock()

    def __contains__(self, group: str) -> bool:
        return group in self._groups

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._groups))

    def __len__(self) -> int:
        """Return how many groups have a listener."""
        return len(self._groups)

    def size(self, group: str) -> int:
        """Return the number of listeners to ``group``, of which each may serve several."""
        return sum([len(each.members) for each in self._groups.get(group, ())])

    def count(self, group: str) -> int:
        """Return the number of listeners to ``group``, with those that share one."""
        return sum(
            getattr(listener, "receivers", 1)
            for each in self._groups.get(group, ())
            for listener in list(each.members.values())
        )

    def add(self, group: str, listener: Listener) -> None:
        """Add ``listener`` to ``group`` in the running event loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            by_loop = self._groups.setdefault(group, [])
            for listeners in by_loop:
                if listeners.loop is loop:
                    break
            else:
                listeners = _LoopListeners(group, loop)
                by_loop.append(listeners)
            listeners.add(listener)
            listener.groups = with_group(listener.groups, group)

    def discard(self, group: str, listener: Listener) -> bool:
        """Remove ``listener``; return whether it was the last one of the group."""
        with self._lock:
            listener.groups = without_group(listener.groups, group)
            by_loop = self._groups.get(group, [])
            for listeners in by_loop:
                listeners.discard(listener)
            return self._discard_empty(group, by_loop)

    def discard_closed(self, group: str) -> bool:
        """Remove listeners of closed loops; return whether they were the group's last."""
        with self._lock:
            by_loop = self._groups.get(group, [])
            for listeners in by_loop:
                if listeners.loop.is_closed():
                    listeners.clear()
            return self._discard_empty(group, by_loop)

    def put(self, group: str, item: Publication | None) -> PendingDelivery:
        """Queue a publication, or None for a loss; start or finish the delivery next.

        Items are delivered in the order of ``put``, whichever delivery is awaited first.
        """
        if group not in self._groups:
            return _NOTHING
        with self._lock:
            by_loop = self._groups.get(group, ())
            return PendingDelivery([(each, each.put(item)) for each in by_loop])

    def clear(self) -> None:
        """Remove all listeners."""
        with self._lock:
            for by_loop in self._groups.values():
                for listeners in by_loop:
                    listeners.clear()
            self._groups.clear()

    def _discard_empty(self, group: str, by_loop: list[_LoopListeners]) -> bool:
        living = [listeners for listeners in by_loop if listeners.members]
        if living:
            self._groups[group] = living
            return False
        return self._groups.pop(group, None) is not None
