"""A clock for tests of code that takes ``clock`` and ``sleep``."""

from __future__ import annotations

import asyncio

__all__ = ["FakeClock"]


class FakeClock:
    """Seconds that pass only in ``advance`` and ``sleep``.

    Attributes:
        now: the time; tests may set it.
        slept: the argument of each ``sleep``.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)
        self.now += seconds
