"""Tests of database calls from async code."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
from asgiref.sync import SyncToAsync, async_to_sync
from django.db import connections, transaction

from tiderace import db
from tiderace.db import (
    DatabaseSyncToAsync,
    aclose_old_connections,
    database_sync_to_async,
)
from tiderace.runtime.threads import isolated


@pytest.fixture
def calls():
    """What happened, in order; closing connections is one of the things."""
    seen: list[str] = []

    def close():
        seen.append("close")

    with mock.patch("tiderace.db.close_old_connections", close):
        yield seen


async def test_stale_connections_are_closed_before_and_after_the_call(calls):
    await database_sync_to_async(calls.append)("work")

    assert calls == ["close", "work", "close"]


async def test_stale_connections_are_closed_after_a_call_that_raised(calls):
    def fail():
        calls.append("work")
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        await database_sync_to_async(fail)()

    assert calls == ["close", "work", "close"]


async def test_connections_are_closed_in_the_thread_of_the_call():
    threads = []

    def note():
        threads.append(threading.get_ident())

    with mock.patch("tiderace.db.close_old_connections", note):
        await database_sync_to_async(note)()

    assert len(threads) == 3
    assert set(threads) != {threading.get_ident()}
    assert len(set(threads)) == 1


async def test_arguments_and_result_are_passed_through():
    @database_sync_to_async
    def join(first, *, second):
        return first + second

    assert await join("a", second="b") == "ab"


async def test_a_decorated_method_gets_its_instance():
    class Room:
        name = "harbour"

        @database_sync_to_async
        def greet(self, greeting):
            return f"{greeting} {self.name}"

    assert await Room().greet("ahoy") == "ahoy harbour"


async def test_the_wrapper_keeps_the_name_and_docstring_of_the_function():
    @database_sync_to_async
    def find():
        """Look it up."""

    assert find.__name__ == "find"
    assert find.__doc__ == "Look it up."


def test_the_decorator_is_a_subclass_of_sync_to_async():
    assert database_sync_to_async is DatabaseSyncToAsync
    assert issubclass(DatabaseSyncToAsync, SyncToAsync)


def test_a_coroutine_function_is_refused():
    async def already():
        pass

    with pytest.raises(TypeError, match="sync functions"):
        database_sync_to_async(already)


async def test_calls_share_one_thread_by_default():
    first = await database_sync_to_async(threading.get_ident)()
    second = await database_sync_to_async(threading.get_ident)()

    assert first == second != threading.get_ident()


async def test_an_executor_can_be_given():
    with ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
        name = await database_sync_to_async(
            lambda: threading.current_thread().name,
            thread_sensitive=False,
            executor=executor,
        )()

    assert name.startswith("mine")


async def test_an_isolated_connection_runs_its_calls_in_its_own_thread():
    shared = await database_sync_to_async(threading.get_ident)()

    async with isolated():
        own = {await database_sync_to_async(threading.get_ident)() for _ in range(3)}

    assert len(own) == 1
    assert shared not in own


async def test_an_explicit_close_uses_a_patched_function(calls):
    await aclose_old_connections()

    assert calls == ["close"]


@pytest.fixture
def connection(tmp_path, django_db_blocker):
    """An open connection to a database in a file, old at once."""
    default = connections.settings["default"]
    connections.settings["file"] = {
        **default,
        "NAME": tmp_path / "db",
        "CONN_MAX_AGE": 0,
    }
    with django_db_blocker.unblock():
        connection = connections["file"]
        connection.connect()
        yield connection
        connection.close()
    del connections["file"]
    del connections.settings["file"]


def test_an_old_connection_is_closed(connection):
    db.close_old_connections()

    assert connection.connection is None


def test_a_connection_that_is_not_old_stays_open(connection):
    connection.close_at = None

    db.close_old_connections()

    assert connection.is_usable()


def test_a_connection_left_without_autocommit_is_closed(connection):
    connection.close_at = None
    connection.set_autocommit(False)

    db.close_old_connections()

    assert connection.connection is None


def test_an_old_connection_in_a_transaction_stays_open(connection):
    with transaction.atomic(using="file"):
        db.close_old_connections()

        assert connection.is_usable()


def test_database_calls_below_a_sync_caller_stay_in_its_transaction(connection):
    def answer():
        with connection.cursor() as cursor:
            return cursor.execute("SELECT 42").fetchone()

    with transaction.atomic(using="file"):
        assert async_to_sync(database_sync_to_async(answer))() == (42,)
        assert connection.is_usable()


def test_an_old_connection_is_closed_where_access_is_forbidden(
    connection, django_db_blocker
):
    with django_db_blocker.block():
        db.close_old_connections()

    assert connection.connection is None
