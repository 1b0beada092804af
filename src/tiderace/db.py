"""Runs database work of async code in a thread, with stale connections closed."""

from __future__ import annotations

import time
import weakref
from asyncio import AbstractEventLoop
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import SyncToAsync, sync_to_async
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

__all__ = [
    "DatabaseSyncToAsync",
    "aclose_old_connections",
    "close_old_connections",
    "database_sync_to_async",
    "is_transaction_open",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class DatabaseSyncToAsync(SyncToAsync[_P, _R]):
    """A sync callable made awaitable, with Django's stale connections closed around it.

    Use it as a wrapper (``await database_sync_to_async(get_name)(pk)``) or as a
    decorator of functions and methods. It takes what ``asgiref.sync.SyncToAsync``
    takes; with the default ``thread_sensitive=True`` the calls of one connection run
    one after another, with database connections of its own, while those of different
    connections run side by side wherever ``tiderace.runtime.threads.isolated()`` is in
    force.

    ``close_old_connections`` is looked up in this module at every call, so that tests
    can patch ``tiderace.db.close_old_connections``.
    """

    def thread_handler(self, loop: AbstractEventLoop, *args: Any, **kwargs: Any) -> Any:
        """Run the callable, and close stale connections before and after it."""
        close_old_connections()
        try:
            return super().thread_handler(loop, *args, **kwargs)  # type: ignore[no-untyped-call]
        finally:
            close_old_connections()


database_sync_to_async = DatabaseSyncToAsync


def close_old_connections() -> None:
    """Close this thread's connections that are broken or older than ``CONN_MAX_AGE``.

    Like Django's function of that name, but a connection inside a transaction is left
    open: sync code may call async code inside ``transaction.atomic()``, and every
    ``TestCase`` does.
    """
    for connection in connections.all(initialized_only=True):
        if connection.connection is None or connection.in_atomic_block:
            continue
        # The age is compared first, since that does not use the connection: a test
        # without database access may run in the thread of one that had it.
        if connection.close_at is not None and time.monotonic() >= connection.close_at:
            connection.close()
        else:
            connection.close_if_unusable_or_obsolete()


async def aclose_old_connections() -> None:
    """Close the connections that are broken or older than ``CONN_MAX_AGE``.

    These are the connections of the thread in which this task's sync code runs, since a
    Django connection belongs to one thread.
    """
    await sync_to_async(close_old_connections)()


# Django's connections of all threads that are open, and some that were.
_opened: set[weakref.ref[BaseDatabaseWrapper]] = set()


def _note_opened(connection: BaseDatabaseWrapper, **_: Any) -> None:
    _opened.add(weakref.ref(connection, _opened.discard))


connection_created.connect(_note_opened, dispatch_uid="tiderace.db")


def is_transaction_open(alias: str) -> bool:
    """Return whether a thread of this process is in a transaction of the database ``alias``.

    If it returns False, async code need not look for a transaction in its own thread.
    """
    # One step under the GIL, while other threads add and discard.
    for reference in list(_opened):
        connection = reference()
        if connection is None:
            continue
        if connection.in_atomic_block:
            if connection.alias == alias:
                return True
        elif connection.connection is None:
            # Closed: a socket keeps such a connection for as long as it is there.
            _opened.discard(reference)
            if connection.connection is not None:
                # Its thread has opened it again meanwhile.
                _opened.add(reference)
    return False
