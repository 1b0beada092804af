"""Who, in this process, listens to a group's stream, and how they are told in order.

Beside the hub of mailboxes: a listener gets publications with their position, in the
event loop in which it began to listen, and is told when one is lost. It knows no
broker, no client and no wire.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from tiderace import metrics
from tiderace.history import Publication

__all__ = ["Audience", "Listener", "StreamHub"]

logger = logging.getLogger("tiderace.layers")

# Listeners told before the loop may do something else: a few milliseconds.
_SLICE = 4096

# Publications that wait for a loop that is busy, or stands still. Whoever is further
# behind reads the stream again, which keeps them better than this.
_WAITING = 4096


class Listener(Protocol):
    """What a layer needs of those who listen.

    Its methods are called in the event loop in which ``stream_subscribe`` was called. They must
    return at once and not raise.
    """

    name: str
    """Nobody else in a group has it."""
    groups: set[str]
    """What it listens to; written by the layer alone."""

    def on_publication(self, group: str, publication: Publication) -> None:
        """Take a publication, shared by all who hear it.

        They come in order. One that was published before ``stream_subscribe`` was called may
        come too: compare positions. So does one whose position does not follow, when
        the broker has lost some: then ``on_gap`` has been called before, or the stream
        is another one.
        """

    def on_gap(self, group: str) -> None:
        """Something was lost on its way here; the stream may still have it."""


class _Crowd:
    """The listeners of one group in one event loop, and what they are still to be told.

    Whatever thread publishes, what waits here is told in the crowd's own loop, one
    after the other.
    """

    __slots__ = (
        "_called",
        "_item",
        "_left",
        "_next",
        "_number",
        "_some",
        "_telling",
        "_told",
        "_waiting",
        "group",
        "loop",
        "members",
    )

    def __init__(self, group: str, loop: asyncio.AbstractEventLoop) -> None:
        self.group = group
        self.loop = loop
        self.members: dict[str, Listener] = {}
        # What is to be told, None for something lost, numbered as it came in.
        self._waiting: deque[tuple[int, Publication | None]] = deque()
        self._number = 0
        self._told = 0
        # What is being told, to whom, how far that is, and who has left meanwhile.
        self._item: tuple[int, Publication | None] = (0, None)
        self._some: list[Listener] = []
        self._next = 0
        self._left: set[str] = set()
        # Whether the loop is going to call ``_go_on``, and whether that is running.
        self._called = False
        self._telling = False

    def put(self, item: Publication | None) -> int:
        """Let ``item`` be told after what is waiting; its number, for ``has_told``."""
        if len(self._waiting) >= _WAITING:
            metrics.GAPS_LOST.add()
            logger.warning(
                "the event loop of %d listener(s) to %s is so far behind that %d "
                "publications to it were dropped; they are told, and may read the "
                "stream again",
                len(self.members),
                self.group,
                len(self._waiting),
            )
            self._waiting.clear()
            item = None
        self._number += 1
        self._waiting.append((self._number, item))
        return self._number

    def has_told(self, number: int) -> bool:
        """Whether everybody has been told what ``put`` gave this number."""
        return self._told >= number

    def leave(self, name: str) -> None:
        """Take a listener out; what is being told passes it by."""
        del self.members[name]
        self._left.add(name)

    def serve(self) -> None:
        """Tell what waits, in the crowd's own loop: a slice now and the rest soon."""
        if not self._called:
            self._go_on()

    def call(self) -> bool:
        """Have the crowd's loop tell what waits, from any thread; False if it is closed."""
        if self._called:
            return not self.loop.is_closed()
        self._called = True
        try:
            # An empty context: a copy would keep the request or socket that came first.
            self.loop.call_soon_threadsafe(self._go_on, context=contextvars.Context())
        except RuntimeError:
            return False
        return True

    def _go_on(self) -> None:
        # First: another thread that puts something in from now on calls again.
        self._called = False
        if self._telling:
            return  # a listener publishes; its turn comes
        self._telling = True
        try:
            if self._tell_a_slice():
                self.call()
        finally:
            self._telling = False

    def _tell_a_slice(self) -> bool:
        """Tell as many as may be told at once; whether there are more."""
        room = _SLICE
        while room > 0:
            if self._next >= len(self._some):
                self._told = self._item[0]
                try:
                    self._item = self._waiting.popleft()
                except IndexError:
                    self._some, self._next = [], 0
                    return False
                # In one step under the GIL: others come and go in other threads.
                self._some, self._next = list(self.members.values()), 0
                self._left.clear()
            some = self._some[self._next : self._next + room]
            self._next += len(some)
            room -= max(1, len(some))
            self._tell(some)
        return True

    def _tell(self, some: list[Listener]) -> None:
        group, item, left = self.group, self._item[1], self._left
        begun = time.perf_counter()
        for each in some:
            if left and each.name in left:
                continue
            try:
                if item is None:
                    each.on_gap(group)
                else:
                    each.on_publication(group, item)
            except Exception:
                # The others must hear it all the same.
                logger.exception("a listener to %s failed", group)
        if item is not None and item.after:
            self._finish(item)
        metrics.FAN_OUT_DURATION.observe(time.perf_counter() - begun)
        metrics.MESSAGES_DELIVERED.add(len(some))

    def _finish(self, item: Publication) -> None:
        # What some of them have put off, to do it once for all.
        calls, item.after = item.after, []
        for call in calls:
            try:
                call()
            except Exception:
                logger.exception("telling the listeners to %s failed", self.group)


