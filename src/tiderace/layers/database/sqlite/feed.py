"""Reads new rows of the layer's file in an event loop.

The rows are read in the loop itself: readers of a file with a write-ahead log do not
wait for writers, and a thread would have to wait for the GIL while the loop is busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tiderace.layers.database.queues import ready_queues
from tiderace.layers.database.sqlite.connection import (
    FileReplaced,
    SqliteCursor,
    file_identity,
    open_file,
)
from tiderace.layers.database.sqlite.wakeups import WakeupFolder, Wakeups
from tiderace.layers.database.vendor import FeedRow, Wanted
from tiderace.runtime.forks import after_fork, around_fork

_INTERVAL = 0.1  # seconds between two polls of the file
_INTERVAL_ALONE = 0.05  # the same where there are no wake-ups
_MAX_ROWS = 500  # read at once

_NEW_ROWS = (
    "SELECT id, subject, epoch, number, previous, data, published_ms "
    f"FROM tiderace_layer_entry WHERE id > ? ORDER BY id LIMIT {_MAX_ROWS}"
)


class SqliteFeed:
    """A ``Feed`` of one file.

    Args:
        path: the file.
        timeout: seconds to wait while it is locked, as when it is created.
        wanted: the streams and queues whose rows are returned.
    """

    def __init__(self, path: Path, timeout: float, wanted: Wanted) -> None:
        self._path = path
        self._timeout = timeout
        self._wanted = wanted
        self._identity = ""
        self._wakeups: Wakeups | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()
        self._queues: set[str] = set()
        self._is_dropped = False
        self._is_closed = False
        self._last_id = 0
        self._next_poll = 0.0
        self._database: sqlite3.Connection | None = None
        # Held while the database is read, so that the process does not fork meanwhile.
        self._reading = threading.Lock()
        around_fork(self._pause, self._resume)
        after_fork(self._forget_parent)

    async def open(self) -> None:
        self._last_id = await self._connect()
        self._identity = file_identity(self._path)
        self._wakeups = WakeupFolder(self._path).listen()
        if self._wakeups is not None:
            self._loop = asyncio.get_running_loop()
            try:
                self._loop.add_reader(self._wakeups.listener, self._wake)
            except NotImplementedError:
                self._wakeups.close()
                self._wakeups = None

    async def read(self) -> Sequence[FeedRow]:
        while True:
            if self._database is None:
                await self._connect()
            # Also while wake-ups arrive: they may be for streams that are not wanted, or
            # for a file that has replaced this one.
            if time.monotonic() >= self._next_poll:
                self._poll()
            if rows := self._read_new():
                return rows
            await self._wait()

    async def close(self) -> None:
        with self._reading:
            self._is_closed = True
            self._disconnect()
        wakeups, self._wakeups = self._wakeups, None
        if wakeups is not None:
            with contextlib.suppress(RuntimeError):  # that loop is closed
                if self._loop is not None:
                    self._loop.remove_reader(wakeups.listener)
            wakeups.close()

    def drop(self) -> None:
        self._is_dropped = True
        self._woken.set()

    def _poll(self) -> None:
        """Check the file and the queues, since a wake-up may have been lost.

        Raises:
            FileReplaced: the file was deleted or replaced.
        """
        seconds = _INTERVAL_ALONE if self._wakeups is None else _INTERVAL
        self._next_poll = time.monotonic() + seconds
        if file_identity(self._path) != self._identity:
            raise FileReplaced(self._path)
        if self._wanted.queues:
            self._queues.update(self._find_ready_queues())

    def _read_new(self) -> list[FeedRow]:
        """Return the new rows that are in ``wanted``."""
        if self._is_dropped:
            raise FileReplaced(self._path)
        with self._reading:
            if self._database is None:
                return []
            found = self._database.execute(_NEW_ROWS, (self._last_id,)).fetchall()
        rows = []
        # After the query: what is committed from here on is read by the next one.
        wanted = self._wanted
        if self._queues:
            queues, self._queues = self._queues, set()
            rows = [FeedRow(queue) for queue in queues if queue in wanted.queues]
        if found:
            self._last_id = found[-1][0]
            subjects = wanted.subjects
            rows += [FeedRow(*row[1:]) for row in found if row[1] in subjects]
            if not rows or len(found) == _MAX_ROWS:
                self._woken.set()  # read on at once
        return rows

    def _find_ready_queues(self) -> list[str]:
        with self._reading:
            if self._database is None:
                return []
            cursor = SqliteCursor(self._database, "")
            return ready_queues(cursor, self._wanted.queues.copy())

    async def _wait(self) -> None:
        """Wait for a wake-up, or until the next poll."""
        loop = asyncio.get_running_loop()
        seconds = max(0.0, self._next_poll - time.monotonic())
        timer = loop.call_later(seconds, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            timer.cancel()
        self._woken.clear()

    def _wake(self) -> None:
        if self._wakeups is not None:
            self._queues |= self._wakeups.receive()
        self._woken.set()

    async def _connect(self) -> int:
        """Open the file, and return the id of the last row that was inserted."""
        return await asyncio.to_thread(self._open_file)

    def _open_file(self) -> int:
        # The lock is held meanwhile: a child that is forked while a file is being opened
        # inherits SQLite's locked mutex, and a connection that breaks its locks.
        with self._reading:
            database = open_file(self._path, self._timeout)
            try:
                if self._is_closed:  # while the thread was starting
                    raise FileReplaced(self._path)
                database.execute("PRAGMA query_only = ON")
                database.execute("PRAGMA busy_timeout = 0")
                found = database.execute(
                    "SELECT seq FROM sqlite_sequence "
                    "WHERE name = 'tiderace_layer_entry'"
                ).fetchone()
            except BaseException:
                database.close()
                raise
            self._database = database
        return found[0] if found else 0

    def _disconnect(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):
                database.close()

    def _pause(self) -> None:
        self._reading.acquire()
        self._disconnect()

    def _resume(self) -> None:
        self._reading.release()

    def _forget_parent(self) -> None:
        self._reading = threading.Lock()
        if self._wakeups is not None:
            # An open copy would accept wake-ups after the parent has ended.
            self._wakeups.close(in_child=True)
