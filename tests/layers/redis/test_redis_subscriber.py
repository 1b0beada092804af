"""The subscriber with real servers: shards, moved slots, refusals and forks."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time

import pytest
import redis
from redis.crc import key_slot

from support.servers.brokers import HOST
from support.waiting import until
from tiderace import metrics
from tiderace.exceptions import LayerUnavailable
from tiderace.layers.backoff import backoff
from tiderace.layers.broker import Retention
from tiderace.layers.redis import RedisChannelLayer, subscriber
from tiderace.layers.redis.connection import ConnectionLost
from tiderace.runtime import sync_bridge


@pytest.fixture
async def make_layer(prefix):
    made = []

    def make(host, **options):
        layer = RedisChannelLayer(hosts=[host], prefix=prefix, **options)
        made.append(layer)
        return layer

    yield make
    for layer in made:
        await layer.close()


async def heard(box, number):
    async with asyncio.timeout(20):
        return [(await box.get())["n"] for _ in range(number)]


async def join_groups(layer, number):
    """Return a mailbox and its groups, of which each node of a cluster has some."""
    box = layer.attach(await layer.new_channel())
    groups = [f"room-{each}" for each in range(number)]
    await asyncio.gather(*(layer.group_add(group, box.name) for group in groups))

    async def ready():
        return layer.ready

    await until(ready)
    return box, groups


async def test_a_cluster_publishes_a_message_only_at_the_node_of_its_group(
    cluster, make_layer
):
    layer = make_layer(cluster.host)
    box, groups = await join_groups(layer, 30)

    for number, group in enumerate(groups):
        await layer.group_send(group, {"type": "said", "n": number})

    assert sorted(await heard(box, 30)) == list(range(30))
    shards = [
        [each.decode() for each in node.call("PUBSUB", "SHARDCHANNELS")]
        for node in cluster.nodes
    ]
    assert all(shards)
    # The groups, the process's inbox and the channel of its reports.
    assert sum(map(len, shards)) == 32
    assert not any(node.call("PUBSUB", "CHANNELS") for node in cluster.nodes)


async def test_messages_arrive_although_nodes_drop_their_subscribers(
    cluster, make_layer
):
    layer = make_layer(cluster.host)
    box, groups = await join_groups(layer, 30)
    interruptions = metrics.LAYER_INTERRUPTIONS.value

    for number, group in enumerate(groups * 3):
        if number % 30 == 10:
            cluster.nodes[number // 30].client_kill("pubsub")
        await layer.group_send(group, {"type": "said", "n": number})

    assert sorted(await heard(box, 90)) == list(range(90))
    assert metrics.LAYER_INTERRUPTIONS.value > interruptions


async def test_a_subscription_follows_its_slot_to_another_node(
    cluster, make_layer, prefix
):
    layer = make_layer(cluster.host, publish_timeout=20)
    box, _ = await join_groups(layer, 1)
    await layer.group_send("room-0", {"type": "said", "n": 0})
    assert await heard(box, 1) == [0]

    slot = key_slot(f"{prefix}:group:room-0".encode())
    source = next(node for node in cluster.nodes if _owns(node, slot))
    target = next(node for node in cluster.nodes if node is not source)
    await asyncio.to_thread(_move, cluster, slot, source, target)
    try:
        for number in range(1, 6):
            await layer.group_send("room-0", {"type": "said", "n": number})

        assert await heard(box, 5) == [1, 2, 3, 4, 5]
        assert target.call("PUBSUB", "SHARDCHANNELS")
    finally:
        await asyncio.to_thread(_move, cluster, slot, target, source)


def _identity(node):
    return node.call("CLUSTER", "MYID").decode()


def _owns(node, slot):
    me = _identity(node)
    for line in _nodes(node):
        if line[0] == me:
            ranges = [part for part in line[8:] if part[0].isdigit()]
            return any(
                int(part.split("-")[0]) <= slot <= int(part.split("-")[-1])
                for part in ranges
            )
    return False


def _nodes(node):
    with redis.Redis(host=HOST, port=node.port) as client:
        client.set_response_callback("CLUSTER NODES", lambda reply, **_: reply)
        reply = client.execute_command("CLUSTER NODES")
    return [line.split() for line in reply.decode().splitlines()]


def _move(cluster, slot, source, target):
    """Move a slot with its keys, as redis-cli does."""
    target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", _identity(source))
    source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", _identity(target))
    while keys := source.call("CLUSTER", "GETKEYSINSLOT", slot, 100):
        source.call("MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *keys)
    for node in (target, source, *cluster.nodes):
        node.call("CLUSTER", "SETSLOT", slot, "NODE", _identity(target))


async def test_the_layer_is_ready_while_its_server_is_there(own_server, make_layer):
    layer = make_layer(own_server.url)
    assert layer.ready
    await join_groups(layer, 1)
    away = metrics.BROKERS_AWAY.value

    own_server.kill()

    async def unready():
        return not layer.ready

    await until(unready)
    assert metrics.BROKERS_AWAY.value == away + 1
    await asyncio.to_thread(own_server.start)

    async def ready():
        return layer.ready

    await until(ready)
    assert metrics.BROKERS_AWAY.value == away


async def test_a_server_that_was_away_for_thousands_of_tries_is_reached_again(
    own_server, make_layer, monkeypatch
):
    """At one try a second these are the tries of two hours."""
    layer = make_layer(own_server.url)
    box, [group] = await join_groups(layer, 1)
    pauses = []

    def pause_after(tries):
        pauses.append(backoff(tries + 8000))
        return 0.001

    monkeypatch.setattr(subscriber, "backoff", pause_after)
    own_server.kill()
    await until(lambda: len(pauses) > 2)
    await asyncio.to_thread(own_server.start)
    await until(lambda: layer.ready)
    await layer.group_send(group, {"type": "n", "n": 1})

    assert await heard(box, 1) == [1]


async def test_closing_returns_while_a_connection_is_being_opened(sentinel, make_layer):
    """redis-py swallows a cancellation while it asks sentinels."""
    for turns in range(30):
        layer = make_layer(sentinel.host)
        layer.attach(await layer.new_channel())
        for _ in range(turns):
            await asyncio.sleep(0)

        async with asyncio.timeout(10):
            await layer.close()


async def test_the_error_of_a_server_out_of_memory_contains_its_reply(
    own_server, make_layer
):
    layer = make_layer(own_server.url)
    await layer.group_send("room", {"type": "said"})
    own_server.call("CONFIG", "SET", "maxmemory", "1")

    with pytest.raises(LayerUnavailable, match="refused: OOM"):
        await layer.group_send("room", {"type": "said"})

    own_server.call("CONFIG", "SET", "maxmemory", "0")
    await layer.group_send("room", {"type": "said"})


async def test_a_refused_subscription_is_logged(own_server, make_layer, caplog):
    own_server.call("ACL", "SETUSER", "mute", "on", ">pw", "~*", "+@all", "-subscribe")
    own_server.call("ACL", "SETUSER", "mute", "allchannels")
    layer = make_layer(own_server.url.replace("redis://", "redis://mute:pw@"))
    layer.attach(await layer.new_channel())

    async def said():
        return "NOPERM" in caplog.text

    await until(said)
    assert not layer.ready


async def test_the_error_for_a_key_of_another_type_contains_the_reply(
    own_server, make_layer, prefix
):
    layer = make_layer(own_server.url)
    own_server.call("SET", f"{prefix}:queue:work:list", "text")

    with pytest.raises(LayerUnavailable, match="refused: WRONGTYPE"):
        await layer.send("work", {"type": "job"})


async def test_a_message_returned_to_a_queue_keeps_its_expiry(make_layer, redis_url):
    layer = make_layer(redis_url)
    broker = layer._brokers[0]
    for number in range(2):
        await layer.send("work", {"type": "job", "n": number})
    first = await broker.queues.take("work", lease=10)

    await broker.queues.nack(first)
    key = broker.keys.queue_list("work")
    assert await broker.commands.execute("PTTL", key) > 0
    await broker.queues.ack(await broker.queues.take("work", lease=10))
    second = await broker.queues.take("work", lease=0.01)

    async def returned():
        again = await broker.queues.take("work", lease=10)
        return again is not None and again.data == second.data

    await until(returned)
    assert await broker.commands.execute("PTTL", key) in (-2, *range(1, 60_001))


async def test_a_busy_group_keeps_no_messages_long_after_their_expiry(
    make_layer, redis_url
):
    layer = make_layer(redis_url)
    broker = layer._brokers[0]
    keep = Retention(100_000, 0.05)
    ended = asyncio.get_running_loop().time() + 0.4
    published = 0

    while published < 1000 or asyncio.get_running_loop().time() < ended:
        await broker.streams.publish("room", b"x", keep=keep, members_age=60)
        published += 1

    length = await broker.commands.execute("XLEN", broker.keys.stream("room"))
    assert length < published * 0.75


async def test_a_retried_publication_still_reaches_named_queues(make_layer, redis_url):
    layer = make_layer(redis_url)
    await layer.group_add("jobs", "work")
    broker = layer._brokers[0]
    run, lost = broker.pool.execute, []

    async def lose_the_first_reply(*command):
        reply = await run(*command)
        if not lost:
            lost.append(reply)
            raise ConnectionLost("cut")
        return reply

    broker.pool.execute = lose_the_first_reply
    await layer.group_send("jobs", {"type": "job", "n": 1})

    assert lost
    async with asyncio.timeout(10):
        assert (await layer.receive("work"))["n"] == 1
    length = await broker.commands.execute("XLEN", broker.keys.stream("jobs"))
    assert length == 1


def test_a_forked_child_has_its_own_subscriber(redis_url, prefix):
    layer = RedisChannelLayer(hosts=[redis_url], prefix=prefix)
    parent = threading.Thread(target=lambda: layer.sync.receive("for-the-parent"))
    parent.start()
    while not layer.ready or not layer._pump.is_running:
        time.sleep(0.005)

    child = os.fork()
    if child == 0:
        # The parent's loop seems to be running here; waiting for it would never end.
        signal.alarm(20)
        threading.Timer(
            0.2, lambda: layer.sync.send("for-the-child", {"type": "job"})
        ).start()
        os._exit(0 if layer.sync.receive("for-the-child") == {"type": "job"} else 1)
    _, status = os.waitpid(child, 0)
    layer.sync.send("for-the-parent", {"type": "job"})
    parent.join(10)

    assert os.waitstatus_to_exitcode(status) == 0
    assert not parent.is_alive()
    layer.sync.close()
    sync_bridge.close()
