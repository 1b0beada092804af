"""Publishes rows in the calling thread, for tests of an application."""

from __future__ import annotations

from django.db import DEFAULT_DB_ALIAS

from tiderace.outbox.rows import OutboxRows

__all__ = ["hand_over"]

_ROWS = 500


def hand_over(using: str = DEFAULT_DB_ALIAS) -> int:
    """Publish all rows that wait in the outbox of a database, and delete them.

    For tests, in which no relay runs: it reads the rows in the transaction around a test,
    and returns when they are published. The callbacks of
    ``captureOnCommitCallbacks(execute=True)`` call it.

    Returns:
        The number of publications.

    Raises:
        Exception: the error of a row that cannot be published; the row stays.
    """
    outbox = OutboxRows(using)
    count = 0
    while rows := outbox.waiting(_ROWS):
        for row in rows:
            row.prepare().publish()
            outbox.delete([row.id])
            count += 1
    return count
