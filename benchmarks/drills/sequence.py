"""What one listener heard of a numbered series, and what was wrong with it.

It is pure: numbers in, figures out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

__all__ = ["Figures", "Tally"]


@dataclass
class Tally:
    """One listener's account of the numbers 0, 1, 2, ... of a room."""

    room: str = ""
    joined_at: int | None = None
    """The number that was next when it had joined: from there on all must come."""
    first: int | None = None
    last: int = -1
    received: int = 0
    missing: set[int] = field(default_factory=set)
    twice: int = 0
    late: int = 0
    """Numbers that came after a later one."""
    gaps: int = 0
    """How many times it was told that something is missing."""
    told_up_to: int = -1
    """What is missing below this number was told."""
    silence: float = 0.0
    """The longest time between two numbers, in seconds."""
    closed: str = ""
    _heard_at: float = 0.0

    def hear(self, number: int) -> None:
        """Note a number that arrived."""
        now = time.monotonic()
        if self._heard_at:
            self.silence = max(self.silence, now - self._heard_at)
        self._heard_at = now
        self.received += 1
        if self.first is None:
            self.first = number
            if self.joined_at is not None:
                self.missing.update(range(self.joined_at, number))
            self.last = number
        elif number > self.last:
            self.missing.update(range(self.last + 1, number))
            self.last = number
        elif number in self.missing:
            self.missing.discard(number)
            self.late += 1
        else:
            self.twice += 1

    def hear_gap(self) -> None:
        """Note that it was told of a gap."""
        self.gaps += 1
        self.told_up_to = self.last + 1

    @property
    def expects(self) -> int:
        """The number that has to come next."""
        return self.last + 1 if self.first is not None else (self.joined_at or 0)

    def end(self, last: int) -> None:
        """Note that ``last`` was the last number to come."""
        self.missing.update(range(self.expects, last + 1))


@dataclass
class Figures:
    """The sum over many listeners."""

    sent: int
    received: int
    lost: int
    twice: int
    late: int
    gaps: int
    closed: int
    silence: float

    @classmethod
    def of(cls, tallies: list[Tally], sent: int) -> Figures:
        """Add up ``tallies``; ``sent`` is how many messages there were."""
        return cls(
            sent=sent,
            received=sum(t.received for t in tallies),
            lost=sum(len(t.missing) for t in tallies),
            twice=sum(t.twice for t in tallies),
            late=sum(t.late for t in tallies),
            gaps=sum(t.gaps for t in tallies),
            closed=sum(bool(t.closed) for t in tallies),
            silence=max((t.silence for t in tallies), default=0.0),
        )

    @property
    def clean(self) -> bool:
        """Whether nothing was wrong."""
        return not (self.lost or self.twice or self.late or self.gaps or self.closed)

    def __str__(self) -> str:
        return (
            f"{self.sent:,} messages, {self.received:,} deliveries, {self.lost} lost, "
            f"{self.twice} twice, {self.late} out of order, {self.gaps} gaps told, "
            f"{self.closed} sockets closed, longest silence {self.silence:.2f} s"
        )
