"""The options of a run: rounds, seconds, contenders and sizes."""

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
    """The options of one run.

    Attributes:
        report: receives the figures.
        quick: fewer cases, shorter measurements.
        rounds: how often each contender is measured; they alternate.
        seconds: the length of one measurement.
        question: the current question.
        until: no further measurement starts after this time (of ``time.monotonic``).
        only: the contenders to measure; empty for all.
        sizes: the numbers of sockets of the fan-out; empty for the default.
    """

    report: Report
    quick: bool
    rounds: int
    seconds: float
    question: str = ""
    until: float = math.inf
    only: frozenset[str] = frozenset()
    sizes: Sequence[int] = field(default_factory=list)

    def alternate(self, names: Sequence[str]) -> Iterator[Contender]:
        """Iterate over the available contenders of a question, round after round.

        They alternate, so that a load peak of the machine affects all of them.
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
                if self.has_time(contender):
                    yield contender

    def has_time(self, contender: Contender, part: str = "") -> bool:
        """Return whether there is time for a measurement; note it if it is left out.

        Args:
            contender: what is measured.
            part: what of it, where a question has several measurements of a contender.
        """
        if time.monotonic() < self.until:
            return True
        skipped = ", ".join(filter(None, (contender.name, part)))
        why = "no time left in a quick run"
        self.report.skipped[f"{skipped} in {self.question}"] = why
        return False
