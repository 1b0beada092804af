"""How much is measured: what the command line chooses, for all questions alike."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.peers import Unavailable
from benchmarks.report import Report

__all__ = ["Plan"]


@dataclass(slots=True)
class Plan:
    """One run of the benchmarks.

    Attributes:
        report: where figures go.
        quick: fewer cases, shorter runs.
        rounds: how often each contender is measured; they alternate.
        seconds: how long one measurement lasts.
        question: the one that is being asked.
        until: no further measurement begins after this time (of ``time.monotonic``).
        only: the contenders to measure; empty for all.
    """

    report: Report
    quick: bool
    rounds: int
    seconds: float
    question: str = ""
    until: float = math.inf
    only: frozenset[str] = frozenset()
    sizes: Sequence[int] = field(default_factory=list)

    def turns(self, names: Sequence[str]) -> Iterator[Contender]:
        """The contenders of a question, round after round, those that can run here.

        They take turns, so that a noisy minute of the machine hits all of them.
        """
        usable = []
        for name in names:
            contender = CONTENDERS[name]
            if self.only and name not in self.only:
                continue
            try:
                contender.require()
            except Unavailable as error:
                self.report.skipped[name] = str(error)
                continue
            self.report.titles.setdefault(name, contender.title)
            usable.append(contender)
        for _ in range(self.rounds):
            for contender in usable:
                if time.monotonic() < self.until:
                    yield contender
                else:
                    skipped = f"{contender.name} in {self.question}"
                    self.report.skipped[skipped] = "a quick run had no time for it"
