"""Iterations of an event loop for tasks that a handler has started or woken.

Channels reads each message in a task, so a task that a handler starts or wakes runs
before the next handler of the same consumer. After handlers that run without a task
switch (``tiderace.connection.eager``) such tasks are waited for here. Most handlers
start and wake none, and cost no iteration.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sized
from weakref import WeakKeyDictionary


class _Hidden:
    """Replaces the callbacks of a loop that hides them; its length grows at each call."""

    __slots__ = ("_length",)

    def __init__(self) -> None:
        self._length = 0

    def __len__(self) -> int:
        self._length += 1
        return self._length


class LoopIterations:
    """Counts the iterations of an event loop while a number from ``next`` is not reached.

    Attributes:
        ready: the callbacks that are ready, as asyncio's loops keep them. uvloop
            hides its own: their number seems to grow at each look.
        number: the number of iterations so far.
        pending: whether a number that ``next`` has returned is not reached.
    """

    __slots__ = ("_awaited", "_loop", "number", "pending", "ready")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.ready: Sized = getattr(loop, "_ready", _Hidden())
        self.number = 0
        self.pending = False
        self._awaited = 0
        self._loop = loop

    def next(self) -> int:
        """Return the number at which all that is ready now has run."""
        if self.pending:
            # The next iteration may be counted before what has become ready since.
            self._awaited = self.number + 2
        else:
            self.pending = True
            self._awaited = self.number + 1
            self._loop.call_soon(self._count)
        return self._awaited

    def _count(self) -> None:
        self.number += 1
        self.pending = self.number < self._awaited
        if self.pending:
            self._loop.call_soon(self._count)


_iterations: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopIterations] = (
    WeakKeyDictionary()
)


def loop_iterations() -> LoopIterations:
    """Return the iterations of the running event loop."""
    loop = asyncio.get_running_loop()
    iterations = _iterations.get(loop)
    if iterations is None:
        iterations = _iterations[loop] = LoopIterations(loop)
    return iterations


async def let_woken_tasks_run() -> None:
    """Let the tasks run that handlers have woken, if one that was run eagerly has."""
    # None outside a loop, where get_running_loop() would raise.
    loop = asyncio._get_running_loop()  # noqa: SLF001
    if loop is not None and (iterations := _iterations.get(loop)) is not None:
        while iterations.pending:  # noqa: ASYNC110 (an event would wait for one more)
            await asyncio.sleep(0)
