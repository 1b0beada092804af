"""Checks of the numbers that a listener receives: missing, duplicate, out of order."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

__all__ = ["SequenceCheck", "Summary"]


@dataclass
class SequenceCheck:
    """The check of one listener of the numbers 0, 1, 2, ... in a room."""

    room: str = ""
    joined_at: int | None = None
    """The next number at the time of the join; all later ones must arrive."""
    first: int | None = None
    last: int = -1
    received: int = 0
    missing: set[int] = field(default_factory=set)
    duplicates: int = 0
    reordered: int = 0
    """Numbers that arrived after a later one."""
    gaps: int = 0
    """How often a gap was reported to the listener."""
    reported_up_to: int = -1
    """Missing numbers below this one have been reported."""
    silence: float = 0.0
    """The longest time between two numbers, in seconds."""
    closed: str = ""
    _received_at: float = 0.0

    def record(self, number: int) -> None:
        """Record a received number."""
        now = time.monotonic()
        if self._received_at:
            self.silence = max(self.silence, now - self._received_at)
        self._received_at = now
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
            self.reordered += 1
        else:
            self.duplicates += 1

    def record_gap(self) -> None:
        """Record a reported gap."""
        self.gaps += 1
        self.reported_up_to = self.last + 1

    @property
    def next_number(self) -> int:
        """The next expected number."""
        return self.last + 1 if self.first is not None else (self.joined_at or 0)

    def end(self, last: int) -> None:
        """Record the numbers up to ``last`` that have not arrived as missing."""
        self.missing.update(range(self.next_number, last + 1))


@dataclass
class Summary:
    """The sums over many listeners."""

    sent: int
    received: int
    lost: int
    duplicates: int
    reordered: int
    gaps: int
    closed: int
    silence: float

    @classmethod
    def of(cls, checks: list[SequenceCheck], sent: int) -> Summary:
        """Sum up ``checks``; ``sent`` is the number of sent messages."""
        return cls(
            sent=sent,
            received=sum(t.received for t in checks),
            lost=sum(len(t.missing) for t in checks),
            duplicates=sum(t.duplicates for t in checks),
            reordered=sum(t.reordered for t in checks),
            gaps=sum(t.gaps for t in checks),
            closed=sum(bool(t.closed) for t in checks),
            silence=max((t.silence for t in checks), default=0.0),
        )

    @property
    def clean(self) -> bool:
        """Whether there was no fault."""
        return not (
            self.lost or self.duplicates or self.reordered or self.gaps or self.closed
        )

    def __str__(self) -> str:
        return (
            f"{self.sent:,} messages, {self.received:,} deliveries, {self.lost} lost, "
            f"{self.duplicates} twice, {self.reordered} out of order, {self.gaps} gaps reported, "
            f"{self.closed} sockets closed, longest silence {self.silence:.2f} s"
        )
