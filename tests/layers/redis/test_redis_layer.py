"""The Redis layer on real servers: lost connections, restarts, failovers and forks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from unittest import mock

import pytest
from asgiref.sync import async_to_sync

from support.servers.brokers import wait_for_server
from support.waiting import until, within
from tiderace import metrics
from tiderace.exceptions import (
    ChannelFull,
    LayerAccessDenied,
    LayerUnavailable,
    MessageTooLarge,
)
from tiderace.layers import Retention
from tiderace.layers.redis import RedisChannelLayer, RedisPubSubChannelLayer
from tiderace.layers.redis.commands import CommandRunner
from tiderace.layers.redis.connection import ConnectionLost
from tiderace.runtime import sync_bridge


@pytest.fixture
async def make_layer(redis_url, prefix):
    """Makes layers on the shared server, each like a process; closes them at the end."""
    made = []

    def make(kind=RedisChannelLayer, url=redis_url, **options):
        layer = kind(hosts=[url], prefix=prefix, **options)
        made.append(layer)
        return layer

    yield make
    for layer in made:
        await layer.close()


async def read(layer, channel, number):
    return [(await within(layer.receive(channel)))["n"] for _ in range(number)]


async def test_a_group_spans_processes(make_layer):
    here, there = make_layer(), make_layer()
    one, two = await here.new_channel(), await there.new_channel()
    await here.group_add("room", one)
    await there.group_add("room", two)

    await here.group_send("room", {"type": "said", "n": 1})

    assert await read(here, one, 1) == [1]
    assert await read(there, two, 1) == [1]


async def test_all_members_receive_the_messages_of_several_senders_in_one_order(
    make_layer,
):
    layers = [make_layer() for _ in range(3)]
    channels = [await layer.new_channel() for layer in layers]
    for layer, channel in zip(layers, channels, strict=True):
        await layer.group_add("room", channel)

    async def speak(layer, start):
        for number in range(start, start + 20):
            await layer.group_send("room", {"type": "said", "n": number})

    await asyncio.gather(*(speak(layer, i * 100) for i, layer in enumerate(layers)))

    heard = [
        await read(layer, channel, 60)
        for layer, channel in zip(layers, channels, strict=True)
    ]
    assert heard[0] == heard[1] == heard[2]
    assert sorted(heard[0]) == [i * 100 + n for i in range(3) for n in range(20)]


async def test_a_message_reaches_the_channel_of_another_process(make_layer):
    here, there = make_layer(), make_layer()
    channel = await there.new_channel()

    await here.send(channel, {"type": "direct", "n": 7})

    assert await read(there, channel, 1) == [7]


async def test_a_channel_of_another_process_can_join_a_group(make_layer):
    here, there = make_layer(), make_layer()
    channel = await there.new_channel()
    box = there.attach(channel)
    await here.group_add("room", channel)

    async def joined():
        return channel in there.groups.get("room", {})

    await until(joined)
    await here.group_send("room", {"type": "said", "n": 1})

    assert (await within(box.get()))["n"] == 1


async def test_messages_published_while_the_connection_was_lost_are_fetched(
    own_server, prefix
):
    here = RedisChannelLayer(hosts=[own_server.url], prefix=prefix)
    there = RedisChannelLayer(hosts=[own_server.url], prefix=prefix)
    channel = await here.new_channel()
    await here.group_add("room", channel)
    await here.group_send("room", {"type": "said", "n": 0})
    assert await read(here, channel, 1) == [0]

    for number in range(1, 31):
        if number % 10 == 5:
            own_server.client_kill("pubsub")
        await there.group_send("room", {"type": "said", "n": number})

    assert await read(here, channel, 30) == list(range(1, 31))
    await here.close()
    await there.close()


async def test_no_message_is_lost_when_a_durable_server_is_killed_and_restarted(
    durable_server, prefix
):
    layer = RedisChannelLayer(
        hosts=[durable_server.url], prefix=prefix, publish_timeout=20
    )
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "said", "n": 0})
    assert await read(layer, channel, 1) == [0]

    durable_server.kill()
    sending = asyncio.create_task(layer.group_send("room", {"type": "said", "n": 1}))
    await asyncio.to_thread(durable_server.restart)
    await within(sending, 25)

    assert await read(layer, channel, 1) == [1]
    await layer.close()


async def test_consumers_get_a_gap_when_the_server_has_lost_its_data(
    own_server, prefix, caplog
):
    layer = RedisChannelLayer(hosts=[own_server.url], prefix=prefix, publish_timeout=20)
    channel = await layer.new_channel()
    box = layer.attach(channel)
    await layer.group_add("room", channel)
    for number in range(3):
        await layer.group_send("room", {"type": "said", "n": number})
        assert (await within(box.get()))["n"] == number
    lost = metrics.GAPS_LOST.value

    own_server.kill()
    own_server.forget()
    await asyncio.to_thread(own_server.restart)
    await layer.group_send("room", {"type": "said", "n": 3})

    message = await within(box.get())
    assert message["type"] == "layer.gap"
    assert message["group"] == "room"
    assert (await within(box.get()))["n"] == 3
    assert metrics.GAPS_LOST.value > lost
    assert "were lost" in caplog.text
    await layer.close()


async def test_publishing_to_a_server_that_is_away_raises_after_the_timeout(
    own_server, prefix
):
    layer = RedisChannelLayer(
        hosts=[own_server.url], prefix=prefix, publish_timeout=0.2
    )
    own_server.kill()

    with pytest.raises(LayerUnavailable, match=r"could not be reached within 0\.2"):
        await layer.group_send("room", {"type": "said"})
    await layer.close()


async def test_an_error_at_the_deadline_of_a_retry_has_the_reason_of_the_try_before():
    async def attempt(is_retry):
        if is_retry:
            await asyncio.Event().wait()  # no reply comes
        raise ConnectionLost("the connection was reset")

    runner = CommandRunner(mock.Mock(host={}), timeout=0.2)

    with pytest.raises(LayerUnavailable, match=r"\(the connection was reset\)"):
        await runner.call_with_retry(attempt)


async def test_the_error_for_a_wrong_password_does_not_contain_it(own_server, prefix):
    url = own_server.url.replace("redis://", "redis://:wrong-secret@")
    layer = RedisChannelLayer(hosts=[url], prefix=prefix, publish_timeout=0.2)

    with pytest.raises(LayerUnavailable) as caught:
        await layer.group_send("room", {"type": "said"})

    assert "wrong-secret" not in str(caught.value)
    assert "AUTH" in str(caught.value) or "password" in str(caught.value).lower()
    await layer.close()


@pytest.mark.parametrize("login", [":wrong@", ""])
@pytest.mark.parametrize("where", ["async", "sync", "a new group", "receive"])
async def test_a_wrong_or_missing_password_is_an_error_at_once(
    own_server, prefix, where, login
):
    own_server.call("CONFIG", "SET", "requirepass", "right")
    url = own_server.url.replace("redis://", f"redis://{login}")
    layer = RedisChannelLayer(hosts=[url], prefix=prefix, publish_timeout=60)
    calls = {
        "async": lambda: layer.group_send("room", {"type": "said"}),
        "sync": lambda: asyncio.to_thread(
            layer.sync.group_send, "room", {"type": "said"}
        ),
        "receive": lambda: layer.receive("work"),
        "a new group": lambda: layer.group_add("room", f"x.{layer._local.process}!x"),
    }

    with pytest.raises(
        LayerAccessDenied, match=r"refused.*redis://user:password@"
    ) as raised:
        await asyncio.wait_for(calls[where](), 10)
    assert ("NOAUTH" in str(raised.value)) == (not login)

    await layer.close()


async def test_a_refused_password_is_logged_with_what_to_correct(
    own_server, prefix, caplog
):
    own_server.call("CONFIG", "SET", "requirepass", "right")
    layer = RedisChannelLayer(hosts=[own_server.url], prefix=prefix)
    layer.attach(await layer.new_channel())

    await until(lambda: "the layer's broker is away" in caplog.text)

    [record] = [each for each in caplog.records if "is away" in each.message]
    assert "NOAUTH" in record.message
    assert "correct the user or password" in record.message
    await layer.close()


@pytest.mark.parametrize("where", ["group", "queue", "sync"])
async def test_a_message_that_the_server_never_takes_is_too_large_at_once(
    own_server, prefix, where
):
    own_server.call("CONFIG", "SET", "proto-max-bulk-len", "1mb")
    layer = RedisChannelLayer(hosts=[own_server.url], prefix=prefix, publish_timeout=60)
    message = {"type": "said", "text": "x" * 2_000_000}
    calls = {
        "group": lambda: layer.stream_publish("tide", message, keep=Retention(10, 60)),
        "queue": lambda: layer.send("work", message),
        "sync": lambda: asyncio.to_thread(layer.sync.group_send, "tide", message),
    }

    with pytest.raises(MessageTooLarge, match="raise proto-max-bulk-len"):
        await within(calls[where](), 10)

    await layer.close()


async def test_a_server_of_another_kind_is_unavailable(prefix):
    async def answer(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    layer = RedisChannelLayer(
        hosts=[("127.0.0.1", port)], prefix=prefix, publish_timeout=0.3
    )

    with pytest.raises(LayerUnavailable):
        await layer.group_send("room", {"type": "said"})
    with pytest.raises(LayerUnavailable):
        await asyncio.to_thread(layer.sync.group_send, "room", {"type": "said"})

    await layer.close()
    server.close()


async def test_no_call_waits_longer_than_the_publish_timeout(own_server, prefix):
    layer = RedisChannelLayer(hosts=[own_server.url], prefix=prefix, publish_timeout=1)
    boxes = [layer.attach(await layer.new_channel()) for _ in range(2)]
    await layer.group_add("room", boxes[0].name)
    own_server.pause()

    calls = [
        layer.group_send("room", {"type": "said"}),
        layer.group_add("another", boxes[1].name),
        layer.group_count("room"),
        layer.stream_read("room", keep=Retention(1, 1)),
    ]
    # One after the other they would take four seconds.
    async with asyncio.timeout(3):
        results = await asyncio.gather(*calls, return_exceptions=True)

    assert [type(result) for result in results] == [LayerUnavailable] * 4
    own_server.resume()
    await layer.close()


async def test_a_named_queue_is_full_at_its_capacity(make_layer):
    layer = make_layer(capacity=3)
    for number in range(3):
        await layer.send("work", {"type": "job", "n": number})

    with pytest.raises(ChannelFull):
        await layer.send("work", {"type": "job", "n": 3})

    assert await read(layer, "work", 3) == [0, 1, 2]


async def test_each_message_of_a_queue_goes_to_one_of_its_readers(make_layer):
    workers = [make_layer() for _ in range(3)]
    sender = make_layer()
    taken = []

    async def work(layer):
        while True:
            taken.append((await layer.receive("work"))["n"])

    tasks = [asyncio.create_task(work(layer)) for layer in workers]
    for number in range(30):
        await sender.send("work", {"type": "job", "n": number})

    async def all_taken():
        return len(taken) >= 30

    await until(all_taken)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(taken) == list(range(30))


async def test_a_cancelled_reader_of_a_queue_loses_nothing(make_layer):
    layer, sender = make_layer(capacity=1000), make_layer(capacity=1000)
    taken = []
    for number in range(50):
        reading = asyncio.create_task(layer.receive("work"))
        for _ in range(number % 7):
            await asyncio.sleep(0)
        await sender.send("work", {"type": "job", "n": number})
        for _ in range(number % 5):
            await asyncio.sleep(0)
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            taken.append((await reading)["n"])

    while len(taken) < 50:
        taken.append((await within(layer.receive("work")))["n"])
    assert sorted(taken) == list(range(50))


async def test_a_message_returns_to_its_queue_when_its_lease_ends(make_layer):
    layer = make_layer()
    await layer.send("work", {"type": "job", "n": 1})
    broker = layer._brokers[0]

    dead = await broker.queues.take("work", lease=0.05)
    assert dead is not None
    assert await broker.queues.take("work", lease=10) is None

    async def returned():
        again = await broker.queues.take("work", lease=10)
        return again is not None and again.data == dead.data

    await until(returned)


async def test_a_named_queue_in_a_group_gets_a_copy(make_layer):
    layer = make_layer()
    await layer.group_add("jobs", "work")

    await layer.group_send("jobs", {"type": "job", "n": 1})

    assert await read(layer, "work", 1) == [1]


async def test_members_are_counted_over_all_processes(make_layer):
    here, there = make_layer(), make_layer()
    mine, theirs = await here.new_channel(), await there.new_channel()
    here.attach(mine)
    box = there.attach(theirs)
    await here.group_add("room", mine)
    await there.group_add("room", theirs)
    await here.group_add("room", "a-queue")

    async def complete():
        return await here.group_count("room") == 3

    await until(complete)
    assert set(await there.group_channels("room")) == {mine, theirs, "a-queue"}

    await there.detach(box)

    async def left():
        return set(await here.group_channels("room")) == {mine, "a-queue"}

    await until(left)


async def test_the_members_of_a_dead_process_are_not_counted_after_its_lease(
    make_layer,
):
    here, dead = make_layer(), make_layer(lease=0.3)
    channel = await dead.new_channel()
    dead.attach(channel)
    await dead.group_add("room", channel)

    async def counted():
        return await here.group_count("room") == 1

    await until(counted)
    for task in dead._pump._standing:
        task.cancel()

    async def gone():
        return await here.group_count("room") == 0

    await until(gone)


async def test_a_message_can_exclude_channels(make_layer):
    here, there = make_layer(), make_layer()
    mine, theirs = await here.new_channel(), await there.new_channel()
    await here.group_add("room", mine)
    await there.group_add("room", theirs)

    await here.group_send("room", {"type": "said", "n": 1}, exclude=mine)
    await here.group_send("room", {"type": "said", "n": 2})

    assert await read(here, mine, 1) == [2]
    assert await read(there, theirs, 2) == [1, 2]


async def test_a_member_of_several_groups_gets_a_message_to_all_of_them_once(
    make_layer,
):
    layer = make_layer()
    both, one = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("first", both)
    await layer.group_add("second", both)
    await layer.group_add("second", one)

    await layer.group_send(["first", "second"], {"type": "said", "n": 1})
    await layer.group_send("second", {"type": "said", "n": 2})

    first = await within(layer.receive(both))
    assert first == {"type": "said", "n": 1}
    assert await read(layer, both, 1) == [2]
    assert await read(layer, one, 2) == [1, 2]


async def test_a_broadcast_reaches_the_clients_of_all_processes(make_layer):
    here, there = make_layer(), make_layer()
    channel = await there.new_channel()
    box = there.attach(channel)
    await there.group_add("room", channel)

    await here.group_broadcast("room", "text")
    await here.group_broadcast("room", bytes_data=b"\x00", exclude=["somebody"])

    assert (await within(box.get())).event == {"type": "websocket.send", "text": "text"}
    assert (await within(box.get())).event["bytes"] == b"\x00"


async def test_an_invalid_message_does_not_stop_the_later_ones(make_layer, caplog):
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    layer._pump.ensure_running()

    # Another version, or another program with access to the server, may publish this.
    await layer._publisher.publish(
        "room", layer.serialize({"type": "x", "__tiderace__": 3})
    )
    await layer.group_send("room", {"type": "said", "n": 1})

    assert await read(layer, channel, 1) == [1]
    assert "cannot be read and is dropped" in caplog.text


async def test_an_idle_reader_outlasts_the_read_timeout_of_redis_py(
    make_layer,
):
    # redis-py 8 ends a blocking read after 5 seconds.
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    reading = asyncio.create_task(layer.receive(channel))

    _, pending = await asyncio.wait([reading], timeout=10.5)
    assert pending
    await layer.group_send("room", {"type": "said", "n": 1})

    assert (await within(reading))["n"] == 1


async def test_groups_without_members_are_unsubscribed(make_layer, shared_server):
    layer = make_layer()
    channel = await layer.new_channel()
    box = layer.attach(channel)
    for number in range(200):
        await layer.group_add(f"room-{number}", channel)
        await layer.group_discard(f"room-{number}", channel)

    async def quiet():
        return not layer._subscriptions.released and set(layer._cursors) == {
            f"process!{layer.stats_here().process}"
        }

    await until(quiet)
    assert layer.groups == {}
    assert layer._memberships.pending == 0
    await layer.detach(box)


async def test_every_key_has_a_time_to_live(make_layer, shared_server, prefix):
    layer = make_layer()
    channel = await layer.new_channel()
    layer.attach(channel)
    await layer.group_add("room", channel)
    await layer.group_add("room", "a-queue")
    await layer.group_send("room", {"type": "said", "n": 1})
    await layer.send("work", {"type": "job"})
    taken = await layer._brokers[0].queues.take("work", lease=10)
    assert taken is not None
    assert await layer.group_count("room") == 2

    client = layer.connection(0)
    keys = [key async for key in client.scan_iter(f"{prefix}*")]
    lives = {key: await client.pttl(key) for key in keys}
    await client.aclose()

    assert len(keys) >= 6
    assert all(life > 0 for life in lives.values()), lives


async def test_a_full_mailbox_drops_new_messages_and_counts_them(
    make_layer,
):
    layer = make_layer(capacity=2)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    dropped = metrics.MESSAGES_DROPPED_FULL.value

    for number in range(4):
        await layer.group_send("room", {"type": "said", "n": number})

    async def counted():
        return metrics.MESSAGES_DROPPED_FULL.value - dropped == 2

    layer._pump.ensure_running()
    await until(counted)
    assert await read(layer, channel, 2) == [0, 1]


async def test_a_consumer_that_keeps_reading_receives_a_whole_burst(make_layer):
    here, there = make_layer(capacity=50), make_layer()
    channel = await here.new_channel()
    box = here.attach(channel)
    await here.group_add("room", channel)
    heard = []

    async def consume():
        while len(heard) < 1000:
            heard.append((await box.get())["n"])

    consuming = asyncio.create_task(consume())
    await asyncio.gather(
        *(there.group_send("room", {"type": "said", "n": n}) for n in range(1000))
    )
    await within(consuming, 20)

    assert sorted(heard) == list(range(1000))


def test_sync_code_sends_without_a_loop(redis_url, prefix):
    layer = RedisChannelLayer(hosts=[redis_url], prefix=prefix)

    layer.sync.send("work", {"type": "job", "n": 1})
    async_to_sync(layer.send)("work", {"type": "job", "n": 2})

    assert layer.sync.receive("work")["n"] == 1
    assert async_to_sync(layer.receive)("work")["n"] == 2
    layer.sync.close()
    sync_bridge.close()


def test_sync_calls_of_a_process_share_one_connection(own_server, prefix):
    layer = RedisChannelLayer(hosts=[own_server.url], prefix=prefix)
    layer.sync.group_send("room", {"type": "said"})
    before = int(own_server.call("INFO", "stats")["total_connections_received"])

    for _ in range(20):
        layer.sync.group_send("room", {"type": "said"})
        async_to_sync(layer.group_send)("room", {"type": "said"})
    after = int(own_server.call("INFO", "stats")["total_connections_received"])

    # The two questions themselves may connect.
    assert after - before <= 2
    layer.sync.close()
    sync_bridge.close()


def test_sync_code_sends_after_a_restart_of_the_server(durable_server, prefix):
    layer = RedisChannelLayer(hosts=[durable_server.url], prefix=prefix)
    layer.sync.send("work", {"type": "job", "n": 1})

    durable_server.restart()
    layer.sync.send("work", {"type": "job", "n": 2})

    assert [layer.sync.receive("work")["n"] for _ in range(2)] == [1, 2]
    layer.sync.close()
    sync_bridge.close()


def test_threads_may_send_at_the_same_time(redis_url, prefix):
    layer = RedisChannelLayer(hosts=[redis_url], prefix=prefix, capacity=1000)
    start = threading.Barrier(4)

    def send(number):
        start.wait()
        for step in range(25):
            layer.sync.send("work", {"type": "job", "n": number * 100 + step})

    threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    heard = [layer.sync.receive("work")["n"] for _ in range(100)]
    assert sorted(heard) == sorted(n * 100 + s for n in range(4) for s in range(25))
    for number in range(4):
        of_one = [n for n in heard if n // 100 == number]
        assert of_one == sorted(of_one)
    layer.sync.close()
    sync_bridge.close()


async def test_a_caller_cancelled_together_with_the_connecting_task_ends(
    own_server, prefix
):
    layer = RedisChannelLayer(hosts=[own_server.url], prefix=prefix)
    connections = layer._brokers[0].pool._connections
    own_server.pause()
    sending = asyncio.create_task(layer.send("work", {"type": "job"}))

    async def opening():
        return asyncio.get_running_loop() in connections

    await until(opening)
    # A loop that ends cancels all its tasks, in any order.
    connections[asyncio.get_running_loop()].cancel()
    sending.cancel()
    own_server.resume()
    await asyncio.wait([sending])

    assert sending.cancelled()
    await layer.close()


async def test_a_cancellation_that_redis_py_swallows_ends_the_call(cluster, prefix):
    """redis-py swallows it during the write of a command; the retries must end."""
    layer = RedisChannelLayer(hosts=[cluster.host], prefix=prefix)
    pool = layer._brokers[0].pool
    await pool.execute("PING")
    client = (await pool._connections[asyncio.get_running_loop()])._cluster
    execute, asked = client.execute_command, asyncio.Event()

    async def swallow_cancellation(*command):
        asked.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return await execute(*command)

    client.execute_command = swallow_cancellation
    asking = asyncio.create_task(pool.execute("PING"))
    await asked.wait()
    asking.cancel()
    await asyncio.wait([asking])
    client.execute_command = execute

    assert asking.cancelled()
    await layer.close()


@pytest.mark.parametrize("kind", ["own_server", "cluster"])
def test_a_send_while_the_loop_ends_leaves_no_connection_open(kind, prefix, request):
    server = request.getfixturevalue(kind)
    nodes = [server] if kind == "own_server" else server.nodes
    host = server.url if kind == "own_server" else server.host
    layer = RedisChannelLayer(hosts=[host], prefix=prefix)

    def connections():
        return sum(len(node.call("CLIENT", "LIST").splitlines()) for node in nodes)

    before = connections()

    async def send_at_the_end():
        try:
            await asyncio.Event().wait()
        finally:
            await layer.send("work", {"type": "goodbye"})

    async def serve():
        serve.task = asyncio.create_task(send_at_the_end())
        await asyncio.sleep(0)

    asyncio.run(serve())

    wait_for_server(lambda: connections() == before)
    assert layer.sync.receive("work") == {"type": "goodbye"}
    layer.sync.close()
    sync_bridge.close()


def test_connections_of_closed_event_loops_are_dropped(redis_url, prefix):
    layer = RedisChannelLayer(hosts=[redis_url], prefix=prefix)

    for _ in range(5):
        asyncio.run(layer.send("work", {"type": "job"}))

    assert len(layer._brokers[0].pool._connections) == 1


def test_a_forked_child_has_its_own_connections_and_channel_names(redis_url, prefix):
    layer = RedisChannelLayer(hosts=[redis_url], prefix=prefix)
    layer.sync.send("work", {"type": "job", "n": 1})
    name = layer.sync.new_channel()

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            layer.sync.send("work", {"type": "job", "n": 2})
            layer.sync.group_send("room", {"type": "said"})
            os.write(writing, layer.sync.new_channel().encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    theirs = os.read(reading, 200).decode()
    os.close(reading)

    assert theirs
    assert theirs.partition("!")[0] != name.partition("!")[0]
    layer.sync.send("work", {"type": "job", "n": 3})
    assert [layer.sync.receive("work")["n"] for _ in range(3)] == [1, 2, 3]
    layer.sync.close()
    sync_bridge.close()


def _crowd(url, prefix, ready, goes):
    async def main():
        layer = RedisChannelLayer(hosts=[url], prefix=prefix, lease=1.0)
        channel = await layer.new_channel()
        layer.attach(channel)
        await layer.group_add("room", channel)
        await layer.group_count("room")
        ready.set()
        await asyncio.Event().wait()

    asyncio.run(main())


async def test_members_of_a_killed_process_are_removed_within_the_lease(
    make_layer, redis_url, prefix
):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_crowd, args=(redis_url, prefix, ready, None))
    process.start()
    try:
        assert await asyncio.to_thread(ready.wait, 20)
        layer = make_layer()
        assert await layer.group_count("room") == 1
    finally:
        process.kill()
        process.join()

    async def gone():
        return await layer.group_count("room") == 0

    await until(gone)


async def test_encrypted_messages_are_unreadable_without_the_key(make_layer, prefix):
    layer = make_layer(symmetric_encryption_keys=["new", "old"])
    old = make_layer(symmetric_encryption_keys=["old"])
    await old.send("work", {"type": "job", "secret": "hush"})
    client = layer.connection(0)
    stored = await client.lrange(f"{prefix}:queue:work:list", 0, -1)
    await client.aclose()

    assert b"hush" not in stored[0]
    assert (await within(layer.receive("work")))["secret"] == "hush"


async def test_a_message_that_cannot_be_read_is_dropped_and_logged(make_layer, caplog):
    writer = make_layer(symmetric_encryption_keys=["one"])
    reader = make_layer(symmetric_encryption_keys=["other"])
    channel = await reader.new_channel()
    await reader.group_add("room", channel)
    reader.attach(channel)

    await writer.group_send("room", {"type": "said"})

    async def said():
        return "cannot be read and is dropped" in caplog.text

    await until(said)


async def test_a_history_is_readable_beyond_the_expiry_with_encryption(make_layer):
    pytest.importorskip("cryptography")
    layer = make_layer(symmetric_encryption_keys=["k"], expiry=1)
    keep = Retention(10, 3600)
    with freeze_fernet(time.time() - 600):
        await layer.stream_publish("room", {"data": "1"}, keep=keep)

    _, found = await layer.stream_read("room", keep=keep)

    assert [publication.data for publication in found] == ["1"]


async def test_a_message_older_than_the_history_is_refused_with_encryption(
    make_layer, caplog
):
    layer = make_layer(symmetric_encryption_keys=["k"], expiry=1)
    keep = Retention(10, 60)
    with freeze_fernet(time.time() - 600):
        await layer.stream_publish("room", {"data": "1"}, keep=keep)

    _, found = await layer.stream_read("room", keep=keep)

    assert found == []
    assert "cannot be read" in caplog.text


async def test_a_history_with_a_removed_key_is_logged_once(make_layer, caplog):
    writer = make_layer(symmetric_encryption_keys=["old"])
    reader = make_layer(symmetric_encryption_keys=["new"])
    keep = Retention(10, 60)
    for number in range(5):
        await writer.stream_publish("room", {"data": str(number)}, keep=keep)

    for _ in range(3):
        assert (await reader.stream_read("room", keep=keep))[1] == []

    assert caplog.text.count("cannot be read") == 1


async def test_a_history_is_readable_while_keys_are_rotated(make_layer):
    keep = Retention(10, 60)
    stages = [["old"], ["old", "new"], ["new", "old"]]
    layers = [make_layer(symmetric_encryption_keys=keys) for keys in stages]

    for number, layer in enumerate(layers):
        await layer.stream_publish("room", {"data": str(number)}, keep=keep)

    _, found = await layers[-1].stream_read("room", keep=keep)
    assert [publication.data for publication in found] == ["0", "1", "2"]


@contextlib.contextmanager
def freeze_fernet(now):
    """Let tokens be made at ``now``."""
    with mock.patch("cryptography.fernet.time.time", return_value=now):
        yield


def test_an_unknown_option_is_refused_with_the_nearest():
    with pytest.raises(TypeError, match="did you mean 'capacity'"):
        RedisChannelLayer(capactiy=3)


@pytest.mark.parametrize("kind", [RedisChannelLayer, RedisPubSubChannelLayer])
def test_a_layer_is_created_without_a_loop_settings_or_a_server(kind):
    assert kind(hosts=[("127.0.0.1", 1)]).hosts == [{"host": "127.0.0.1", "port": 1}]


async def test_drops_are_logged_in_the_words_of_channels_redis(make_layer, caplog):
    layer = make_layer(capacity=1)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)

    with caplog.at_level(logging.INFO, "channels_redis.core"):
        for _ in range(3):
            await layer.group_send("room", {"type": "said", "n": 0})
        layer._pump.ensure_running()

        async def logged():
            return "1 of 1 channels over capacity in group room" in caplog.text

        await until(logged)


async def test_groups_spread_over_several_servers(own_server, redis_url, prefix):
    hosts = [redis_url, own_server.url]
    here = RedisChannelLayer(hosts=hosts, prefix=prefix)
    there = RedisChannelLayer(hosts=hosts, prefix=prefix)
    channels = [await there.new_channel() for _ in range(20)]

    for number, channel in enumerate(channels):
        await there.group_add(f"room-{number}", channel)
        await here.send(channel, {"type": "direct", "n": -1})
        await here.group_send(f"room-{number}", {"type": "said", "n": number})

    for number, channel in enumerate(channels):
        assert sorted(await read(there, channel, 2)) == sorted([-1, number])
    assert {here.consistent_hash(f"room-{n}") for n in range(20)} == {0, 1}
    await here.close()
    await there.close()


async def test_a_sentinel_setup_serves_the_layer(sentinel, prefix):
    layer = RedisChannelLayer(hosts=[sentinel.host], prefix=prefix)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)

    await layer.group_send("room", {"type": "said", "n": 1})

    assert await read(layer, channel, 1) == [1]
    await layer.close()


async def test_a_failover_loses_no_later_message(own_sentinel, prefix):
    layer = RedisChannelLayer(
        hosts=[own_sentinel.host], prefix=prefix, publish_timeout=30
    )
    channel = await layer.new_channel()
    box = layer.attach(channel)
    await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "said", "n": 0})
    assert (await within(box.get()))["n"] == 0

    await asyncio.to_thread(own_sentinel.fail_over)
    for number in range(1, 6):
        await layer.group_send("room", {"type": "said", "n": number})

    heard = []
    while 5 not in heard:
        message = await within(box.get(), 20)
        if message["type"] != "layer.gap":
            heard.append(message["n"])
    assert heard == [1, 2, 3, 4, 5]
    await layer.close()


async def test_a_cluster_serves_the_layer(cluster, prefix):
    here = RedisChannelLayer(hosts=[cluster.host], prefix=prefix)
    there = RedisChannelLayer(hosts=[cluster.host], prefix=prefix)
    channels = [await there.new_channel() for _ in range(10)]
    for number, channel in enumerate(channels):
        there.attach(channel)
        await there.group_add(f"room-{number}", channel)
        await here.group_send(f"room-{number}", {"type": "said", "n": number})
        await here.send(channel, {"type": "direct", "n": -1})
        await here.send(f"work-{number}", {"type": "job", "n": number})

    for number, channel in enumerate(channels):
        assert sorted(await read(there, channel, 2)) == sorted([-1, number])
        assert await read(there, f"work-{number}", 1) == [number]
    assert await here.group_count("room-3") in (0, 1)
    await here.flush()
    await there.close()


# A program that leaves its loop as it is, and another one at once.
ABANDONED = """
import asyncio, gc, sys
from django.conf import settings
settings.configure()
from tiderace.layers.redis import RedisChannelLayer

async def main(layer):
    channel = await layer.new_channel()
    layer.attach(channel)
    await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "said"})

for _ in range(2):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main(RedisChannelLayer(hosts=sys.argv[1:])))
    loop.close()
    del loop
    gc.collect()
print("done")
"""


def test_a_loop_abandoned_with_its_tasks_causes_no_error_here(redis_url):
    ended = subprocess.run(
        [sys.executable, "-c", ABANDONED, redis_url],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    assert ended.stdout == "done\n"
    assert "Traceback" not in ended.stderr, ended.stderr
