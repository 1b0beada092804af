"""Reads the rows of an outbox and the messages of its topics, for tests."""

from __future__ import annotations

from typing import Any

from tiderace.outbox.models import WaitingPublication
from tiderace.topics import history

__all__ = ["messages_of", "waiting_in"]


def messages_of(name: str) -> list[Any]:
    """Return what was published to ``board:<name>``."""
    return history(f"board:{name}").messages


def waiting_in(database: str) -> list[tuple[str, str]]:
    """Return topic and data of the rows that wait."""
    rows = WaitingPublication.objects.using(database).filter(failed=None)
    return list(rows.values_list("topic", "data"))
