"""Streams over real servers: lost connections, lost data and retention."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time

import pytest

from support.servers.redis_state import change_of_state
from support.waiting import until
from tiderace.exceptions import RateExceeded
from tiderace.history import Position
from tiderace.layers import Retention
from tiderace.layers.redis import RedisChannelLayer
from tiderace.layers.redis.connection import ConnectionLost
from tiderace.ratelimit import Rate
from tiderace.runtime import sync_bridge
from tiderace.testing.layer_contract import RecordingListener

KEEP = Retention(1000, 3600)


@pytest.fixture
async def make_layer(redis_url, prefix):
    made = []

    def make(url=redis_url, **options):
        layer = RedisChannelLayer(hosts=[url], prefix=prefix, **options)
        made.append(layer)
        return layer

    yield make
    for layer in made:
        await layer.close()


async def publish(layer, *numbers, keep=KEEP, **options):
    for number in numbers:
        await layer.stream_publish("tide", {"data": str(number)}, keep=keep, **options)


async def command(layer, *words, suffix=""):
    broker = layer._brokers[0]
    return await broker.commands.execute(
        words[0], f"{broker.keys.group('tide')}{suffix}", *words[1:]
    )


# Losses


async def test_listeners_get_everything_once_and_in_order_across_reconnects(
    own_server, make_layer
):
    here, there = make_layer(own_server.url), make_layer(own_server.url)
    listeners = [RecordingListener(), RecordingListener()]
    await here.stream_subscribe("tide", listeners[0])
    await there.stream_subscribe("tide", listeners[1])

    for number in range(120):
        if number % 20 == 10:
            own_server.client_kill("pubsub")
        if number % 40 == 30:
            own_server.client_kill("normal")
        await publish(here if number % 2 else there, number)

    said = [str(number) for number in range(120)]
    await until(lambda: all(len(listener.received) >= 120 for listener in listeners))
    assert listeners[0].data == listeners[1].data == said
    assert listeners[0].offsets == list(range(1, 121))


async def test_listeners_get_a_gap_when_the_server_has_lost_its_data(
    own_server, make_layer
):
    layer = make_layer(own_server.url, publish_timeout=20)
    listener = RecordingListener()
    await layer.stream_subscribe("tide", listener)
    await publish(layer, *range(3))
    await until(lambda: len(listener.received) == 3)
    before, _ = await layer.stream_read("tide", keep=KEEP)

    own_server.kill()
    own_server.forget()
    await asyncio.to_thread(own_server.restart)
    await publish(layer, 3)

    await until(lambda: listener.data[3:] == [None, "3"])
    after, found = await layer.stream_read("tide", keep=KEEP)
    assert after.epoch != before.epoch
    assert after.offset == 1
    assert [each.data for each in found] == ["3"]


async def test_listeners_get_a_gap_for_expired_messages_and_can_read_them(
    own_server, make_layer
):
    layer = make_layer(own_server.url, expiry=0.3)
    other = make_layer(own_server.url, expiry=0.3)
    listener = RecordingListener()
    await layer.stream_subscribe("tide", listener)
    await publish(layer, 0)
    await until(lambda: listener.data == ["0"])

    def work():
        own_server.client_kill("pubsub")
        other.sync.stream_publish("tide", {"data": "1"}, keep=KEEP)
        time.sleep(0.4)
        other.sync.stream_publish("tide", {"data": "2"}, keep=KEEP)

    # The event loop that subscribes is blocked meanwhile.
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    await until(lambda: listener.data == ["0", None, "2"])
    _, found = await layer.stream_read("tide", keep=KEEP)
    assert [each.data for each in found] == ["0", "1", "2"]


async def test_a_publication_lost_without_a_reconnect_is_fetched_soon(make_layer):
    layer = make_layer(expiry=0.5)
    listener = RecordingListener()
    await layer.stream_subscribe("tide", listener)
    await publish(layer, 0)
    await until(lambda: listener.data == ["0"])
    stream = layer._cursors.get("tide")

    # As if the server had not sent the message.
    layer._cursors.remove("tide", stream)
    await publish(layer, 1)
    layer._cursors._by_subject["tide"] = stream

    await until(lambda: len(listener.received) > 1)
    assert listener.data[1] in (None, "1")


async def test_a_publication_that_cannot_be_read_is_a_gap(make_layer):
    layer = make_layer(symmetric_encryption_keys=["one"])
    stranger = make_layer(symmetric_encryption_keys=["another"])
    listener = RecordingListener()
    await layer.stream_subscribe("tide", listener)

    await publish(stranger, 1)
    await publish(layer, 2)

    await until(lambda: listener.data == [None, "2"])
    _, found = await layer.stream_read("tide", keep=KEEP)
    assert [each.position.offset for each in found] == [2]


async def test_no_offset_is_used_twice_after_a_failover(own_server, make_layer):
    layer = make_layer(own_server.url)
    listener = RecordingListener()
    await layer.stream_subscribe("tide", listener)
    await publish(layer, 1, 2)
    await until(lambda: len(listener.received) == 2)
    # The server is another one now, and has the first alone.
    _, (last, _) = await command(layer, "XRANGE", "-", "+", suffix=":stream")
    await command(layer, "XDEL", last, suffix=":stream")
    broker = layer._brokers[0]
    change = change_of_state(
        broker.keys.meta("tide"), offset=1, published_at=0, replication="another"
    )
    await broker.commands.execute(*change)

    await publish(layer, 3)

    await until(lambda: listener.data == ["1", "2", "3"])
    assert listener.offsets[2] > 1 << 20
    top, found = await layer.stream_read("tide", keep=Retention(1 << 22, 3600))
    assert top.offset == listener.offsets[2]
    assert [each.data for each in found] == ["1", "3"]


# What is kept


async def test_a_history_outlives_the_layers_own_retention(make_layer):
    layer = make_layer(expiry=0.2, group_capacity=10)
    keep = Retention(500, 60)
    await publish(layer, *range(300), keep=keep)

    await asyncio.sleep(0.3)
    for _ in range(3):
        await layer.group_send("tide", {"type": "x"})
    await asyncio.sleep(0.3)

    _, found = await layer.stream_read("tide", keep=keep)
    assert len(found) == 303
    assert await command(layer, "PTTL", suffix=":stream") > 50_000
    assert await command(layer, "PTTL", suffix=":meta") > 500_000


async def test_a_stream_keeps_a_bounded_number_of_bytes(make_layer):
    layer = make_layer(group_max_bytes=20_000)
    keep = Retention(500, 60)
    for number in range(100):
        data = json.dumps([number, "x" * 1000])
        await layer.stream_publish("tide", {"data": data}, keep=keep)

    top, found = await layer.stream_read("tide", keep=keep)

    assert top.offset == 100
    numbers = [json.loads(each.data)[0] for each in found]
    assert numbers == list(range(100))[-len(numbers) :]
    assert 14 <= len(numbers) <= 21


async def test_group_messages_are_kept_up_to_a_number_of_bytes(make_layer):
    layer = make_layer(group_max_bytes=20_000)
    for _ in range(100):
        await layer.group_send("tide", {"type": "x", "text": "x" * 1000})

    assert 14 <= await command(layer, "XLEN", suffix=":stream") <= 24


async def test_a_stream_without_a_publication_is_soon_removed(make_layer):
    layer = make_layer(expiry=1)
    await layer.stream_read("tide", keep=Retention(10, 86400))
    await layer.stream_read("tide", keep=Retention(10, 86400))

    assert await command(layer, "PTTL", suffix=":meta") <= 3000


async def test_a_stream_without_a_publication_stays_while_there_is_a_listener(
    make_layer,
):
    layer = make_layer(expiry=0.2)
    await layer.stream_subscribe("tide", RecordingListener())
    first, _ = await layer.stream_read("tide", keep=KEEP)

    await asyncio.sleep(1)

    assert (await layer.stream_read("tide", keep=KEEP))[0] == first


async def test_a_history_that_only_a_read_has_set_is_kept(make_layer):
    layer = make_layer(expiry=0.2)
    await layer.group_send("tide", {"type": "x"})
    await layer.stream_read("tide", keep=KEEP)
    await layer.group_send("tide", {"type": "y"})

    await asyncio.sleep(0.3)

    _, found = await layer.stream_read("tide", keep=KEEP)
    assert [each.data for each in found] == ['{"type":"x"}', '{"type":"y"}']


@pytest.mark.parametrize(
    "keep", [Retention(100, 3600), Retention(100_000, 0.1), Retention(0, 3600)], ids=str
)
async def test_a_busy_stream_holds_little_more_than_its_retention(make_layer, keep):
    layer = make_layer(expiry=0.05, group_capacity=100_000)
    ended = time.monotonic() + 0.5
    published = 0

    while published < 1500 or time.monotonic() < ended:
        await publish(layer, published, keep=keep)
        published += 1

    assert await command(layer, "XLEN", suffix=":stream") < published * 0.75


async def test_the_retention_of_a_stream_may_change(make_layer):
    layer = make_layer(expiry=0.2)
    await publish(layer, 1, keep=Retention(10, 3600))
    await publish(layer, 2, keep=Retention(10, 60))

    assert await command(layer, "PTTL", suffix=":stream") <= 60_000
    assert await command(layer, "PTTL", suffix=":meta") <= 600_000


async def test_the_retention_of_a_stream_with_many_publications_may_change(make_layer):
    layer = make_layer(expiry=0.2)
    await publish(layer, 1, 2, 3, 4, keep=Retention(10, 3600))
    await publish(layer, 5, keep=Retention(10, 60))

    assert await command(layer, "PTTL", suffix=":stream") <= 60_000
    assert await command(layer, "PTTL", suffix=":meta") <= 600_000


async def test_group_messages_are_kept_by_the_history_of_a_later_reader(make_layer):
    layer = make_layer(group_capacity=10)
    keep = Retention(500, 60)
    for number in range(5):
        await layer.group_send("tide", {"type": "n", "n": number})
    await layer.stream_read("tide", keep=keep)

    for number in range(5, 400):
        await layer.group_send("tide", {"type": "n", "n": number})

    _, found = await layer.stream_read("tide", keep=keep)
    assert [each.value["n"] for each in found] == list(range(400))


async def test_the_keys_of_a_stream_are_kept_in_time(make_layer):
    layer = make_layer(expiry=60)
    commands, keys = layer._brokers[0].commands, layer._brokers[0].keys
    await publish(layer, 1, keep=Retention(10, 30))
    soon = int(time.time() * 1000) + 50_000
    change = change_of_state(keys.meta("tide"), settled_until=0, stream_ends_at=soon)
    await commands.execute(*change)
    await command(layer, "PEXPIRE", 50_000, suffix=":stream")
    await command(layer, "PEXPIRE", 50_000, suffix=":meta")

    await publish(layer, 2, keep=Retention(10, 30))

    assert 60_000 < await command(layer, "PTTL", suffix=":stream") <= 75_000
    assert 590_000 < await command(layer, "PTTL", suffix=":meta") <= 600_000


async def test_a_stream_has_a_time_to_live_again_after_its_publications_were_deleted(
    make_layer,
):
    layer = make_layer()
    await publish(layer, 1)
    await layer.stream_delete("tide")

    await publish(layer, 2)

    assert await command(layer, "PTTL", suffix=":stream") > 0


async def test_a_position_lasts_as_long_as_there_is_a_listener(make_layer):
    layer = make_layer(expiry=0.1)
    keep = Retention(0, 0)
    await layer.stream_subscribe("tide", RecordingListener())
    await publish(layer, 1, keep=keep)
    listened = await layer.stream_read("tide", keep=keep)
    left = await layer.stream_publish("left", {"data": "1"}, keep=keep)

    await asyncio.sleep(1.6)

    assert await layer.stream_read("tide", keep=keep) == listened
    # Ten times the expiry has passed, for a group without listeners.
    assert (await layer.stream_read("left", keep=keep))[0].epoch != left.epoch


async def test_every_key_of_a_stream_has_a_time_to_live(own_server, make_layer):
    layer = make_layer(own_server.url)
    await layer.stream_read("read-only", keep=KEEP)
    await publish(layer, 1, key="k")

    keys = own_server.keys()

    assert len(keys) >= 4
    assert all(own_server.call("PTTL", key) > 0 for key in keys)


async def test_a_stream_is_unreadable_without_the_key(make_layer):
    layer = make_layer(symmetric_encryption_keys=["secret"], compress_above=100)
    text = f'"{"tide" * 500}"'
    await layer.stream_publish("tide", {"data": text}, keep=KEEP)

    ((_, fields),) = await command(layer, "XRANGE", "-", "+", suffix=":stream")
    assert len(fields[3]) < 1000
    assert b"tide" not in fields[3]
    _, (found,) = await layer.stream_read("tide", keep=KEEP)
    assert found.data == text


# Keys, retries


def lose_the_next_reply(layer):
    """Lose the reply to the next command; it is in the returned list then."""
    pool = layer._brokers[0].pool
    run, lost = pool.execute, []

    async def execute(*words):
        reply = await run(*words)
        if not lost:
            lost.append(reply)
            raise ConnectionLost("cut")
        return reply

    pool.execute = execute
    pool.begin = lambda packed: None  # so that `execute` gets every command
    return lost


@pytest.mark.parametrize("key", ["", "k"])
async def test_a_publication_whose_reply_is_lost_happens_once(make_layer, key):
    layer = make_layer()
    await layer.group_add("tide", "work")
    lost = lose_the_next_reply(layer)

    await publish(layer, 1, key=key)
    await publish(layer, 2)

    assert lost
    async with asyncio.timeout(10):
        events = [await layer.receive("work") for _ in range(2)]
    assert [each["data"] for each in events] == [1, 2]
    top, _ = await layer.stream_read("tide", keep=KEEP)
    assert top.offset == 2


@pytest.mark.parametrize("key", ["", "k"])
async def test_a_publication_whose_reply_is_lost_takes_one_token(make_layer, key):
    layer = make_layer()
    limit = ("bucket", Rate(2, 3600.0))
    lost = lose_the_next_reply(layer)

    await publish(layer, 1, 2, key=key, limit=limit)
    with pytest.raises(RateExceeded):
        await publish(layer, 3, limit=limit)

    assert lost
    top, _ = await layer.stream_read("tide", keep=KEEP)
    assert top.offset == (1 if key else 2)


async def test_a_publication_is_not_refused_after_its_reply_was_lost(make_layer):
    layer = make_layer()
    lost = lose_the_next_reply(layer)

    await publish(layer, 1, limit=("bucket", Rate(1, 3600.0)))

    assert lost
    top, _ = await layer.stream_read("tide", keep=KEEP)
    assert top.offset == 1


async def test_an_idempotency_key_keeps_named_queues_from_a_second_copy(make_layer):
    layer = make_layer()
    await layer.group_add("tide", "work")

    await publish(layer, 1, key="k")
    await publish(layer, 1, key="k")
    await publish(layer, 2)

    async with asyncio.timeout(10):
        events = [await layer.receive("work") for _ in range(2)]
    assert [each["data"] for each in events] == [1, 2]


# Subscriptions


async def test_a_group_is_subscribed_while_it_has_a_listener_or_a_member(make_layer):
    layer = make_layer()
    listener = RecordingListener()
    box = layer.attach(await layer.new_channel())
    await layer.stream_subscribe("tide", listener)
    await layer.group_add("tide", box.name)

    layer.stream_unsubscribe("tide", listener)
    await until(lambda: not layer._subscriptions.released)
    await publish(layer, 1)
    async with asyncio.timeout(10):
        assert (await box.get())["data"] == 1
    await layer.stream_subscribe("tide", listener)
    await layer.detach(box)
    await until(lambda: not layer._subscriptions.released)
    await publish(layer, 2)
    await until(lambda: listener.data == ["2"])
    layer.stream_unsubscribe("tide", listener)

    await until(lambda: "tide" not in layer._cursors)


async def test_a_listener_is_not_a_member(make_layer):
    layer = make_layer()

    await layer.stream_subscribe("tide", RecordingListener())

    assert await layer.group_count("tide") == 0


async def test_listeners_get_messages_again_after_their_layer_was_closed(make_layer):
    layer = make_layer()
    listener, late = RecordingListener(), RecordingListener()
    await layer.stream_subscribe("tide", listener)
    await publish(layer, 1)
    await until(lambda: listener.data == ["1"])

    await layer.close()
    await publish(layer, 2)
    await layer.stream_subscribe("elsewhere", late)

    await until(lambda: listener.data == ["1", "2"])


async def test_a_listener_that_failed_to_subscribe_is_removed(own_server, make_layer):
    layer = make_layer(own_server.url, publish_timeout=0.2)
    listener = RecordingListener()
    own_server.kill()

    with pytest.raises(Exception, match="could not be reached"):
        await layer.stream_subscribe("tide", listener)

    assert listener.groups == set()
    assert "tide" not in layer._local.listeners
    own_server.start()


def test_a_forked_child_publishes_and_has_no_listeners(redis_url, prefix):
    layer = RedisChannelLayer(hosts=[redis_url], prefix=prefix)
    listener = RecordingListener()

    async def listen():
        await layer.stream_subscribe("tide", listener)

    sync_bridge.call(listen)
    child = os.fork()
    if child == 0:
        done = 1
        try:
            layer.sync.stream_publish("tide", {"data": "1"}, keep=KEEP)
            done = int("tide" in layer._local.listeners)
        finally:
            os._exit(done)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    ended = time.monotonic() + 10
    while not listener.received and time.monotonic() < ended:
        time.sleep(0.005)
    assert listener.data == ["1"]
    layer.stream_unsubscribe("tide", listener)
    layer.sync.close()
    sync_bridge.close()


async def test_reading_a_stream_that_is_lost_meanwhile_returns_what_was_read(
    make_layer,
):
    layer = make_layer()
    broker = layer._brokers[0]
    await asyncio.gather(*(publish(layer, number) for number in range(1000)))
    keep = Retention(2000, 3600)
    await asyncio.gather(*(publish(layer, n, keep=keep) for n in range(500)))
    run_script = broker.commands.run_script

    async def lose_the_stream(name, **values):
        reply = await run_script(name, **values)
        await command(layer, "DEL", suffix=":meta")
        return reply

    broker.commands.run_script = lose_the_stream
    top, found = await layer.stream_read("tide", keep=keep)

    assert isinstance(top, Position)
    assert top.offset == 1500
    assert 0 < len(found) < 1500
    assert all(each.position.epoch == top.epoch for each in found)


async def test_a_key_lasts_as_long_as_given_and_five_minutes_after_expire_keys(
    make_layer,
):
    layer = make_layer()
    await publish(layer, 1, key="short")
    await publish(layer, 2, key="long", key_ttl=86_400)
    await publish(layer, 3, key="longer", key_ttl=86_400)

    await layer.stream_expire_keys("tide", ["short", "long", "unknown"])

    keys, commands = layer._brokers[0].keys, layer._brokers[0].commands
    left = [
        await commands.execute("PTTL", keys.once("tide", key)) / 1000
        for key in ("short", "long", "longer", "unknown")
    ]
    assert 290 < left[0] <= 300
    assert 290 < left[1] <= 300
    assert 86_390 < left[2] <= 86_400
    assert left[3] < 0
