"""PostgreSQL as the database of a layer."""

from __future__ import annotations

from tiderace.layers.database.postgresql.connection import (
    PostgresConnection,
    WriteTransaction,
)
from tiderace.layers.database.postgresql.errors import explain
from tiderace.layers.database.postgresql.feed import PostgresFeed
from tiderace.layers.database.postgresql.parameters import location_of
from tiderace.layers.database.vendor import (
    DatabaseConnection,
    Fault,
    Feed,
    OutcomeUnknown,
    Wanted,
)


class PostgresVendor:
    """One of Django's databases, of PostgreSQL 14 or newer.

    Args:
        using: its alias in ``DATABASES``.
        notify_dsn: connection string for the connection that listens, where Django's
            goes through a pooler; empty for that of Django.
    """

    max_gathered = 500
    # The server has room for a limited number of locks, by default 6,400 in all.
    max_locks: float = 100

    def __init__(self, using: str, *, notify_dsn: str = "") -> None:
        self._using = using
        self._notify_dsn = notify_dsn

    @property
    def location(self) -> str:
        return location_of(self._using)

    def connect(self, timeout: float) -> PostgresConnection:
        return PostgresConnection(self._using, timeout)

    def was_committed(
        self, connection: DatabaseConnection, unknown: OutcomeUnknown
    ) -> bool:
        transaction = unknown.transaction
        # Both were made by this vendor; the assertions are for mypy.
        assert isinstance(connection, PostgresConnection)  # noqa: S101
        assert isinstance(transaction, WriteTransaction)  # noqa: S101
        return connection.was_committed(transaction)

    def open_feed(self, wanted: Wanted) -> Feed:
        return PostgresFeed(self._using, self._notify_dsn, wanted)

    def explain(self, error: Exception) -> Fault | None:
        return explain(error)
