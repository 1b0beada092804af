"""A layer's statistics, of this process and of all that listen."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid

import pytest

from support.clock import FakeClock
from support.process_stats import process_stats
from support.servers.brokers import Cluster, Server
from support.waiting import until
from tiderace import metrics
from tiderace.exceptions import LayerUnavailable
from tiderace.generic.websocket import AsyncJsonWebsocketConsumer
from tiderace.layers import BaseChannelLayer, InMemoryChannelLayer, Retention
from tiderace.layers.redis import RedisChannelLayer
from tiderace.layers.stats import LayerStats, Pace
from tiderace.testing import WebsocketCommunicator


async def join(layer, group: str, members: int = 1) -> list[str]:
    """Add that many new channels to ``group``, and return their names."""
    names = [await layer.new_channel() for _ in range(members)]
    for name in names:
        await layer.group_add(group, name)
    return names


# This process


async def test_stats_count_groups_and_channels():
    layer = InMemoryChannelLayer()
    await join(layer, "tea", 3)
    await join(layer, "cake")

    stats = await layer.stats()

    assert (stats.groups, stats.channels) == (2, 4)
    assert stats.members == {"tea": 3, "cake": 1}


async def test_only_the_largest_groups_are_named():
    layer = InMemoryChannelLayer()
    await join(layer, "small")
    await join(layer, "large", 3)
    await join(layer, "middle", 2)

    stats = await layer.stats(top=2)

    assert stats.members == {"large": 3, "middle": 2}
    assert stats.groups == 3


async def test_listeners_to_a_stream_count_as_members():
    class Ear:
        def __init__(self):
            self.groups = set()

        def on_publication(self, group, publication):
            pass

        def on_gap(self, group):
            pass

    layer = InMemoryChannelLayer()
    await join(layer, "tea")
    await layer.stream_subscribe("tea", Ear())
    await layer.stream_subscribe("cake", Ear())

    stats = await layer.stats()

    assert stats.members == {"tea": 2, "cake": 1}


async def test_stats_identify_the_process():
    before = time.time()
    layer = InMemoryChannelLayer()

    [here] = (await layer.stats()).processes

    assert here.pid == os.getpid()
    assert here.host
    assert before <= here.started <= here.at <= time.time()
    assert here.process in await layer.new_channel()


async def test_connections_are_those_being_served():
    class Socket(AsyncJsonWebsocketConsumer):
        pass

    layer = InMemoryChannelLayer()
    before = (await layer.stats()).connections
    communicator = WebsocketCommunicator(Socket.as_asgi(), "/")
    await communicator.connect()

    during = (await layer.stats()).connections
    await communicator.disconnect()

    assert (during, (await layer.stats()).connections) == (before + 1, before)


async def test_drops_are_counted_by_reason():
    layer = InMemoryChannelLayer(capacity=1)
    await join(layer, "tea")
    before = (await layer.stats()).dropped

    for _ in range(3):
        await layer.group_send("tea", {"type": "x"})
    after = (await layer.stats()).dropped

    assert after["full"] - before["full"] == 2
    assert set(after) == {"full", "expired", "unhandled", "lost"}


async def test_messages_a_second_are_those_of_the_last_seconds():
    clock = FakeClock()
    layer = InMemoryChannelLayer(clock=clock)
    await join(layer, "tea", 2)
    for _ in range(10):
        clock.now += 1
        await layer.group_send("tea", {"type": "x"})
        stats = await layer.stats()

    assert (stats.sent_per_second, stats.delivered_per_second) == (1.0, 2.0)


async def test_the_first_rate_covers_the_time_since_the_layer_was_made():
    clock = FakeClock()
    pace = Pace(clock)
    metrics.MESSAGES_SENT.add(40)
    clock.now += 20

    assert pace.per_second()[0] == 2.0


async def test_one_message_at_the_beginning_is_not_a_high_rate():
    pace = Pace(FakeClock())
    metrics.MESSAGES_SENT.add()

    assert pace.per_second()[0] <= 2.0


async def test_the_rate_falls_to_zero_when_nothing_is_sent():
    clock = FakeClock()
    pace = Pace(clock)
    metrics.MESSAGES_SENT.add(100)
    for _ in range(12):
        clock.now += 1
        rates = pace.per_second()

    assert rates == (0.0, 0.0)


async def test_memory_is_that_of_this_process_on_systems_with_proc():
    stats = await InMemoryChannelLayer().stats()

    if sys.platform == "linux":
        assert 10_000_000 < stats.memory < 10_000_000_000
    else:
        assert stats.memory is None


async def test_without_a_broker_the_fleet_is_this_process():
    layer = InMemoryChannelLayer()

    stats = await layer.stats(fleet=True)

    assert [each.pid for each in stats.processes] == [os.getpid()]
    assert stats.lag is None
    assert stats.round_trip is None


def test_sync_code_may_read_the_stats():
    layer = InMemoryChannelLayer()

    assert layer.sync.stats().groups == 0


async def test_stats_of_a_third_party_layer_are_not_implemented():
    with pytest.raises(NotImplementedError, match=r"stats\(\) is not offered"):
        await BaseChannelLayer().stats()


async def test_stats_can_be_encoded_as_json():
    layer = InMemoryChannelLayer()
    await join(layer, "tea")

    told = json.loads(json.dumps((await layer.stats()).as_dict()))

    assert told["members"] == {"tea": 1}
    assert told["processes"][0]["pid"] == os.getpid()


async def test_the_guides_stats_consumer_is_five_lines():
    class StatsConsumer(AsyncJsonWebsocketConsumer):
        async def connect(self):
            await self.accept()
            stats = await self.channel_layer.stats(fleet=True)
            await self.send_json({"type": "stats", "data": stats.as_dict()})

    communicator = WebsocketCommunicator(StatsConsumer.as_asgi(), "/")
    await communicator.connect()
    told = await communicator.receive_json_from()
    await communicator.disconnect()

    assert told["data"]["connections"] >= 1


# Several processes


def test_numbers_of_processes_are_added_and_lags_are_not():
    stats = LayerStats(
        (
            process_stats(
                connections=2,
                channels=3,
                groups=1,
                members={"tea": 2},
                sent_per_second=1.0,
                delivered_per_second=2.0,
                dropped={"full": 1},
                slow_clients=1,
                errors=4,
                lag=0.2,
                round_trip=0.1,
                memory=10,
                topic_clients=7,
            ),
            process_stats(
                connections=5,
                channels=5,
                groups=2,
                members={"tea": 1, "cake": 9},
                sent_per_second=0.5,
                dropped={"full": 1, "lost": 2},
                ready=False,
                errors=1,
                lag=0.1,
                topic_clients=2,
            ),
        )
    )

    assert stats.as_dict() | {"processes": None} == {
        "ready": False,
        "connections": 7,
        "topic_clients": 9,
        "channels": 8,
        "groups": 3,
        "members": {"cake": 9, "tea": 3},
        "sent_per_second": 1.5,
        "delivered_per_second": 2.0,
        "dropped": {"full": 2, "lost": 2},
        "slow_clients": 1,
        "errors": 5,
        "lag": 0.2,
        "round_trip": 0.1,
        "memory": 10,
        "processes": None,
    }


def test_stats_of_no_processes_are_zero():
    stats = LayerStats(())

    assert (stats.connections, stats.lag, stats.memory) == (0, None, None)


def test_the_age_of_numbers_is_never_negative():
    """Another host's clock may be ahead of ours."""
    assert process_stats(at=time.time() + 60).age == 0.0
    assert process_stats(at=time.time() - 60).age == pytest.approx(60, abs=5)


