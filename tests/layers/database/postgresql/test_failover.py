"""The layer while a standby of PostgreSQL takes over."""

from __future__ import annotations

import asyncio

import pytest

from support.servers.postgresql import PostgresServer, database_alias
from support.waiting import until, within
from tiderace.exceptions import LayerUnavailable
from tiderace.history import merge
from tiderace.layers import Retention
from tiderace.layers.database.postgresql.schema import TABLES
from tiderace.testing.layer_contract import RecordingListener

KEEP = Retention(1000, 3600)


@pytest.fixture
def standby(own_postgresql):
    """A server that follows ``own_postgresql``."""
    own_postgresql.call(TABLES)
    with PostgresServer(primary=own_postgresql) as server:
        server.follow(own_postgresql)
        yield server


@pytest.fixture
def both(own_postgresql, standby):
    """The alias of a database with the addresses of both, of which one takes writes."""
    database = {
        **own_postgresql.database(),
        "HOST": f"{own_postgresql.database()['HOST']},{standby.database()['HOST']}",
        "PORT": f"{own_postgresql.port},{standby.port}",
        "OPTIONS": {"target_session_attrs": "read-write"},
    }
    with database_alias("both", database) as name:
        yield name


async def listen(layer):
    listener = RecordingListener()
    await layer.stream_subscribe("tide", listener)
    await until(lambda: layer.ready)
    return listener


async def publish(layer, *numbers):
    for number in numbers:
        data = str(number)
        await layer.stream_publish("tide", {"data": data}, keep=KEEP, key=data)


def said(*numbers):
    return [str(number) for number in numbers]


async def take_over(primary, standby):
    await asyncio.to_thread(primary.kill)
    await asyncio.to_thread(standby.promote)


async def test_listeners_miss_nothing_when_a_standby_that_has_everything_takes_over(
    own_postgresql, standby, both, make_layer
):
    here, there = make_layer(both, publish_timeout=20), make_layer(both)
    listeners = [await listen(here), await listen(there)]
    await publish(here, *range(5))
    # From here on what is committed, and so what listeners receive, is at the standby.
    own_postgresql.call("ALTER SYSTEM SET synchronous_standby_names = '*'")
    own_postgresql.call("SELECT pg_reload_conf()")
    await asyncio.to_thread(standby.follow, own_postgresql)

    publishing = asyncio.create_task(publish(here, *range(5, 60)))
    await until(lambda: len(listeners[0].received) >= 15)
    await take_over(own_postgresql, standby)
    await publishing

    await until(lambda: all(each.data[-1:] == ["59"] for each in listeners))
    assert listeners[0].data == listeners[1].data == said(*range(60))
    assert standby.connections("tiderace") >= 3


async def test_commits_that_were_lost_are_reported_and_their_positions_not_used_again(
    own_postgresql, standby, both, make_layer
):
    layer = make_layer(both, publish_timeout=20)
    listener = await listen(layer)
    await publish(layer, 0)
    await asyncio.to_thread(standby.follow, own_postgresql)
    await asyncio.to_thread(standby.kill)
    await publish(layer, 1, 2)
    await until(lambda: listener.data == said(0, 1, 2))
    seen = listener.offsets

    await asyncio.to_thread(own_postgresql.kill)
    await asyncio.to_thread(standby.start)
    await asyncio.to_thread(standby.promote)
    await publish(layer, 3)

    await until(lambda: listener.data[-1:] == ["3"])
    assert listener.offsets[-1] > seen[-1] + (1 << 20)
    end, found = await layer.stream_read("tide", keep=KEEP)
    assert [each.data for each in found] == said(0, 3)
    assert found[1].before == 1
    assert end.offset == listener.offsets[-1]


async def test_a_client_that_has_seen_lost_publications_is_told_that_it_is_not_complete(
    own_postgresql, standby, both, make_layer
):
    layer = make_layer(both, publish_timeout=20)
    await publish(layer, 0)
    await asyncio.to_thread(standby.follow, own_postgresql)
    await asyncio.to_thread(standby.kill)
    await publish(layer, 1, 2)
    seen, _ = await layer.stream_read("tide", keep=KEEP)

    await asyncio.to_thread(own_postgresql.kill)
    await asyncio.to_thread(standby.start)
    await asyncio.to_thread(standby.promote)
    await publish(layer, 3)

    end, found = await layer.stream_read("tide", keep=KEEP, since=seen)
    merged = merge(seen, end, found)
    assert merged is not None
    assert not merged.recovered
    assert [each.data for each in found] == ["3"]


async def test_queues_work_on_a_standby_that_takes_over(
    own_postgresql, standby, both, make_layer
):
    layer = make_layer(both, publish_timeout=20)
    await layer.send("work", {"type": "job", "number": 1})
    assert (await layer.receive("work"))["number"] == 1
    await asyncio.to_thread(standby.follow, own_postgresql)

    await take_over(own_postgresql, standby)
    await layer.send("work", {"type": "job", "number": 2})

    assert (await within(layer.receive("work")))["number"] == 2


async def test_publishing_while_no_server_takes_writes_raises_after_the_timeout(
    own_postgresql, standby, both, make_layer
):
    layer = make_layer(both, publish_timeout=1)
    await publish(layer, 0)
    await asyncio.to_thread(own_postgresql.kill)

    with pytest.raises(LayerUnavailable):
        await publish(layer, 1)

    await asyncio.to_thread(standby.promote)
    await publish(layer, 2)
    assert [each.data for each in (await layer.stream_read("tide", keep=KEEP))[1]][
        -1
    ] == "2"
