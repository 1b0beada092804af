"""The times at which a presence tracker has work to do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable

from tiderace.exceptions import LayerUnavailable

logger = logging.getLogger("tiderace.topics")

RETRY_DELAY = 1.0
"""Seconds until work that the store could not do is tried again."""

_REAP_INTERVAL = 10.0  # seconds between reaps of what other processes have left


class PresenceSchedule:
    """Holds the times of the next refresh, reap and notices, and whether the store is away.

    Intervals vary by up to a fifth, so that processes do not act at the same time.

    Args:
        refresh: seconds between two refreshes.
        clock: seconds that never run backwards.
        randomness: spreads the times.
    """

    def __init__(
        self, refresh: float, clock: Callable[[], float], randomness: random.Random
    ) -> None:
        self._refresh = refresh
        self._random = randomness
        self._wake = asyncio.Event()
        self.now = clock
        self.refresh_at = self.reap_at = float("-inf")
        # When to announce that members have changed, by group.
        self.changes: dict[str, float] = {}
        self.store_away = False

    def start(self) -> None:
        """Schedule a refresh after an interval, and a reap now.

        The reap finds members of processes that have all ended.
        """
        self.refresh_at = self.now() + self._jittered(self._refresh)
        self.reap_at = float("-inf")

    async def wait(self) -> None:
        """Wait until something is due."""
        due = min(self.refresh_at, self.reap_at, *self.changes.values())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, due - self.now())):
                await self._wake.wait()
        self._wake.clear()

    def pop_changes(self) -> list[str]:
        """Return the groups whose change is to be announced now."""
        now = self.now()
        groups = [group for group, due in self.changes.items() if due <= now]
        for group in groups:
            del self.changes[group]
        return groups

    def announce_change_in(self, group: str, seconds: float) -> None:
        """Schedule a "changed" notice for ``group`` in ``seconds`` or sooner."""
        due = self.now() + seconds
        self.changes[group] = min(due, self.changes.get(group, due))
        self._wake.set()

    def refreshed(self) -> None:
        """Record a successful refresh."""
        if self.store_away:
            self.store_away = False
            logger.info("the presence store is available again")
        self.refresh_at = self.now() + self._jittered(self._refresh)

    def reaped(self, due_in: float | None) -> None:
        """Schedule the next reap, at a different time in each process."""
        seconds = _REAP_INTERVAL if due_in is None else min(due_in, _REAP_INTERVAL)
        self.reap_at = self.now() + seconds + self._random.random() * RETRY_DELAY

    def reap_in(self, seconds: float) -> None:
        """Schedule a reap in ``seconds`` or sooner."""
        due = self.now() + seconds
        if due < self.reap_at:
            self.reap_at = due
            self._wake.set()

    def retry_reap(self) -> None:
        """Schedule a reap soon, after a failure."""
        self.reap_at = self.now() + self._jittered(RETRY_DELAY)

    def retry_refresh(self) -> None:
        """Schedule a refresh soon, after a failure."""
        self.refresh_at = self.now() + self._jittered(RETRY_DELAY)
        self._wake.set()

    def store_lost(self, error: LayerUnavailable) -> None:
        """Record that the store could not be reached, and schedule a refresh soon."""
        if not self.store_away:
            self.store_away = True
            logger.warning("the presence store is unavailable: %s", error)
        self.retry_refresh()

    def _jittered(self, seconds: float) -> float:
        return seconds * (0.8 + 0.2 * self._random.random())
