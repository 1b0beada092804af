"""Rates, and token buckets that limit actions to a rate."""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

__all__ = ["Buckets", "Rate", "TokenBucket"]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_RATE = re.compile(r"(?P<count>\d+)/(?P<per>\d*)(?P<unit>[smhd])[a-z]*")


class Rate(msgspec.Struct, frozen=True):
    """A number of actions per time; a burst may have all of them at once.

    Args:
        count: actions; at least 1.
        seconds: the time; more than 0.
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
            ValueError: the text is not a rate, or a rate of 0.
        """
        if isinstance(text, Rate):
            return text
        known = _parsed.get(text) if isinstance(text, str) else None
        if known is not None and cls is Rate:
            return known
        match = _RATE.fullmatch(text.strip().lower()) if isinstance(text, str) else None
        if match is None:
            raise ValueError(
                f"{text!r} is no rate; write a number, a slash and a unit of time, "
                "such as '10/s', '100/m' or '30/10s'"
            )
        rate = cls(int(match["count"]), int(match["per"] or 1) * _UNITS[match["unit"]])
        if cls is Rate and len(_parsed) < _MAX_PARSED:
            _parsed[text] = rate
        return rate

    def __str__(self) -> str:
        return f"{self.count} in {self.seconds:g} s"


# The rates that were parsed: settings and classes have few.
_parsed: dict[str, Rate] = {}
_MAX_PARSED = 64


class TokenBucket:
    """A bucket of tokens that refills evenly; full at first.

    Args:
        rate: its capacity, and the seconds in which it fills.
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

    def take(self) -> float:
        """Take a token if the bucket has one.

        Returns:
            0 if it was taken; else the seconds until it will have one.
        """
        now = self._clock()
        rate = self._rate
        level = self._level + (now - self._then) * rate.count / rate.seconds
        self._then = now
        if level > rate.count:
            level = float(rate.count)
        if level >= 1:
            self._level = level - 1
            return 0.0
        self._level = level
        return (1 - level) * rate.seconds / rate.count


class Buckets:
    """Token buckets by key; safe in any thread. Full buckets are dropped.

    Args:
        clock: seconds that never run backwards.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # Each with the time at which it is full; the least recently used first.
        self._buckets: OrderedDict[tuple[str, Rate], tuple[TokenBucket, float]] = (
            OrderedDict()
        )

    def take_token(self, key: str, rate: Rate) -> float:
        """Take one token from the bucket ``key``, as ``TokenBucket.take`` does."""
        with self._lock:
            now = self._clock()
            self._drop_full(now)
            bucket, _ = self._buckets.pop((key, rate), (None, 0.0))
            if bucket is None:
                bucket = TokenBucket(rate, clock=self._clock)
            # By then it is full, and as good as a new one.
            self._buckets[key, rate] = (bucket, now + rate.seconds)
            return bucket.take()

    def clear(self) -> None:
        """Drop all buckets."""
        with self._lock:
            self._buckets.clear()

    def __len__(self) -> int:
        return len(self._buckets)

    def _drop_full(self, now: float) -> None:
        # Two at each call, so that no call has to drop many.
        for _ in range(2):
            first = next(iter(self._buckets.items()), None)
            if first is None or first[1][1] > now:
                return
            del self._buckets[first[0]]
