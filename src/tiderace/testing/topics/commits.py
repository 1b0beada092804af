"""Publications at commit inside Django's ``TestCase``, whose transaction never commits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import Atomic, get_connection


@contextmanager
def publications_at_commit() -> Iterator[None]:
    """Call what Tiderace has registered by ``on_commit`` where a commit would be.

    Inside the transaction of a ``TestCase`` that is the end of the outermost block of the
    code under test, or at once outside of any; after a rollback it is not called, as in
    production. Other functions of ``on_commit`` wait for Django's
    ``captureOnCommitCallbacks``.
    """
    leave, register = Atomic.__exit__, BaseDatabaseWrapper.on_commit
    # Those of setUpTestData, which no test has caused.
    earlier = {
        id(each[1]): each
        for connection in connections.all(initialized_only=True)
        for each in connection.run_on_commit
    }

    def call_committed(connection: Any) -> None:
        if not _is_committed(connection):
            return
        due: list[Callable[[], object]] = []
        others = []
        for each in connection.run_on_commit:
            func = each[1]
            if _is_ours(func) and id(func) not in earlier:
                due.append(func)
            else:
                others.append(each)
        connection.run_on_commit = others
        for func in due:
            func()

    def leave_and_call(block: Any, *error: Any) -> None:
        leave(block, *error)
        call_committed(get_connection(block.using))

    def register_and_call(
        connection: Any, func: Callable[[], object], robust: bool = False
    ) -> None:
        register(connection, func, robust)
        call_committed(connection)

    with (
        mock.patch.object(Atomic, "__exit__", leave_and_call),
        mock.patch.object(BaseDatabaseWrapper, "on_commit", register_and_call),
    ):
        yield


def _is_committed(connection: Any) -> bool:
    """Return whether all blocks of the code under test have ended well."""
    blocks = connection.atomic_blocks
    return (
        bool(blocks)
        and not connection.needs_rollback
        and all(block._from_testcase for block in blocks)  # noqa: SLF001 (Django's)
    )


def _is_ours(func: Any) -> bool:
    while isinstance(func, partial):
        func = func.func
    return str(getattr(func, "__module__", "")).partition(".")[0] == "tiderace"