# Over a broker


@pytest.fixture(scope="module")
def server():
    with Server() as server:
        yield server


@pytest.fixture
async def make_layer(server):
    """Layers of one deployment, which nobody else shares; closed at the end."""
    prefix = f"test-{uuid.uuid4().hex[:8]}"
    layers = []

    def make(**options):
        options = {"hosts": [server.url], "prefix": prefix, **options}
        layers.append(RedisChannelLayer(**options))
        return layers[-1]

    make.prefix = prefix
    yield make
    for layer in layers:
        with contextlib.suppress(LayerUnavailable):
            await layer.close()


async def seen(layer, count: int):
    """The fleet, once ``layer`` sees so many processes that have measured a lag."""

    async def enough():
        stats = await layer.stats(fleet=True)
        lags = [each.lag for each in stats.processes if each.lag is not None]
        return len(stats.processes) == len(lags) == count and stats

    return await until(enough)


async def test_every_process_that_receives_is_in_the_fleet(make_layer):
    one, two = make_layer(), make_layer()
    one.attach(await one.new_channel())
    [channel] = await join(two, "tea")
    two.attach(channel)

    stats = await seen(one, 2)

    assert {each.process for each in stats.processes} == {
        one.stats_here().process,
        two.stats_here().process,
    }
    assert stats.members == {"tea": 1}


