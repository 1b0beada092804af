"""Resumes the writers of growing messages when their next records are due."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

_SLOT = 0.01  # seconds; the times at which records are due are rounded up to it


class SendPace:
    """Resumes the writers of one event loop, those that are due together.

    A timer for each writer was a quarter of the processor time of an append.

    Sending takes at most about half of the loop's time: the writers after those that
    were resumed wait for as long as these kept the loop busy. So a busy loop sends fewer
    and longer appends, and still runs the code that produces the texts.

    Args:
        clock: returns the seconds in which the time is measured that sending takes.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        # The waiting writers by the number of the slot in which they are due.
        self._slots: dict[int, list[asyncio.Future[None]]] = {}
        # The slot for which the timer is set, or whose writers are sending; None where
        # no writer waits.
        self._next: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        # The loop's time until which no writer is resumed.
        self._resting_until = 0.0

    @classmethod
    def of_running_loop(cls) -> SendPace:
        """Return the one of the running event loop."""
        loop = asyncio.get_running_loop()
        pace = _by_loop.get(loop)
        if pace is None:
            pace = _by_loop[loop] = cls()
        return pace

    async def wait(self, seconds: float) -> None:
        """Wait for ``seconds``; longer while sending keeps the loop busy."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        slot = math.ceil((loop.time() + seconds) / _SLOT)
        self._slots.setdefault(slot, []).append(future)
        if self._next is None or slot < self._next:
            self._start(loop, slot)
        await future

    def _start(self, loop: asyncio.AbstractEventLoop, slot: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = slot
        at = max(slot * _SLOT, self._resting_until)
        self._timer = loop.call_at(at, self._resume, loop)

    def _resume(self, loop: asyncio.AbstractEventLoop) -> None:
        """Resume all writers that are due."""
        started, self._timer = self._clock(), None
        last = max(int(loop.time() / _SLOT), self._next or 0)
        for slot in [slot for slot in self._slots if slot <= last]:
            for future in self._slots.pop(slot):
                if not future.done():
                    future.set_result(None)
        # Until the loop's next iteration the writers send, and the sockets are written.
        loop.call_soon(loop.call_soon, self._rest, loop, started)

    def _rest(self, loop: asyncio.AbstractEventLoop, started: float) -> None:
        self._resting_until = loop.time() + self._clock() - started
        self._next = None
        if self._slots:
            self._start(loop, min(self._slots))


_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, SendPace] = WeakKeyDictionary()
