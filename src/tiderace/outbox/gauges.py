"""The gauges of the outboxes whose relay is active in this process."""

from __future__ import annotations

from tiderace import metrics
from tiderace.outbox.rows import Statistics

_by_database: dict[str, Statistics] = {}


def report(database: str, statistics: Statistics) -> None:
    """Set the gauges; they are 0 in a process whose relay is not active."""
    _by_database[database] = statistics
    found = _by_database.values()
    metrics.OUTBOX_WAITING.value = sum(each.waiting for each in found)
    metrics.OUTBOX_SET_ASIDE.value = sum(each.set_aside for each in found)
    metrics.OUTBOX_AGE.value = int(max(each.oldest for each in found))
