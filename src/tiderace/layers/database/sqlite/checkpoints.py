"""Copies the write-ahead log into the file, in a thread of its own.

By default SQLite does so within a commit, which then waits for the disk: some
milliseconds in which all publications of all processes wait.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path

from tiderace.runtime.forks import after_fork, around_fork, keep_alive

_ROWS = 1000  # changed since the last copy, before the next one
_INTERVAL = 1.0  # seconds between two copies at least
_IDLE = 30.0  # seconds after which the thread ends
_MAX_PAGES = 8000  # of 2048 bytes, after which the log is begun again


class Checkpointer:
    """The thread of this process that copies the log of one file.

    It is started when there is something to copy, and ends after 30 seconds without work.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start_empty()
        around_fork(self._pause, self._resume)
        after_fork(self._forget_parent)

    def _start_empty(self) -> None:
        # Set when there is something to copy.
        self._due = threading.Event()
        self._changed = 0
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        # Held while the file is open.
        self._copying = threading.Lock()

    def _pause(self) -> None:
        self._copying.acquire()

    def _resume(self) -> None:
        self._copying.release()

    def _forget_parent(self) -> None:
        keep_alive((self._due, self._thread, self._copying))
        self._start_empty()

    def note_commit(self, changed: int) -> None:
        """Count changed rows, and copy the log soon when they are many."""
        self._changed += changed
        if self._changed < _ROWS or self._due.is_set():
            return
        with self._starting:
            self._due.set()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="tiderace-database-log", daemon=True
                )
                self._thread.start()

    def _work(self) -> None:
        pause = threading.Event()
        while True:
            if not self._due.wait(_IDLE):
                with self._starting:
                    if not self._due.is_set():
                        self._thread = None
                        return
            # The commits of a second are copied together: many change the same pages.
            pause.wait(_INTERVAL)
            self._changed = 0
            self._due.clear()
            # After an error the next commit causes another attempt.
            with self._copying, contextlib.suppress(sqlite3.Error):
                self._copy()

    def _copy(self) -> None:
        if not self._path.exists():
            return
        with contextlib.closing(
            sqlite3.connect(self._path, timeout=0.5, isolation_level=None)
        ) as database:
            _, pages, _ = database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if pages > _MAX_PAGES:
                # Nearly everything is copied: writers wait for the rest only.
                database.execute("PRAGMA wal_checkpoint(RESTART)")
