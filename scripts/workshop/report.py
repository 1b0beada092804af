"""The closing table: what ran, what was skipped and why, and the exit code.

It knows nothing about what the steps do.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Report", "Row", "Skipped"]

Outcome = Literal["passed", "failed", "skipped"]


class Skipped(Exception):
    """A step could not run here; the text says why and what would change that."""


@dataclass(frozen=True, slots=True)
class Row:
    """One step of the table; `seconds` is wall time."""

    step: str
    outcome: Outcome
    seconds: float
    note: str = ""


@dataclass
class Report:
    """Collects steps, prints them, decides the exit code.

    Args:
        strict: a skipped step fails the whole run. True in CI, where a step that
            could not run would otherwise look like one that passed.
    """

    strict: bool = False
    rows: list[Row] = field(default_factory=list)

    def add(self, step: str, outcome: Outcome, seconds: float, note: str = "") -> None:
        """Write one finished step into the table."""
        self.rows.append(Row(step, outcome, seconds, note))

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Time a step; the list it yields takes notes for the table.

        The step fails with `RuntimeError` and is skipped with `Skipped`; both are
        recorded and the run goes on, so one table shows everything at once.
        """
        rule = "─" * max(4, shutil.get_terminal_size().columns - len(name) - 5)
        print(f"\n── {name} {rule}", flush=True)
        notes: list[str] = []
        started = time.monotonic()
        outcome: Outcome = "passed"
        try:
            yield notes
        except Skipped as reason:
            outcome = "skipped"
            notes.append(str(reason))
            print(f"skipped: {reason}", flush=True)
        except RuntimeError as error:
            outcome = "failed"
            notes.append(str(error))
            print(f"failed: {error}", flush=True)
        self.add(name, outcome, time.monotonic() - started, "; ".join(notes))

    @property
    def exit_code(self) -> int:
        """0 when every step passed, or was skipped where that is allowed."""
        bad = {"failed", "skipped"} if self.strict else {"failed"}
        return int(any(row.outcome in bad for row in self.rows))

    def print(self) -> None:
        """Print the table."""
        width = max(len(row.step) for row in self.rows)
        print()
        for row in self.rows:
            line = f"{row.step:<{width}}  {row.outcome:<7} {row.seconds:6.1f} s  {row.note}"
            print(line.rstrip())
        if self.strict and any(row.outcome == "skipped" for row in self.rows):
            print("In CI a skipped step counts as failed.")