class Audience:
    """Who is to be told one thing, as it stood when that was put in."""

    __slots__ = ("_crowds",)

    def __init__(self, crowds: list[tuple[_Crowd, int]]) -> None:
        self._crowds = crowds

    def tell(self) -> bool:
        """Begin to tell them; False if the loop of some is closed."""
        here = asyncio._get_running_loop()  # noqa: SLF001 (None in sync code)
        living = True
        for crowd, _ in self._crowds:
            if crowd.loop is here:
                crowd.serve()
            else:
                living = crowd.call() and living
        return living

    async def told(self) -> bool:
        """Tell them, and wait for those of this loop; False if some loop is closed.

        Waits for nobody where there is one slice of them, or no loop is running.
        """
        here = asyncio._get_running_loop()  # noqa: SLF001 (None in sync code)
        living = self.tell()
        for crowd, number in self._crowds:
            if crowd.loop is here:
                while not crowd.has_told(number):  # noqa: ASYNC110
                    await asyncio.sleep(0)  # it is one turn for every slice
        return living


_NOBODY = Audience([])


class StreamHub:
    """The groups that somebody in this process listens to.

    Every method may be called from any thread; ``add`` where an event loop runs.
    """

    def __init__(self) -> None:
        self._crowds: dict[str, list[_Crowd]] = {}
        self._lock = threading.Lock()

    def __contains__(self, group: str) -> bool:
        return group in self._crowds

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._crowds))

    def count(self, group: str) -> int:
        """How many listen to ``group``."""
        return sum(len(crowd.members) for crowd in self._crowds.get(group, ()))

    def add(self, group: str, listener: Listener) -> None:
        """Let ``listener`` hear ``group`` in the running event loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            crowds = self._crowds.setdefault(group, [])
            for crowd in crowds:
                if crowd.loop is loop:
                    break
            else:
                crowd = _Crowd(group, loop)
                crowds.append(crowd)
            crowd.members[listener.name] = listener
            listener.groups.add(group)

    def discard(self, group: str, listener: Listener) -> bool:
        """Let ``listener`` hear no more; True when it was the group's last."""
        with self._lock:
            listener.groups.discard(group)
            crowds = self._crowds.get(group, [])
            for crowd in crowds:
                # Another one under its name may have taken its place.
                if crowd.members.get(listener.name) is listener:
                    crowd.leave(listener.name)
            return self._tidy(group, crowds)

    def discard_closed(self, group: str) -> bool:
        """Forget those whose loop is closed; True when that were the group's last."""
        with self._lock:
            crowds = self._crowds.get(group, [])
            for crowd in crowds:
                if crowd.loop.is_closed():
                    for listener in crowd.members.values():
                        listener.groups.discard(group)
                    crowd.members.clear()
            return self._tidy(group, crowds)

    def put(self, group: str, item: Publication | None) -> Audience:
        """Let a publication, or None for a loss, be told next; ``told`` must follow.

        What is put in first is told first, whatever becomes of the waiting for it.
        """
        if group not in self._crowds:
            return _NOBODY
        with self._lock:
            crowds = self._crowds.get(group, ())
            return Audience([(crowd, crowd.put(item)) for crowd in crowds])

    def clear(self) -> None:
        """Let nobody hear anything any more."""
        with self._lock:
            for group, crowds in self._crowds.items():
                for crowd in crowds:
                    for listener in list(crowd.members.values()):
                        listener.groups.discard(group)
                        crowd.leave(listener.name)
            self._crowds.clear()

    def _tidy(self, group: str, crowds: list[_Crowd]) -> bool:
        living = [crowd for crowd in crowds if crowd.members]
        if living:
            self._crowds[group] = living
            return False
        return self._crowds.pop(group, None) is not None
