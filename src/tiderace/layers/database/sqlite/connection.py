"""Connections to the layer's SQLite file, and transactions on them."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from tiderace.layers.database.sqlite.places import access_problem
from tiderace.layers.database.vendor import FeedRow

_SCHEMA_VERSION = 1
_SCHEMA = Path(__file__).with_name("schema.sql")

# Pages in the write-ahead log after which a commit itself copies the log into the file.
# ``Checkpointer`` copies it much earlier, unless its process was stopped.
_CHECKPOINT_PAGES = 40_000

# A commit writes whole pages to the log. With this size a commit writes half the bytes of
# SQLite's default, 4096, in no measurably longer time. With 1024, messages of 4 kB take
# 1.6 times the processor time.
_PAGE_SIZE = 2048

_MAX_PARAMETERS = 30_000  # of one statement; SQLite takes 32,766


class FileReplaced(sqlite3.OperationalError):
    """The file was deleted, or another one is in its place."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} was deleted or replaced")


class FileInaccessible(sqlite3.OperationalError):
    """The file cannot be opened or created, and waiting does not help."""


class SchemaMismatch(sqlite3.DatabaseError):
    """The file was made by another release."""


class SqliteCursor:
    """A ``Cursor`` of one transaction."""

    __slots__ = ("_database", "announced", "now_ms", "timeline")

    def __init__(self, database: sqlite3.Connection, timeline: str) -> None:
        self._database = database
        self.timeline = timeline
        self.now_ms = time.time_ns() // 1_000_000
        self.announced: list[FeedRow] = []

    def lock(self, names: Sequence[str]) -> None:
        """Do nothing: a file has one transaction that writes at a time."""

    def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._database.execute(_translate(sql), parameters).fetchall()

    def select(
        self,
        table: str,
        columns: Sequence[str],
        key_columns: Sequence[str],
        keys: Sequence[Sequence[Any]],
    ) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        size = _MAX_PARAMETERS // len(key_columns)
        for start in range(0, len(keys), size):
            batch = keys[start : start + size]
            found += self._database.execute(
                _select(table, tuple(columns), tuple(key_columns), len(batch)),
                [value for key in batch for value in key],
            )
        return found

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        return self._database.execute(_translate(sql), parameters).rowcount

    def insert(
        self,
        table: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        conflict: str = "",
    ) -> None:
        # One statement with many rows takes the GIL once, not once for each row.
        size = _MAX_PARAMETERS // len(columns)
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            self._database.execute(
                _insert(table, tuple(columns), len(batch), conflict),
                [value for row in batch for value in row],
            )


class SqliteConnection:
    """A ``DatabaseConnection`` to a file.

    Args:
        path: the file, which is created unless it exists.
        timeout: seconds to wait while the file is locked.
        on_commit: called after a commit with the number of rows that it has changed.
        wake: called after a commit with the rows that are new.
    """

    def __init__(
        self,
        path: Path,
        timeout: float,
        *,
        on_commit: Callable[[int], None],
        wake: Callable[[Sequence[FeedRow]], None],
    ) -> None:
        self._path = path
        self._on_commit = on_commit
        self._wake = wake
        self._changes = 0
        self._database = open_file(path, timeout)
        self._timeout = timeout
        self._identity = file_identity(path)
        self._timeline = f"{boot_id()} {self._identity}"

    def begin(self, *, write: bool, timeout: float) -> SqliteCursor:
        if file_identity(self._path) != self._identity:
            raise FileReplaced(self._path)
        if timeout != self._timeout:
            self._timeout = timeout
            self._database.execute(f"PRAGMA busy_timeout = {int(timeout * 1000)}")
        self._database.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        return SqliteCursor(self._database, self._timeline)

    def commit(self) -> None:
        self._database.execute("COMMIT")
        changed = self._database.total_changes - self._changes
        if changed:
            self._changes += changed
            self._on_commit(changed)

    def rollback(self) -> None:
        try:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
        except sqlite3.Error:
            self.close()

    def announce(self, rows: Sequence[FeedRow]) -> None:
        self._wake(rows)

    def close(self) -> None:
        # The file may be gone or unreadable.
        with contextlib.suppress(sqlite3.Error):
            self._database.close()


def open_file(path: Path, timeout: float) -> sqlite3.Connection:
    """Open the layer's file, and create it and its tables unless they exist.

    Raises:
        FileInaccessible: when its folder is missing, or it may not be written.
        sqlite3.Error: when that is not possible for another reason.
        SchemaMismatch: when another release has made it.
    """
    try:
        return _open(path, timeout)
    except sqlite3.OperationalError as error:
        if problem := access_problem(path):
            raise FileInaccessible(f"{error}: {problem}") from error
        raise


def _open(path: Path, timeout: float) -> sqlite3.Connection:
    database = sqlite3.connect(
        path,
        timeout=timeout,
        isolation_level=None,
        # Closed before a fork by the thread that forks.
        check_same_thread=False,
    )
    try:
        # It has an effect only before the first page of the file is written.
        database.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
        database.execute("PRAGMA journal_mode = WAL")
        # A commit is in the write-ahead log when it returns: no crash of a process loses
        # it. The log is synchronised when it is copied into the file, so a power cut may
        # lose the last commits, and never damages the file.
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        database.execute("PRAGMA temp_store = MEMORY")
        _create_tables(database, path)
    except BaseException:
        database.close()
        raise
    return database


def file_identity(path: Path) -> str:
    """Return an id of the file at ``path``, which a replacement lacks; '' for no file."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_dev}:{status.st_ino}"


@cache
def boot_id() -> str:
    """Return an id that changes when this machine restarts; '' where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _create_tables(database: sqlite3.Connection, path: Path) -> None:
    if _version(database) == 0:
        database.execute("BEGIN IMMEDIATE")
        # Another process may have created them meanwhile.
        if _version(database) == 0:
            for statement in _SCHEMA.read_text().split(";\n"):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        database.execute("COMMIT")
    if (version := _version(database)) != _SCHEMA_VERSION:
        raise SchemaMismatch(
            f"{path} has the tables of another release (version {version}, and this one "
            f"has {_SCHEMA_VERSION}); stop all processes of the site and delete it"
        )


def _version(database: sqlite3.Connection) -> int:
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    return version


@lru_cache(256)
def _translate(sql: str) -> str:
    return sql.replace("%s", "?")


@lru_cache(64)
def _insert(table: str, columns: tuple[str, ...], rows: int, conflict: str) -> str:
    row = f"({', '.join('?' * len(columns))})"
    return (
        f"INSERT INTO tiderace_layer_{table} ({', '.join(columns)}) "
        f"VALUES {', '.join([row] * rows)} {conflict}"
    )


@lru_cache(256)
def _select(
    table: str, columns: tuple[str, ...], key_columns: tuple[str, ...], keys: int
) -> str:
    key = f"({', '.join('?' * len(key_columns))})"
    return (
        f"SELECT {', '.join(columns)} FROM tiderace_layer_{table} "
        f"WHERE ({', '.join(key_columns)}) IN (VALUES {', '.join([key] * keys)})"
    )
