"""The table of a run, for the terminal and for the page of the documentation."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks import peers

from .ledger import Row

__all__ = ["exit_status", "markdown", "text", "write_page"]

START = "<!-- figures: python -m benchmarks.drills --page writes them -->"
END = "<!-- end of figures -->"
COLUMNS = (
    "drill", "stack", "sent", "received", "lost", "silent", "doubled", "out of order",
    "reported", "leaked", "seconds", "verdict",
)  # fmt: skip


def exit_status(rows: Iterable[Row]) -> int:
    """Return 1 if a drill of Tiderace failed, else 0; Channels is only compared."""
    return int(any(row.stack == "tiderace" and not row.passed for row in rows))


def text(rows: Iterable[Row]) -> str:
    """Return the table with aligned columns, the broken promises below it."""
    rows = list(rows)
    lines = [COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [
        "  ".join(
            cell.ljust(width) if number < 2 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*aligned, *_broken(rows)])


def markdown(rows: Iterable[Row], titles: dict[str, str]) -> str:
    """Return the table as Markdown; ``titles`` has the sentence of each drill."""
    lines = [
        f"| {' | '.join(COLUMNS)} |",
        f"| {' | '.join('---' for _ in COLUMNS)} |",
    ]
    rows = list(rows)
    lines += [f"| {' | '.join(_cells(row))} |" for row in rows]
    lines += ["", *(f"- {line}" for line in _broken(rows)), ""]
    names = dict.fromkeys(row.drill for row in rows)
    lines += ["| drill | what happens |", "| --- | --- |"]
    lines += [f"| {name} | {titles[name]} |" for name in names]
    return "\n".join(lines)


def write_page(path: Path, rows: Iterable[Row], titles: dict[str, str]) -> None:
    """Replace the figures of a page.

    Raises:
        ValueError: the page has no place for them.
    """
    page = path.read_text("utf-8")
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"{path} needs the lines {START} and {END}")
    versions = ", ".join(f"{name} {each}" for name, each in peers.versions().items())
    figures = (
        f"Measured on {time.strftime('%Y-%m-%d')} on {os.cpu_count()} cores "
        f"({platform.machine()}) with {versions}; the load of the machine was "
        f"{os.getloadavg()[0]:.0f}."
        f"\n\n{markdown(rows, titles)}"
    )
    path.write_text(f"{before}{start}\n\n{figures}\n\n{end}{after}", "utf-8")


def _broken(rows: list[Row]) -> list[str]:
    return [
        f"{row.drill} ({row.stack}): {failure}"
        for row in rows
        for failure in row.failures
    ]


def _cells(row: Row) -> tuple[str, ...]:
    if row.skipped:
        return (row.drill, row.stack, *[""] * 9, f"skipped: {row.skipped}")
    counts = (
        row.sent, row.received, row.lost, row.silent, row.doubled, row.disordered,
        row.reported, row.leaked, round(row.seconds),
    )  # fmt: skip
    verdict = "passed" if row.passed else "FAILED"
    return (row.drill, row.stack, *(f"{count:,}" for count in counts), verdict)
