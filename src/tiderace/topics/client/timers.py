"""The timers of one topic client, by name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from tiderace.runtime.tasks import LATE, READING

# Seconds after a token's expiry in which the client may still send a new one.
_GRACE = 25.0

# Of a client without a timer, as most are: a dict that was emptied keeps 0.2 KB.
_NO_HANDLES: dict[str, asyncio.TimerHandle] = {}


class Timers:
    """Timers by name; a new one replaces an earlier one of the same name."""

    __slots__ = ("_handles", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._handles = _NO_HANDLES

    def start_timer(
        self, name: str, delay: float, callback: Callable[[], None]
    ) -> None:
        """Call ``callback`` after ``delay`` seconds."""
        self.cancel_timer(name)
        if self._handles is _NO_HANDLES:
            self._handles = {}
        self._handles[name] = self._loop.call_later(delay, callback)

    def start_deadline(
        self, name: str, delay: float, callback: Callable[[], None]
    ) -> None:
        """Call ``callback`` after ``delay`` seconds, once what arrived before is read.

        The last second has a timer of its own, which is started again if the loop called
        it too late: then messages may lie unread in the socket.
        """
        last = min(delay, READING)
        self.start_timer(
            name, delay - last, lambda: self._start_last_part(name, last, callback)
        )

    def _start_last_part(
        self, name: str, delay: float, callback: Callable[[], None]
    ) -> None:
        latest = self._loop.time() + delay + LATE

        def end() -> None:
            if self._loop.time() > latest:
                self._start_last_part(name, delay, callback)
            else:
                callback()

        self.start_timer(name, delay, end)

    def start_expiry(
        self, name: str, expires_at: float | None, callback: Callable[[], None]
    ) -> None:
        """Call ``callback`` when a token has expired, and the time to renew it is over.

        Args:
            name: the name of the timer.
            expires_at: seconds since the epoch; None for a token without an end.
            callback: what to call.
        """
        if expires_at is None:
            self.cancel_timer(name)
        else:
            delay = max(0.0, expires_at + _GRACE - time.time())
            self.start_deadline(name, delay, callback)

    def __contains__(self, name: str) -> bool:
        """Return whether a timer was started, and has neither ended nor been cancelled."""
        handle = self._handles.get(name)
        return handle is not None and handle.when() > self._loop.time()

    def cancel_timer(self, name: str) -> None:
        """Cancel a timer, if it was started."""
        handle = self._handles.pop(name, None)
        if handle is not None:
            handle.cancel()
            if not self._handles:
                self._handles = _NO_HANDLES

    def cancel_all(self) -> None:
        """Cancel every timer."""
        for name in list(self._handles):
            self.cancel_timer(name)
