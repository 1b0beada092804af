"""Breaks open connections, so that test runners can drop or copy the database."""

from __future__ import annotations

import contextlib
import os
import socket
import weakref
from typing import Any, Protocol

import psycopg
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.signals import connection_created


class Droppable(Protocol):
    """An object with a connection that may be broken."""

    def drop(self) -> None:
        """Break the connection; any thread may call it. The owner opens another one."""


open_connections: weakref.WeakSet[Droppable] = weakref.WeakSet()
"""All objects with a connection to PostgreSQL in this process."""


def break_connection(pgconn: psycopg.pq.abc.PGconn) -> None:
    """Shut a connection's socket down, as a failure of the network would."""
    with (
        contextlib.suppress(psycopg.Error, OSError),  # it is closed
        socket.socket(fileno=os.dup(pgconn.socket)) as broken,
    ):
        broken.shutdown(socket.SHUT_RDWR)


def _before_database_is_dropped(sender: Any, connection: Any, **_: Any) -> None:
    # Only test runners connect without a database: to create, copy or drop one.
    # PostgreSQL does not drop or copy a database with open connections.
    if connection.alias == NO_DB_ALIAS:
        for each in list(open_connections):
            each.drop()


connection_created.connect(
    _before_database_is_dropped, dispatch_uid="tiderace.layers.database"
)
