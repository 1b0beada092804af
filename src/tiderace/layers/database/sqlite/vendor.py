"""SQLite as the database of the layer, for several processes on one machine."""

from __future__ import annotations

import math
import shutil
import sqlite3
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from django.db import connections

from tiderace.layers.database.sqlite.checkpoints import Checkpointer
from tiderace.layers.database.sqlite.connection import (
    FileInaccessible,
    FileReplaced,
    SchemaMismatch,
    SqliteConnection,
)
from tiderace.layers.database.sqlite.feed import SqliteFeed
from tiderace.layers.database.sqlite.wakeups import WakeupFolder
from tiderace.layers.database.vendor import Fault, OutcomeUnknown, Wanted

_TRANSIENT = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_SCHEMA,
}
_DENIED = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}


class SqliteVendor:
    """A ``Vendor`` of a SQLite file for the layer alone, beside that of the site.

    With two files, the layer and the site do not wait for each other's transactions.

    Args:
        using: the site's database in ``DATABASES``.
        path: the file; None for one beside the site's.
    """

    max_gathered = 500
    max_locks = math.inf

    def __init__(self, using: str, path: Path | None = None) -> None:
        self._using = using
        self._given = path
        # The layer's file by the name of the site's database: test runners change the name.
        self._paths: dict[str, Path] = {}
        self._files: dict[Path, tuple[WakeupFolder, Checkpointer]] = {}

    @property
    def path(self) -> Path:
        """The file."""
        if self._given is not None:
            return self._given
        name = str(connections.settings[self._using]["NAME"])
        path = self._paths.get(name)
        if path is None:
            path = self._paths[name] = _beside(name)
        return path

    @property
    def location(self) -> str:
        return str(self.path)

    def connect(self, timeout: float) -> SqliteConnection:
        path = self.path
        if path not in self._files:
            self._files[path] = WakeupFolder(path), Checkpointer(path)
        folder, checkpointer = self._files[path]
        return SqliteConnection(
            path, timeout, on_commit=checkpointer.note_commit, wake=folder.wake
        )

    def was_committed(self, connection: Any, unknown: OutcomeUnknown) -> bool:
        raise AssertionError("the outcome of a commit to a file is always known")

    def open_feed(self, wanted: Wanted) -> SqliteFeed:
        return SqliteFeed(self.path, 1.0, wanted)

    def explain(self, error: Exception) -> Fault | None:
        if not isinstance(error, sqlite3.Error):
            return None
        if isinstance(error, SchemaMismatch):
            return Fault.REFUSED
        if isinstance(error, FileInaccessible):
            return Fault.DENIED
        code = getattr(error, "sqlite_errorcode", None)
        if isinstance(error, FileReplaced | sqlite3.ProgrammingError) or code in (
            sqlite3.SQLITE_READONLY_DBMOVED,
            None,
        ):
            return Fault.TRANSIENT
        primary = code & 0xFF
        if primary == sqlite3.SQLITE_TOOBIG:
            return Fault.TOO_LARGE
        if primary in _TRANSIENT:
            return Fault.TRANSIENT
        return Fault.DENIED if primary in _DENIED else Fault.REFUSED


def _beside(name: str) -> Path:
    """Return the layer's file for a database of the site."""
    if name == ":memory:" or name.startswith("file:") or not name:
        # A database in memory, as in tests: only this process and its forks have it.
        folder = Path(tempfile.mkdtemp(prefix="tiderace-"))
        # Unlike atexit, Finalize also runs at the end of a worker of multiprocessing, and
        # not at the end of a child that has the folder from its parent.
        Finalize(
            None, shutil.rmtree, (folder,), {"ignore_errors": True}, exitpriority=0
        )
        return folder / "tiderace.sqlite3"
    path = Path(name).resolve()
    return path.with_name(f"{path.stem}.tiderace.sqlite3")
