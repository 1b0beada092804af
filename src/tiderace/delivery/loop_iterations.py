"""Iterations of an event loop for tasks that a handler has started or woken.

Channels reads each message in a task, so a task that a handler starts or wakes runs
before the next handler of the same consumer. After handlers that run without a task
switch (``tiderace.connection.eager``) such tasks are waited for here. Most handlers
start and wake none, and cost no iteration.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import weakref
from collections import deque
from collections.abc import Callable, Sized


def ready_counter(loop: asyncio.AbstractEventLoop) -> Callable[[], int]:
    """Return a function that returns how many callbacks of ``loop`` are ready.

    For a loop that hides them it returns a larger number each time, as if there were always
    more.
    """
    ready: Sized | None = getattr(loop, "_ready", None)
    if ready is None:
        # uvloop shows its deque of callbacks to the garbage collector alone.
        queues = [each for each in gc.get_referents(loop) if type(each) is deque]
        if len(queues) != 1:
            return itertools.count(1, step=2).__next__
        ready = queues[0]
    return ready.__len__


class LoopIterations:
    """Counts the iterations of an event loop while a number from ``next`` is not reached.

    Attributes:
        number: the number of iterations so far.
        pending: whether a number that ``next`` has returned is not reached.
    """

    __slots__ = ("_awaited", "number", "pending")

    def __init__(self) -> None:
        self.number = 0
        self.pending = False
        self._awaited = 0

    def next(self) -> int:
        """Return the number at which all that is ready now has run."""
        if self.pending:
            # The next iteration may be counted before what has become ready since.
            self._awaited = self.number + 2
        else:
            self.pending = True
            self._awaited = self.number + 1
            asyncio.get_running_loop().call_soon(self._count)
        return self._awaited

    def _count(self) -> None:
        self.number += 1
        self.pending = self.number < self._awaited
        if self.pending:
            asyncio.get_running_loop().call_soon(self._count)


_iterations: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopIterations] = (
    weakref.WeakKeyDictionary()
)


def loop_iterations() -> LoopIterations:
    """Return the iterations of the running event loop."""
    loop = asyncio.get_running_loop()
    iterations = _iterations.get(loop)
    if iterations is None:
        iterations = _iterations[loop] = LoopIterations()
    return iterations


async def let_woken_tasks_run() -> None:
    """Let the tasks run that handlers have woken, if one that was run eagerly has."""
    # None outside a loop, where get_running_loop() would raise.
    loop = asyncio._get_running_loop()  # noqa: SLF001
    if loop is not None and (iterations := _iterations.get(loop)) is not None:
        while iterations.pending:  # noqa: ASYNC110 (an event would wait for one more)
            await asyncio.sleep(0)
