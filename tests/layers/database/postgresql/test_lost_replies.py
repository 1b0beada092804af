"""Commits whose reply is lost: whether they count, after a crash of the server, too."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from support.contracts.process_contract import LayerSetup, listen, programs, publish
from support.servers.postgresql import PgBouncer, PostgresServer, database_alias
from support.waiting import until, wait_until
from tiderace.layers.database.postgresql.connection import PostgresConnection
from tiderace.layers.database.postgresql.schema import TABLES
from tiderace.layers.database.vendor import OutcomeUnknown

ENTRY = ("subject", "epoch", "number", "previous", "data", "published_ms")


@pytest.fixture
def server():
    """A server that writes what is committed to the disk, and nothing else soon."""
    settings = {
        "wal_writer_delay": "10s",
        # Else it syncs each of its files after a crash, which takes longer.
        "recovery_init_sync_method": "syncfs",
    }
    with PostgresServer(durable=True, settings=settings) as server:
        server.call(TABLES)
        yield server


@pytest.fixture
def using(server):
    with database_alias("durable", server.database()) as name:
        yield name


@pytest.fixture
def connect(using):
    """Opens a connection as a process that starts."""
    opened = []

    def connect():
        opened.append(PostgresConnection(using, 10))
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


def begin(connection, *, entry=True):
    """Begin a transaction that writes a message."""
    cursor = connection.begin(write=True, timeout=10)
    now = cursor.now_ms
    if entry:
        cursor.insert("entry", ENTRY, [("tide", "epoch", 7, 6, b"", now)])
        cursor.insert(
            "stream", ("subject", "epoch", "last_number"), [("tide", "epoch", 7)]
        )
    cursor.fetch("SELECT 1")
    return cursor


def lose_commit(connection, *, entry=True):
    """Return a transaction that is committed, and whose reply is lost."""
    cursor = begin(connection, entry=entry)
    connection.commit()
    connection.close()
    return cursor.transaction


def crash_before_commit(server, connection, *, entry=True):
    """Return a transaction of which nothing reached the disk."""
    begin(connection, entry=entry)
    server.kill()
    with pytest.raises(OutcomeUnknown) as raised:
        connection.commit()
    server.start()
    return raised.value.transaction


@pytest.mark.parametrize("entry", [True, False])
def test_a_committed_transaction_counts(connect, entry):
    transaction = lose_commit(connect(), entry=entry)

    assert connect().was_committed(transaction)


def test_a_transaction_whose_message_was_deleted_since_counts(server, connect):
    transaction = lose_commit(connect())
    server.call("DELETE FROM tiderace_layer_entry")

    assert connect().was_committed(transaction)


def test_a_transaction_that_another_server_has_counts(connect):
    transaction = lose_commit(connect())._replace(timeline="00000002")

    assert connect().was_committed(transaction)


def test_a_transaction_without_a_message_does_not_count_at_another_server(connect):
    transaction = lose_commit(connect(), entry=False)._replace(timeline="00000002")

    assert not connect().was_committed(transaction)


@pytest.mark.parametrize("entry", [True, False])
def test_a_transaction_that_a_crash_has_undone_does_not_count(server, connect, entry):
    transaction = crash_before_commit(server, connect(), entry=entry)

    assert not connect().was_committed(transaction)


def test_a_transaction_whose_number_another_one_got_does_not_count(server, connect):
    transaction = crash_before_commit(server, connect())
    number = 0
    while number < int(transaction.number):
        other = lose_commit(connect(), entry=number + 1 == int(transaction.number))
        number = int(other.number)

    assert other.number == transaction.number
    assert not connect().was_committed(transaction)
    assert connect().was_committed(other)


# Two processes

PUBLISHING = """
ended = False
def end(*_):
    global ended
    ended = True
signal.signal(signal.SIGTERM, end)
number = 0
while not ended:
    data = f"{os.getpid()} {number}"
    layer.sync.stream_publish(f"tide.{number % 3}", {"data": data}, keep=KEEP)
    print(data, flush=True)
    number += 1
"""


def kill_server(server):
    server.restart()


def kill_one_of_its_processes(server):
    """Kill one, after which PostgreSQL ends all others and recovers."""
    statement = "SELECT pid FROM pg_stat_activity WHERE application_name = 'tiderace'"
    ((pid,), *_) = wait_until(
        lambda: server.call(statement), what="a connection of the layer"
    )
    os.kill(pid, signal.SIGKILL)


@pytest.fixture(params=["direct", "pooled"])
def database(request, server):
    """The database as clients reach it: without a pooler, or behind one."""
    if request.param == "direct":
        yield server.database()
        return
    with PgBouncer(server) as pooler:
        yield pooler.database()


@pytest.fixture
def clients(database):
    """Its alias; requested before a layer."""
    with database_alias("clients", database) as name:
        yield name


@pytest.mark.timeout(180)
@pytest.mark.parametrize("crash", [kill_server, kill_one_of_its_processes])
async def test_two_processes_lose_and_double_nothing_while_the_server_crashes(
    server, database, clients, make_layer, prefix, crash
):
    topics = [f"tide.{number}" for number in range(3)]
    layers = [make_layer(clients, publish_timeout=30) for _ in range(2)]
    listeners = [[await listen(layer, each) for each in topics] for layer in layers]
    options = {"prefix": prefix, "publish_timeout": 30}
    setup = LayerSetup(database, options)
    with programs(setup) as start:
        processes = [start(PUBLISHING) for _ in range(2)]
        reading = [
            asyncio.create_task(asyncio.to_thread(each.stdout.read))
            for each in processes
        ]
        for _ in range(4):
            seen = len(listeners[0][0].received)
            await until(
                lambda: len(listeners[0][0].received) > seen + 20,  # noqa: B023
                timeout=60,
            )
            await asyncio.to_thread(crash, server)
        for each in processes:
            each.terminate()
        outputs = await asyncio.gather(*reading)
        confirmed = {
            each.pid: text.splitlines()
            for each, text in zip(processes, outputs, strict=True)
        }
    for topic in topics:
        await publish(layers[0], "end", topic=topic)
    for listener in [*listeners[0], *listeners[1]]:
        await until(lambda: listener.data[-1:] == ["end"])  # noqa: B023

    here, there = ([each.data for each in some] for some in listeners)
    assert here == there
    received = [each for data in here for each in data]
    for pid, data in confirmed.items():
        own = [each for each in received if each.startswith(f"{pid} ")]
        assert sorted(own) == sorted(data)
    for data in here:
        for pid in confirmed:
            numbers = [
                int(each.split()[1]) for each in data if each.startswith(f"{pid} ")
            ]
            assert numbers == sorted(numbers)
