"""What an outbox and the topics of its tests hold."""

from __future__ import annotations

from typing import Any

from tiderace.outbox.models import WaitingPublication
from tiderace.topics import history

__all__ = ["heard", "waiting_in"]


def heard(name: str) -> list[Any]:
    """Return what was published to ``board:<name>``."""
    return history(f"board:{name}").messages


def waiting_in(database: str) -> list[tuple[str, str]]:
    """Return topic and data of the rows that wait."""
    rows = WaitingPublication.objects.using(database).filter(failed=None)
    return list(rows.values_list("topic", "data"))
