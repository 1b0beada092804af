"""Django's database connections of one socket."""

from __future__ import annotations

from django.conf import settings
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper


class SocketDatabases:
    """Django's database connections of one socket, for whichever thread runs its code.

    Between ``enter`` and ``leave`` they are those of the running thread.
    """

    __slots__ = ("_connections",)

    def __init__(self) -> None:
        self._connections: dict[str, BaseDatabaseWrapper] = {}

    def enter(self) -> None:
        """Let the running thread use them."""
        for alias, connection in self._connections.items():
            connections[alias] = connection

    def leave(self) -> None:
        """Take all connections from the running thread."""
        if not settings.configured:
            return
        for connection in connections.all(initialized_only=True):
            alias = connection.alias
            if self._connections.get(alias) is not connection:
                connection.inc_thread_sharing()
                self._connections[alias] = connection
            del connections[alias]

    @property
    def open(self) -> bool:
        """Whether one is open, and not in a transaction."""
        return any(
            each.connection is not None and not each.in_atomic_block
            for each in self._connections.values()
        )

    @property
    def in_transaction(self) -> bool:
        """Whether one is in a transaction."""
        return any(each.in_atomic_block for each in self._connections.values())

    def close(self, *, transactions: bool) -> None:
        """Close those that the running thread has opened.

        Args:
            transactions: whether those in a transaction are closed too, which rolls it
                back, and those to a SQLite database in memory, as in tests. The socket
                has ended then: Django's ``close()`` leaves the latter open, and since
                Python 3.13 an open one that is dropped is a ResourceWarning.
        """
        if settings.configured:
            for connection in connections.all(initialized_only=True):
                if transactions:
                    BaseDatabaseWrapper.close(connection)
                elif not connection.in_atomic_block:
                    connection.close()
