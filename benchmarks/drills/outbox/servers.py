"""The layers and databases of the sites of the outbox's drills."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from benchmarks.databases import require_postgresql
from support.servers.brokers import Server
from support.servers.postgresql import PostgresServer

__all__ = ["Database", "Killable", "postgresql", "redis", "sqlite"]


class Killable(Protocol):
    """A server that is killed and started again with its files."""

    def kill(self) -> None: ...

    def start(self) -> None: ...


class Database(Protocol):
    """The database of a site."""

    settings: dict[str, Any]
    servers: Mapping[str, Killable]

    def fetch(self, statement: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query; none while the database is away."""


class _Sqlite:
    """A file, in which every commit reaches the disk."""

    servers: Mapping[str, Killable] = {}

    def __init__(self, folder: Path) -> None:
        self._path = folder / "site.sqlite3"
        self.settings = {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(self._path),
            "OPTIONS": {
                "timeout": 20,
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL",
            },
        }

    def fetch(self, statement: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self._path, timeout=20)) as connection:
            return connection.execute(statement).fetchall()


class _Postgresql:
    """A server that writes commits to the disk."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self.servers: Mapping[str, Killable] = {"PostgreSQL": server}
        self.settings = server.database()

    def fetch(self, statement: str) -> list[tuple[Any, ...]]:
        import psycopg

        with contextlib.suppress(psycopg.OperationalError):
            return list(self._server.call(statement))
        return []


@contextlib.contextmanager
def sqlite(folder: Path) -> Any:
    """Yield a database in a file."""
    yield _Sqlite(folder)


@contextlib.contextmanager
def postgresql(folder: Path) -> Any:
    """Run PostgreSQL, and yield its database.

    Raises:
        Unavailable: when it is not installed.
    """
    require_postgresql()
    # Else it syncs each of its files after a crash, which takes longer than the rest.
    quick = {"recovery_init_sync_method": "syncfs"}
    with PostgresServer(durable=True, settings=quick) as server:
        yield _Postgresql(server)


@contextlib.contextmanager
def redis() -> Any:
    """Run Redis, which has each command on the disk before it answers."""
    with Server(append_only=True, lines=("appendfsync always",)) as server:
        yield server
