"""How often somebody may do something: a token bucket.

Pure arithmetic over a clock that is handed in. It knows neither who is limited nor
what happens to those who ask too often.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Buckets", "Rate", "TokenBucket"]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_RATE = re.compile(r"(?P<count>\d+)/(?P<per>\d*)(?P<unit>[smhd])[a-z]*")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in so many seconds; all of them may come at once.

    Args:
        count: how many; at least 1.
        seconds: in what time; more than 0.
    """

    count: int
    seconds: float

    def __post_init__(self) -> None:
        if self.count < 1 or self.seconds <= 0:
            raise ValueError(
                f"a rate of {self.count} in {self.seconds} s lets nobody do anything; "
                "use 1 or more in more than 0 seconds"
            )

    @classmethod
    def parse(cls, text: str | Rate) -> Rate:
        """Read ``"10/s"``, ``"100/m"``, ``"30/10s"``, ``"1000/hour"``.

        Raises:
            ValueError: for anything else, and for a rate of 0.
        """
        if isinstance(text, Rate):
            return text
        match = _RATE.fullmatch(text.strip().lower()) if isinstance(text, str) else None
        if match is None:
            raise ValueError(
                f"{text!r} is no rate; write a number, a slash and a unit of time, "
                "such as '10/s', '100/m' or '30/10s'"
            )
        return cls(int(match["count"]), int(match["per"] or 1) * _UNITS[match["unit"]])

    def __str__(self) -> str:
        return f"{self.count} in {self.seconds:g} s"


class TokenBucket:
    """Takes from a bucket that fills up evenly; full at first.

    Args:
        rate: how much it holds, and how long it takes to fill.
        clock: seconds that never run backwards.
    """

    __slots__ = ("_clock", "_level", "_rate", "_then")

    def __init__(
        self, rate: Rate, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._level = float(rate.count)
        self._then = clock()

    def take(self, amount: int = 1) -> float:
        """Take ``amount``, if it is there.

        Returns:
            0 when it was taken; else in how many seconds it would be there, with
            nothing taken.
        """
        now = self._clock()
        rate = self._rate
        level = self._level + (now - self._then) * rate.count / rate.seconds
        self._then = now
        self._level = level = min(level, float(rate.count))
        if level >= amount:
            self._level = level - amount
            return 0.0
        return (amount - level) * rate.seconds / rate.count


class Buckets:
    """Token buckets by name, of which full ones are forgotten; for any thread.

    Args:
        clock: seconds that never run backwards.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # By when they are full, the least lately used first.
        self._buckets: OrderedDict[tuple[str, Rate], tuple[TokenBucket, float]] = (
            OrderedDict()
        )

    def take_token(self, key: str, rate: Rate) -> float:
        """Take one from the bucket ``key``; see ``TokenBucket.take``."""
        with self._lock:
            now = self._clock()
            self._forget_full(now)
            bucket, _ = self._buckets.pop((key, rate), (None, 0.0))
            if bucket is None:
                bucket = TokenBucket(rate, clock=self._clock)
            # At the latest by then it is as good as a new one.
            self._buckets[key, rate] = (bucket, now + rate.seconds)
            return bucket.take()

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._buckets.clear()

    def __len__(self) -> int:
        return len(self._buckets)

    def _forget_full(self, now: float) -> None:
        # A few each time, so that nobody waits for a great cleaning.
        for _ in range(2):
            first = next(iter(self._buckets.items()), None)
            if first is None or first[1][1] > now:
                return
            del self._buckets[first[0]]
