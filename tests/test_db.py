"""Tests of database calls from async code."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
from asgiref.sync import SyncToAsync, async_to_sync
from django.db import connections, transaction

from support.clients.asgi_client import Client
from support.waiting import PATIENCE, until
from tiderace import db
from tiderace.db import (
    DatabaseSyncToAsync,
    aclose_old_connections,
    database_sync_to_async,
    is_transaction_open,
)
from tiderace.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from tiderace.middleware import BaseMiddleware
from tiderace.routing import ProtocolTypeRouter
from tiderace.runtime.socket_databases import SocketDatabases
from tiderace.runtime.threads import isolated


@pytest.fixture
def calls():
    """The calls in their order, with those that close connections."""
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


# The database connections of a socket


def set_tenant(name):
    connections["file"].tenant = name


def get_tenant():
    return getattr(connections["file"], "tenant", "public")


class TenantMiddleware(BaseMiddleware):
    """Sets what its sync code finds on the connection, as for django-tenants."""

    async def __call__(self, scope, receive, send):
        await database_sync_to_async(set_tenant)(scope["path"])
        return await super().__call__(scope, receive, send)


class AsyncTenant(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        await asyncio.sleep(0)
        await self.send(await database_sync_to_async(get_tenant)())


class SyncTenant(WebsocketConsumer):
    def receive(self, text_data=None, bytes_data=None):
        self.send(get_tenant())


async def ask_in_turns(application):
    """Return the answers of three sockets, each of which is asked five times."""
    sockets = [await Client(application, path=each).open() for each in "abc"]
    for _ in range(5):
        for each in sockets:
            each.text("which?")
    for each in sockets:
        await each.until("websocket.send", 5)
        await each.leave()
    return [each.texts for each in sockets]


@pytest.mark.parametrize("consumer", [AsyncTenant, SyncTenant])
@pytest.mark.usefixtures("connection")
async def test_a_tenant_set_in_middleware_is_that_of_the_sockets_handlers(consumer):
    application = TenantMiddleware(consumer.as_asgi())

    assert await ask_in_turns(application) == [["a"] * 5, ["b"] * 5, ["c"] * 5]


@pytest.mark.usefixtures("connection")
async def test_a_tenant_set_in_a_function_inside_the_router_is_that_of_the_socket():
    async def middleware(scope, receive, send):
        await database_sync_to_async(set_tenant)(scope["path"])
        return await AsyncTenant.as_asgi()(scope, receive, send)

    application = ProtocolTypeRouter({"websocket": middleware})

    assert await ask_in_turns(application) == [["a"] * 5, ["b"] * 5, ["c"] * 5]


@pytest.mark.usefixtures("connection")
async def test_a_tenant_set_in_a_handler_is_no_other_sockets():
    class Setting(AsyncTenant):
        async def connect(self):
            if self.scope["path"] == "a":
                await database_sync_to_async(set_tenant)("a")
            await self.accept()

    answers = await ask_in_turns(Setting.as_asgi())

    assert answers == [["a"] * 5, ["public"] * 5, ["public"] * 5]


async def test_a_database_in_memory_is_closed_with_its_socket(django_db_blocker):
    opened = []

    class Asking(AsyncWebsocketConsumer):
        async def receive(self, text_data=None, bytes_data=None):
            await self.send(await database_sync_to_async(self.ask)())

        def ask(self):
            connections["default"].ensure_connection()
            opened.append(connections["default"])
            return "asked"

    with django_db_blocker.unblock():
        socket = await Client(Asking()).open()
        socket.text("ask")
        await socket.until("websocket.send")
        await socket.leave()
        await until(lambda: opened[0].connection is None)

    assert opened[0].is_in_memory_db()


async def test_a_transaction_over_two_calls_is_no_other_sockets(
    connection, django_db_blocker
):
    class Holding(AsyncWebsocketConsumer):
        async def receive(self, text_data=None, bytes_data=None):
            atomic = transaction.atomic(using="file")
            await database_sync_to_async(atomic.__enter__)()
            await self.send("inside")
            await asyncio.sleep(0)
            in_it = await database_sync_to_async(self.is_inside)()
            await database_sync_to_async(atomic.__exit__)(None, None, None)
            await self.send(str(in_it))

        def is_inside(self):
            return connections["file"].in_atomic_block

    class Other(Holding):
        async def receive(self, text_data=None, bytes_data=None):
            await self.send(str(await database_sync_to_async(self.is_inside)()))

    with django_db_blocker.unblock():
        holding, other = [await Client(each()).open() for each in (Holding, Other)]
        holding.text("begin")
        await holding.until("websocket.send")
        other.text("inside?")
        await other.until("websocket.send")
        await holding.until("websocket.send", 2)
        await holding.leave()
        await other.leave()

    assert holding.texts == ["inside", "True"]
    assert other.texts == ["False"]


async def test_a_transaction_left_open_is_rolled_back_with_its_socket(
    connection, django_db_blocker
):
    left = []

    class Leaving(AsyncWebsocketConsumer):
        async def receive(self, text_data=None, bytes_data=None):
            await database_sync_to_async(self.begin)()
            await self.send("begun")

        def begin(self):
            transaction.atomic(using="file").__enter__()
            left.append(connections["file"])

    with django_db_blocker.unblock():
        client = await Client(Leaving()).open()
        client.text("begin")
        await client.until("websocket.send")
        assert left[0].in_atomic_block
        await client.leave()
        await until(lambda: left[0].closed_in_transaction)


async def test_a_transaction_is_rolled_back_when_the_socket_ends_before_the_thread_does(
    connection, monkeypatch
):
    ended = threading.Event()
    leave = SocketDatabases.leave

    def leave_late(databases):
        assert ended.wait(PATIENCE)
        leave(databases)

    def begin():
        transaction.atomic(using="file").__enter__()
        return connections["file"]

    monkeypatch.setattr(SocketDatabases, "leave", leave_late)
    async with isolated():
        opened = await database_sync_to_async(begin)()
    ended.set()

    await until(lambda: opened.closed_in_transaction)


@pytest.fixture
def database(tmp_path, django_db_blocker):
    """The alias of a database of its own."""
    connections.databases["own"] = {
        **connections.databases["default"],
        "NAME": str(tmp_path / "own.sqlite3"),
    }
    with django_db_blocker.unblock():
        yield "own"
        connections["own"].close()
    del connections["own"], connections.databases["own"]


def test_an_open_transaction_is_seen_from_every_thread_until_it_ends(database):
    with ThreadPoolExecutor(1) as other:
        assert not other.submit(is_transaction_open, database).result()
        with transaction.atomic(database):
            assert other.submit(is_transaction_open, database).result()
            assert not is_transaction_open("default")
        assert not other.submit(is_transaction_open, database).result()


def test_a_transaction_of_a_connection_that_was_closed_and_opened_again_is_seen(
    database,
):
    with transaction.atomic(database):
        pass
    connections[database].close()
    assert not is_transaction_open(database)

    with transaction.atomic(database):
        assert is_transaction_open(database)
