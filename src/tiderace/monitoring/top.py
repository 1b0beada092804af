"""Formats the statistics of all processes as a table of text, one line for each."""

from __future__ import annotations

from collections.abc import Sequence

from tiderace.layers.stats import LayerStats, ProcessStats

__all__ = ["table"]

_HEADS = (
    "PROCESS",
    "UP",
    "SEEN",
    "CONNS",
    "CLIENTS",
    "CHANNELS",
    "GROUPS",
    "IN/S",
    "OUT/S",
    "DROPPED",
    "SLOW",
    "ERRORS",
    "LAG",
    "TRIP",
    "MEMORY",
)

# A process reports every two seconds.
_LATE = 10.0


def table(stats: LayerStats, groups: int = 10) -> list[str]:
    """Return the lines: a head, the processes, their sum, and the largest groups."""
    rows = [_HEADS, *(_row(each) for each in stats.processes), _total(stats)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    lines = [_aligned(row, widths) for row in rows]
    drops = {reason: count for reason, count in stats.dropped.items() if count}
    if drops:
        text = ", ".join(f"{count:,} {reason}" for reason, count in drops.items())
        lines += ["", f"dropped: {text}"]
    largest = list(stats.members.items())[:groups]
    if largest:
        text = ", ".join(f"{name} {count:,}" for name, count in largest)
        lines += ["", f"largest groups: {text}"]
    return lines


def _row(process: ProcessStats) -> tuple[str, ...]:
    seen = f"{process.age:.0f}s"
    name = f"{process.host}:{process.pid}"
    return (
        name if process.ready else f"{name} (disconnected)",
        _span(process.at - process.started),
        f"{seen}!" if process.age > _LATE else seen,
        f"{process.connections:,}",
        f"{process.topic_clients:,}",
        f"{process.channels:,}",
        f"{process.groups:,}",
        f"{process.sent_per_second:,.1f}",
        f"{process.delivered_per_second:,.1f}",
        f"{sum(process.dropped.values()):,}",
        f"{process.slow_clients:,}",
        f"{process.errors:,}",
        _moment(process.lag),
        _moment(process.round_trip),
        _size(process.memory),
    )


def _total(stats: LayerStats) -> tuple[str, ...]:
    count = len(stats.processes)
    return (
        f"{count} process" if count == 1 else f"{count} processes",
        "",
        "",
        f"{stats.connections:,}",
        f"{stats.topic_clients:,}",
        f"{stats.channels:,}",
        f"{stats.groups:,}",
        f"{stats.sent_per_second:,.1f}",
        f"{stats.delivered_per_second:,.1f}",
        f"{sum(stats.dropped.values()):,}",
        f"{stats.slow_clients:,}",
        f"{stats.errors:,}",
        _moment(stats.lag),
        _moment(stats.round_trip),
        _size(stats.memory),
    )


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
