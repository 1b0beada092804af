"""Transactions that save a row and publish its number; a third is rolled back.

A number is that of the writer and of the transaction. It is appended to a file just
before the commit, with the time: what arrives earlier was published before its commit.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["UNDONE", "WRITER", "count_records", "read_record", "write"]

WRITER = 10**9
"""The numbers of the first writer begin here, those of the second at twice as much."""
UNDONE = WRITER // 2
"""Is added to a number whose publication, and that alone, is rolled back."""

_ENTRY = struct.Struct("<Qd")


def count_records(path: Path) -> int:
    """Return how many numbers are in a writer's file."""
    return path.stat().st_size // _ENTRY.size if path.exists() else 0


def read_record(path: Path) -> Iterator[tuple[int, float]]:
    """Yield each number of a writer's file, and when its transaction was about to end."""
    content = path.read_bytes() if path.exists() else b""
    yield from _ENTRY.iter_unpack(content[: len(content) // _ENTRY.size * _ENTRY.size])


class _Writer:
    def __init__(self, number: int, topics: list[str], path: str) -> None:
        from django.db import DatabaseError, InterfaceError

        self._errors = (DatabaseError, InterfaceError)
        self._topics = topics
        self._record = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        known = [each for each, _ in read_record(Path(path))]
        self._next = known[-1] + 1 if known else number * WRITER

    def transact(self) -> None:
        """Make the next transaction; one that fails is not repeated after its record."""
        from django.db import connection

        try:
            self._transact(self._next)
        except self._errors:
            connection.close()
            time.sleep(0.05)

    def _transact(self, number: int) -> None:
        from django.contrib.auth.models import Group
        from django.db import transaction

        from tiderace.topics import publish

        topic = random.choice(self._topics)
        with transaction.atomic():
            Group.objects.create(name=str(number))
            if number % 5 == 1:
                with transaction.atomic():
                    publish(topic, {"n": number + UNDONE})
                    transaction.set_rollback(True)
            with transaction.atomic():
                publish(topic, {"n": number})
            if number % 20 == 2:
                time.sleep(0.01)
            transaction.set_rollback(number % 3 == 0)
            os.write(self._record, _ENTRY.pack(number, time.monotonic()))
            self._next = number + 1


def write(number: int, topics: list[str], path: str, rate: float) -> None:
    """Make transactions until SIGTERM.

    Args:
        number: of the writer, from 1.
        topics: to which it publishes.
        path: its file.
        rate: transactions a second at most.
    """
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    writer = _Writer(number, topics, path)
    due = time.monotonic()
    while not stopped:
        due = max(due + random.expovariate(rate), time.monotonic())
        time.sleep(max(due - time.monotonic(), 0))
        writer.transact()
