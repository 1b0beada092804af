"""Formats the statistics of all processes as a table of text, one line for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tiderace.asgi import printable
from tiderace.layers.stats import LayerStats, ProcessStats

# A process reports every two seconds, and every ten while nothing happens.
_LATE = 15.0


# The columns of a process and of the sum of all.
_COLUMNS: dict[str, Callable[[ProcessStats | LayerStats], str]] = {
    "CONNS": lambda each: f"{each.connections:,}",
    "CLIENTS": lambda each: f"{each.topic_clients:,}",
    "CHANNELS": lambda each: f"{each.channels:,}",
    "GROUPS": lambda each: f"{each.groups:,}",
    "IN/S": lambda each: f"{each.sent_per_second:,.1f}",
    "OUT/S": lambda each: f"{each.delivered_per_second:,.1f}",
    "DROPPED": lambda each: f"{sum(each.dropped.values()):,}",
    "SLOW": lambda each: f"{each.slow_clients:,}",
    "ERRORS": lambda each: f"{each.errors:,}",
    "LAG": lambda each: _moment(each.lag),
    "TRIP": lambda each: _moment(each.round_trip),
    "MEMORY": lambda each: _size(each.memory),
}


def table(stats: LayerStats, groups: int = 10) -> list[str]:
    """Return the lines: a head, the processes, their sum, and the largest groups."""
    heads = ["PROCESS", "UP", "SEEN", *_COLUMNS]
    rows = [heads, *(_row(each) for each in stats.processes), _total(stats)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_aligned(row, widths) for row in rows]
    if drops := drops_text(stats):
        lines += ["", f"dropped: {drops}"]
    largest = list(stats.members.items())[:groups]
    if largest:
        text = ", ".join(f"{printable(name)} {count:,}" for name, count in largest)
        lines += ["", f"largest groups: {text}"]
    return lines


def drops_text(stats: ProcessStats | LayerStats) -> str:
    """Return the dropped messages by reason; empty without any."""
    dropped = stats.dropped.items()
    return ", ".join(f"{count:,} {reason}" for reason, count in dropped if count)


def _row(process: ProcessStats) -> list[str]:
    seen = f"{process.age:.0f}s"
    name = f"{process.host}:{process.pid}"
    return [
        name if process.ready else f"{name} (disconnected)",
        _span(process.at - process.started),
        f"{seen}!" if process.age > _LATE else seen,
        *(cell(process) for cell in _COLUMNS.values()),
    ]


def _total(stats: LayerStats) -> list[str]:
    count = len(stats.processes)
    name = f"{count} process" if count == 1 else f"{count} processes"
    return [name, "", "", *(cell(stats) for cell in _COLUMNS.values())]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    first = f"{row[0]:<{widths[0]}}"
    numbers = [f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)]
    return "  ".join([first, *numbers[1:]]).rstrip()


def _span(seconds: float) -> str:
    minutes = int(seconds) // 60
    if minutes < 1:
        return f"{max(0, int(seconds))}s"
    if minutes < 60:
        return f"{minutes}m"
    hours = minutes // 60
    return (
        f"{hours}h{minutes % 60:02}m" if hours < 24 else f"{hours // 24}d{hours % 24}h"
    )


def _moment(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f}ms" if seconds < 1 else f"{seconds:.1f}s"


def _size(size: int | None) -> str:
    return "-" if size is None else f"{size / 1_000_000:,.0f}MB"
