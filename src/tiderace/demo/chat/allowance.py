"""How much one socket may say in a while.

Pure: the clock is an argument. It knows no socket.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Allowance"]


class Allowance:
    """A token bucket: ``burst`` frames at once, then ``per_second`` on average."""

    def __init__(
        self,
        burst: int = 20,
        per_second: float = 5.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._burst = burst
        self._per_second = per_second
        self._clock = clock
        self._left = float(burst)
        self._at = clock()

    def take(self) -> float:
        """Use up one frame: return 0.0, or the seconds to wait when none is left."""
        now = self._clock()
        gained = (now - self._at) * self._per_second
        self._left = min(self._burst, self._left + gained)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self._per_second
