"""How long to wait before the next try to reach a broker."""

from __future__ import annotations

import random

# A power of two beyond this one is above every longest pause; a larger one overflows.
_MOST_DOUBLINGS = 30


def backoff(tries: int, *, first: float = 0.025, longest: float = 1.0) -> float:
    """Return seconds that double with each try, up to ``longest``, half of it jitter."""
    seconds = min(longest, first * 2.0 ** min(tries, _MOST_DOUBLINGS))
    return seconds * (0.5 + random.random() / 2)  # noqa: S311 (jitter)
