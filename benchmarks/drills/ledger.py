"""Compares the messages sent with those received: lost, reported, doubled, out of order."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Ledger", "Receiver", "Row", "Sent"]


@dataclass
class Sent:
    """The numbers 0, 1, 2, ... that were sent to one stream, a group or a topic."""

    total: int = 0
    raised: set[int] = field(default_factory=set)
    """The numbers whose sending raised an error; they may have arrived."""
    times: list[float] = field(default_factory=list)
    """When the sending of each number began, in monotonic seconds."""


class Receiver:
    """The messages that one receiver of a stream got.

    Args:
        stream: the name of the group or topic.
        first: the first number that it has to get.
    """

    def __init__(self, stream: str, first: int = 0) -> None:
        self.stream = stream
        self.first = first
        self.last = first - 1
        self.numbers: set[int] = set()
        self.order: list[int] = []
        """The numbers in the order of their arrival."""
        self.doubled = 0
        self.disordered = 0
        self.reports: list[tuple[int, float]] = []
        """The last number before each report of a loss, and its time."""
        self.closed = False
        """Whether it has left for good, so that later numbers are not expected."""

    def record(self, number: int) -> None:
        """Record a received number."""
        if number in self.numbers:
            self.doubled += 1
            return
        self.numbers.add(number)
        self.order.append(number)
        if number < self.last:
            self.disordered += 1
        else:
            self.last = number

    def record_report(self) -> None:
        """Record that a loss was reported to the receiver."""
        self.reports.append((self.last, time.monotonic()))

    def expected(self, sent: Sent) -> set[int]:
        """Return the numbers that had to arrive."""
        end = self.last + 1 if self.closed else sent.total
        return set(range(self.first, end)) - sent.raised

    def silently_lost(self, lost: Iterable[int], sent: Sent) -> set[int]:
        """Return those of the ``lost`` numbers that no report covers.

        A report covers a number that was sent before it, unless a later number had
        arrived before it.
        """
        received = sorted(self.numbers)
        silent = set()
        for number in lost:
            position = bisect_left(received, number)
            before = received[position - 1] if position else self.first - 1
            if not any(
                last >= before and moment >= sent.times[number]
                for last, moment in self.reports
            ):
                silent.add(number)
        return silent


@dataclass
class Row:
    """The result of a drill: a line of the table, and its notes."""

    drill: str = ""
    stack: str = ""
    sent: int = 0
    received: int = 0
    lost: int = 0
    silent: int = 0
    """Lost numbers that were not reported to the receiver."""
    doubled: int = 0
    disordered: int = 0
    reported: int = 0
    """Reports of a possible loss to receivers, closed connections included."""
    leaked: int = 0
    """Members, connections, tasks and descriptors that were left behind."""
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Other requirements that were not met."""
    skipped: str = ""
    """Why the drill did not run."""

    @property
    def passed(self) -> bool:
        """Whether nothing was lost silently, doubled, disordered, leaked or broken."""
        return not (
            self.silent
            or self.doubled
            or self.disordered
            or self.leaked
            or self.failures
        )

    def require(self, condition: object, failure: str) -> None:
        """Record ``failure`` unless ``condition`` is true."""
        if not condition:
            self.failures.append(failure)


@dataclass
class Ledger:
    """All receivers of a drill, and what was sent to their streams."""

    receivers: list[Receiver] = field(default_factory=list)
    sent: dict[str, Sent] = field(default_factory=dict)

    def receiver(self, stream: str, first: int = 0) -> Receiver:
        """Add a receiver of ``stream``."""
        receiver = Receiver(stream, first)
        self.receivers.append(receiver)
        return receiver

    def record_sent(self, sent: dict[str, Sent]) -> None:
        """Add the results of a sender; a stream has one sender."""
        self.sent.update(sent)

    @property
    def received(self) -> int:
        """How many numbers have arrived."""
        return sum(len(receiver.numbers) for receiver in self.receivers)

    @property
    def outstanding(self) -> int:
        """How many receivers have not got their last number."""
        return sum(
            max(receiver.expected(self.sent[receiver.stream]), default=-1)
            > receiver.last
            for receiver in self.receivers
        )

    def row(self) -> Row:
        """Sum everything up."""
        row = Row(sent=sum(sent.total for sent in self.sent.values()))
        for receiver in self.receivers:
            sent = self.sent[receiver.stream]
            lost = receiver.expected(sent) - receiver.numbers
            row.received += len(receiver.numbers)
            row.lost += len(lost)
            row.silent += len(receiver.silently_lost(lost, sent))
            row.doubled += receiver.doubled
            row.disordered += receiver.disordered
            row.reported += len(receiver.reports)
        if raised := sum(len(sent.raised) for sent in self.sent.values()):
            row.notes.append(f"{raised} sends raised an error")
        return row
