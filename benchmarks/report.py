"""The figures of a run as medians, ratios, tables and JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks import peers

__all__ = ["Figure", "Question", "Report"]

# The figures of a documentation page are between these lines.
START = "<!-- figures: python -m benchmarks --page writes them -->"
END = "<!-- end of figures -->"


@dataclass(frozen=True, slots=True)
class Question:
    """A question that figures answer.

    Attributes:
        name: its id.
        text: its title in tables.
        unit: the unit of the figures.
        more_is_better: whether larger figures are better.
        baseline: the contender that ratios are relative to.
    """

    name: str
    text: str
    unit: str
    more_is_better: bool = True
    baseline: str = "channels"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement of a contender in a case: the value, and further values."""

    question: str
    contender: str
    case: str
    value: float
    more: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Report:
    """All figures of a run."""

    questions: dict[str, Question] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    def add(self, figure: Figure) -> None:
        """Store a figure and print it."""
        self.figures.append(figure)
        unit = self.questions[figure.question].unit
        more = "".join(f", {name} {value:,.1f}" for name, value in figure.more.items())
        print(
            f"  {figure.case:<32} {figure.contender:<22} "
            f"{figure.value:>12,.1f} {unit}{more}",
            flush=True,
        )

    def medians(self, question: Question) -> dict[str, dict[str, float]]:
        """Return the medians of the runs by case and contender."""
        found: dict[str, dict[str, float]] = {}
        for case, contender in unique(
            (each.case, each.contender)
            for each in self.figures
            if each.question == question.name
        ):
            found.setdefault(case, {})[contender] = statistics.median(
                each.value
                for each in self.figures
                if (each.question, each.case, each.contender)
                == (question.name, case, contender)
            )
        return found

    def ratio(self, question: Question, case: str, contender: str) -> float | None:
        """Return how many times better than the baseline; None without a baseline figure.

        If the baseline has no figure for a case, because it would take minutes, its case
        of the same size is used: the one with the same words before the comma.
        """
        medians = self.medians(question)
        mine = medians[case][contender]
        same_size = (
            others[question.baseline]
            for name, others in medians.items()
            if name.partition(",")[0] == case.partition(",")[0]
            and question.baseline in others
        )
        theirs = medians[case].get(question.baseline) or next(same_size, None)
        if not theirs or not mine:
            return None
        return mine / theirs if question.more_is_better else theirs / mine

    def tables(self) -> str:
        """Return the medians of every question that has figures as Markdown tables."""
        measured = {figure.question for figure in self.figures}
        return "\n\n".join(
            self._table(question)
            for question in self.questions.values()
            if question.name in measured
        )

    def _table(self, question: Question) -> str:
        medians = self.medians(question)
        present = {name for others in medians.values() for name in others}
        contenders = [name for name in self.titles if name in present]
        lines = [f"**{question.text}** ({question.unit})", ""]
        lines += [f"| | {' | '.join(medians)} |", "| --- |" + " --- |" * len(medians)]
        for contender in contenders:
            cells = []
            for case, others in medians.items():
                if contender not in others:
                    cells.append("-")
                    continue
                ratio = self.ratio(question, case, contender)
                times = f" ({ratio:.1f}x)" if ratio else ""
                cells.append(f"{short(others[contender])}{times}")
            lines.append(f"| {self.titles[contender]} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def update(self, page: Path, command: str) -> None:
        """Replace the figures in a documentation page.

        Raises:
            ValueError: if the page does not contain the two marker lines.
        """
        before, start, rest = page.read_text().partition(START)
        _, end, after = rest.partition(END)
        if not start or not end:
            raise ValueError(f"{page} has no lines {START!r} and {END!r}")
        names = ", ".join(f"{name} {value}" for name, value in peers.versions().items())
        figures = (
            f"Measured on {time.strftime('%Y-%m-%d', time.gmtime())} with "
            f"`{command}` on {os.cpu_count()} cores ({platform.machine()}); the load "
            f"of the machine was {self.load:.1f} before.\n{names}."
        )
        page.write_text(
            f"{before}{START}\n\n{figures}\n\n{self.tables()}\n\n{END}{after}"
        )

    def write(self, path: Path, command: str) -> None:
        """Write all figures as JSON."""
        content = {
            "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "command": command,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "load before": self.load,
            "versions": peers.versions(),
            "skipped": self.skipped,
            "questions": {
                question.name: {
                    **asdict(question),
                    "medians": self.medians(question),
                    "ratios": {
                        case: {
                            contender: self.ratio(question, case, contender)
                            for contender in others
                        }
                        for case, others in self.medians(question).items()
                    },
                }
                for question in self.questions.values()
            },
            "runs": [asdict(figure) for figure in self.figures],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n")


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def unique(items: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(items))