async def test_a_process_that_only_sends_is_not_in_the_fleet(make_layer):
    serving, asking = make_layer(), make_layer()
    serving.attach(await serving.new_channel())

    stats = await seen(asking, 1)

    assert stats.processes[0].process == serving.stats_here().process


async def test_lag_and_round_trip_are_measured_over_the_broker(make_layer):
    layer = make_layer()
    layer.attach(await layer.new_channel())

    async def measured():
        # A report may arrive at its own process before the broker has acknowledged it.
        stats = await layer.stats(fleet=True)
        return None not in (stats.lag, stats.round_trip) and stats

    stats = await until(measured)

    assert 0 < stats.lag < 5
    assert 0 < stats.round_trip < 5


async def test_a_fleet_over_several_servers_and_in_a_cluster_is_one(make_layer, server):
    """Each process reports where its own inbox is."""
    with Server() as second, Cluster() as cluster:
        for options in (
            {"hosts": [server.url, second.url]},
            {"hosts": [cluster.host]},
        ):
            one, two = make_layer(**options), make_layer(**options)
            one.attach(await one.new_channel())
            two.attach(await two.new_channel())

            stats = await seen(one, 2)

            assert len({each.process for each in stats.processes}) == 2
            await one.close()
            await two.close()


async def test_the_duration_of_a_publish_is_measured(make_layer):
    layer = make_layer()
    before = metrics.PUBLISH_DURATION.count

    await layer.group_send("tea", {"type": "x"})
    await layer.stream_publish("tea", {"data": "1"}, keep=Retention(1, 1.0))

    assert metrics.PUBLISH_DURATION.count == before + 2
    assert 0 < (await layer.stats()).round_trip < 5


def test_sync_code_may_read_the_stats_of_the_fleet(server):
    layer = RedisChannelLayer(hosts=[server.url], prefix=uuid.uuid4().hex)

    assert layer.sync.stats(fleet=True).processes == ()


async def test_a_process_that_closes_its_layer_is_gone_at_once(make_layer):
    one, two = make_layer(), make_layer()
    one.attach(await one.new_channel())
    two.attach(await two.new_channel())
    await seen(one, 2)

    await two.close()

    stats = await one.stats(fleet=True)
    assert [each.process for each in stats.processes] == [one.stats_here().process]


KILLED = """
import asyncio, sys
from tiderace.layers.redis import RedisChannelLayer

async def main():
    layer = RedisChannelLayer(hosts=[sys.argv[1]], prefix=sys.argv[2], lease=1.0)
    layer.attach(await layer.new_channel())
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_process_that_is_killed_is_gone_when_its_lease_ends(make_layer, server):
    layer = make_layer(lease=1.0)
    layer.attach(await layer.new_channel())
    other = subprocess.Popen(  # noqa: ASYNC220 (it returns at once)
        [sys.executable, "-c", KILLED, server.url, make_layer.prefix]
    )
    try:
        stats = await seen(layer, 2)
        assert other.pid in [each.pid for each in stats.processes]
    finally:
        other.kill()
        other.wait()

    stats = await seen(layer, 1)

    assert stats.processes[0].pid == os.getpid()


async def test_stats_of_the_fleet_fail_while_the_broker_is_away(make_layer):
    layer = make_layer(hosts=["redis://127.0.0.1:1"], publish_timeout=0.05)

    with pytest.raises(LayerUnavailable):
        await layer.stats(fleet=True)


async def test_stats_of_this_process_work_while_the_broker_is_away(make_layer):
    layer = make_layer(hosts=["redis://127.0.0.1:1"], publish_timeout=0.05)

    assert (await layer.stats()).groups == 0


async def test_a_report_of_another_release_is_ignored(make_layer, server):
    layer = make_layer()
    layer.attach(await layer.new_channel())
    await seen(layer, 1)
    prefix = make_layer.prefix
    server.call("ZADD", f"{prefix}:processes", time.time() * 1000, "future")
    server.call("SET", f"{prefix}:queue:future:stats", "not what we write")

    stats = await layer.stats(fleet=True)

    assert [each.process for each in stats.processes] == [layer.stats_here().process]
