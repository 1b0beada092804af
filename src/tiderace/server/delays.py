"""Calls functions after the same few delays, for many sockets from few timers."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

# Seconds by which a timer may come too early: uvloop's count milliseconds.
_RESOLUTION = 0.001


class DelayedCall:
    """A call that is to be made once."""

    __slots__ = ("due", "function")

    def __init__(self, due: float, function: Callable[[], None]) -> None:
        self.due = due
        self.function: Callable[[], None] | None = function

    def make(self) -> None:
        """Make the call, unless it was cancelled."""
        if self.function is not None:
            self.function()

    def cancel(self) -> None:
        """Do not make the call, and let go of what it would need."""
        self.function = None


class Delays:
    """Makes the calls of a server's sockets that have the same delay from one timer.

    A timer of uvloop takes 0.6 KB, and every socket that is pinged would have one. A call
    that is cancelled leaves 0.1 KB until it would have been due.
    """

    @classmethod
    def of(cls, server: Any, loop: asyncio.AbstractEventLoop) -> Delays:
        """Return the delays of a server, which has one event loop.

        Args:
            server: what its connections share, such as uvicorn's state.
            loop: of the server.
        """
        delays = _delays.get(server)
        if delays is None:
            delays = _delays[server] = cls(loop)
        return delays

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # By the delay, its calls in their order, with a timer for the first of them.
        self._calls: dict[float, deque[DelayedCall]] = {}

    def call_later(self, seconds: float, function: Callable[[], None]) -> DelayedCall:
        """Call ``function`` after some seconds, one of few different numbers."""
        call = DelayedCall(self._loop.time() + seconds, function)
        calls = self._calls.get(seconds)
        if calls is None:
            calls = self._calls[seconds] = deque()
        calls.append(call)
        if len(calls) == 1:
            self._start_timer(calls)
        return call

    def _start_timer(self, calls: deque[DelayedCall]) -> None:
        # An empty context: a copy would keep the socket that came first.
        context = contextvars.Context()
        self._loop.call_at(calls[0].due, self._make, calls, context=context)

    def _make(self, calls: deque[DelayedCall]) -> None:
        """Make the calls that are due, and start the timer for the next one."""
        now = self._loop.time() + _RESOLUTION
        while calls and calls[0].due <= now:
            # By the loop, which logs an error of one and goes on with the others.
            self._loop.call_soon(calls.popleft().make)
        if calls:
            self._start_timer(calls)


_delays: WeakKeyDictionary[Any, Delays] = WeakKeyDictionary()
