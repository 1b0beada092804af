"""The layer over PostgreSQL in several processes, and its connections."""

from __future__ import annotations

import asyncio

import pytest
from django.db import connections

from support.contracts.process_contract import (
    KEEP,
    LayerSetup,
    ProcessContract,
    listen,
    publish,
)
from support.servers.postgresql import database_alias
from support.waiting import until
from tiderace.layers.database.postgresql.schema import TABLES
from tiderace.layers.database.sweeping import sweep


@pytest.fixture
def layer_setup(shared_postgresql, using, prefix):
    return LayerSetup(shared_postgresql.database(), {"prefix": prefix})


class TestProcesses(ProcessContract):
    """A database in several processes."""


async def test_a_process_opens_three_connections_however_much_it_does(
    own_postgresql, own_using, make_layer
):
    layer = make_layer(own_using)
    topics = [f"topic.{number}" for number in range(50)]
    await asyncio.gather(*(listen(layer, topic) for topic in topics))

    async def use(topic):
        await layer.stream_publish(topic, {"data": "1"}, keep=KEEP)
        await layer.stream_read(topic, keep=KEEP)

    await asyncio.gather(*map(use, topics))

    assert own_postgresql.connections("tiderace") == 3


async def test_a_closed_layer_has_no_connection(own_postgresql, own_using, make_layer):
    layer = make_layer(own_using)
    await listen(layer)
    await publish(layer, 0)

    await layer.close()

    await until(lambda: own_postgresql.connections("tiderace") == 0)


async def test_a_layer_that_was_not_closed_leaves_no_connection_when_it_is_idle(
    own_postgresql, own_using, make_layer, monkeypatch
):
    monkeypatch.setattr("tiderace.layers.database.executor._IDLE", 0.0)
    layer = make_layer(own_using)
    await publish(layer, 0)
    await layer.stream_read("tide", keep=KEEP)

    await until(lambda: own_postgresql.connections("tiderace") == 0)

    await publish(layer, 1)
    _, found = await layer.stream_read("tide", keep=KEEP)
    assert len(found) == 2


async def test_a_test_runner_can_drop_a_database_that_a_layer_uses(
    own_postgresql, make_layer, django_db_blocker
):
    own_postgresql.call("CREATE DATABASE test_site")
    own_postgresql.call(TABLES, database="test_site")
    with database_alias("test_site", own_postgresql.database("test_site")) as name:
        layer = make_layer(name)
        await publish(layer, 0)
        creation = connections[name].creation

        with django_db_blocker.unblock():
            await asyncio.to_thread(creation._destroy_test_db, "test_site", 0)
    names = own_postgresql.call("SELECT datname FROM pg_database")
    assert ("test_site",) not in names


async def test_an_idle_process_writes_next_to_no_log(
    own_postgresql, own_using, make_layer
):
    layer = make_layer(own_using)
    for number in range(50):
        await listen(layer, f"topic.{number}")
    layer.attach(await layer.new_channel())
    await layer.report()
    # Else it prunes pages of its catalogue meanwhile.
    own_postgresql.call("VACUUM")
    own_postgresql.call("CHECKPOINT")
    ((before,),) = own_postgresql.call("SELECT pg_current_wal_lsn()::text")

    # Twice as often as an idle process does so in a minute.
    for _ in range(24):
        await layer.report()
        await sweep(layer._brokers[0].executor)

    ((written,),) = own_postgresql.call(
        "SELECT pg_current_wal_lsn() - %s::pg_lsn", before
    )
    assert written < 10_000
