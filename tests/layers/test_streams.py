"""Streams in one process: order of delivery, listeners and retention."""

from __future__ import annotations

import asyncio
import json
import logging
import threading

import pytest

from support.clock import FakeClock
from support.waiting import until
from tiderace import metrics
from tiderace.delivery.stream_hub import StreamHub
from tiderace.history import Position, Publication
from tiderace.layers import InMemoryChannelLayer, Retention, memory_streams
from tiderace.layers.memory_streams import MemoryStreams
from tiderace.testing.layer_contract import RecordingListener

KEEP = Retention(10, 60)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def layer(clock):
    return InMemoryChannelLayer(clock=clock)


@pytest.fixture
def listeners():
    return StreamHub()


def publication(offset):
    return Publication(Position("epoch", offset), str(offset))


async def publish(layer, *numbers, group="tide", keep=KEEP, **options):
    for number in numbers:
        await layer.stream_publish(group, {"data": str(number)}, keep=keep, **options)


# Listeners


async def test_many_listeners_get_all_in_order_while_other_tasks_run(layer):
    recorders = [RecordingListener() for _ in range(10_000)]
    for recorder in recorders:
        await layer.stream_subscribe("tide", recorder)
    turns = []

    async def other_task():
        while len(turns) < 3:
            turns.append(sum(len(recorder.received) for recorder in recorders))
            await asyncio.sleep(0)

    other = asyncio.create_task(other_task())
    await publish(layer, 1)

    assert all(recorder.data == ["1"] for recorder in recorders)
    await other
    assert any(0 < count < len(recorders) for count in turns)


async def test_concurrent_publications_keep_their_order(layer):
    recorders = [RecordingListener() for _ in range(9000)]
    for recorder in recorders:
        await layer.stream_subscribe("tide", recorder)

    await asyncio.gather(*(publish(layer, number) for number in range(5)))

    assert {tuple(recorder.offsets) for recorder in recorders} == {(1, 2, 3, 4, 5)}


async def test_a_listener_that_unsubscribes_during_a_delivery_is_not_called_again(
    layer,
):
    recorders = [RecordingListener() for _ in range(6000)]
    last = recorders[-1]
    for recorder in recorders:
        await layer.stream_subscribe("tide", recorder)

    publishing = asyncio.create_task(publish(layer, 1))
    await until(lambda: recorders[0].received)
    layer.stream_unsubscribe("tide", last)
    await publishing

    assert recorders[-2].data == ["1"]
    assert last.received == []


async def test_a_listener_may_unsubscribe_another(listeners):
    class Unsubscribing(RecordingListener):
        def on_publication(self, group, publication):
            super().on_publication(group, publication)
            listeners.discard(group, other)

    first, other = Unsubscribing(), RecordingListener()
    listeners.add("tide", first)
    listeners.add("tide", other)

    await listeners.put("tide", publication(1)).finish()

    assert (first.data, other.data) == (["1"], [])


async def test_a_listener_may_publish_while_it_is_called(listeners):
    class Echo(RecordingListener):
        def on_publication(self, group, publication):
            super().on_publication(group, publication)
            if publication.position.offset == 1:
                listeners.put(group, second).start()

    second = publication(2)
    echo, after = Echo(), RecordingListener()
    listeners.add("tide", echo)
    listeners.add("tide", after)

    await listeners.put("tide", publication(1)).finish()

    assert echo.offsets == after.offsets == [1, 2]


async def test_discarding_a_listener_keeps_another_one(
    listeners,
):
    before, now = RecordingListener(), RecordingListener()
    listeners.add("tide", before)
    listeners.add("tide", now)

    last = listeners.discard("tide", before)
    await listeners.put("tide", publication(1)).finish()

    assert not last
    assert (before.data, now.data) == ([], ["1"])


async def test_listeners_of_a_blocked_loop_get_a_gap(listeners, caplog):
    recorder = RecordingListener()
    lost = metrics.GAPS_LOST.value
    listeners.add("tide", recorder)

    def work():
        for offset in range(1, 6001):
            listeners.put("tide", publication(offset)).start()

    # This loop is blocked meanwhile.
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    await until(lambda: recorder.offsets[-1:] == [6000])

    assert recorder.data[0] is None
    assert recorder.offsets == list(range(recorder.offsets[0], 6001))
    assert recorder.offsets[0] > 4000
    assert metrics.GAPS_LOST.value == lost + 1
    assert "to it were dropped (listeners: 1, dropped: 4096)" in caplog.text


def test_listeners_of_a_closed_loop_are_removed(layer):
    recorder = RecordingListener()
    asyncio.run(layer.stream_subscribe("tide", recorder))

    layer.sync.stream_publish("tide", {"data": "1"}, keep=KEEP)

    assert (recorder.received, recorder.groups) == ([], set())
    assert "tide" not in layer._local.listeners


async def test_listeners_are_called_in_their_own_loops(layer):
    here, there = RecordingListener(), RecordingListener()
    ready, done = threading.Event(), threading.Event()

    async def listen():
        await layer.stream_subscribe("tide", there)
        ready.set()
        await until(lambda: len(there.received) == 2)
        done.set()

    thread = threading.Thread(target=asyncio.run, args=(listen(),))
    thread.start()
    await asyncio.to_thread(ready.wait, 10)
    await layer.stream_subscribe("tide", here)
    await publish(layer, 1, 2)

    assert await asyncio.to_thread(done.wait, 10)
    thread.join(10)
    assert here.data == there.data == ["1", "2"]
    assert here.threads == {threading.get_ident()}
    assert there.threads == {thread.ident}


async def test_listeners_of_other_loops_stay_when_a_loop_is_closed(layer):
    gone, here = RecordingListener(), RecordingListener()
    await asyncio.to_thread(asyncio.run, layer.stream_subscribe("tide", gone))
    await layer.stream_subscribe("tide", here)

    await publish(layer, 1)

    assert (gone.groups, here.data) == (set(), ["1"])
    assert layer._local.listeners.count("tide") == 1
    assert list(layer._local.listeners) == ["tide"]


async def test_a_listener_that_fails_is_logged(listeners, caplog):
    class Broken(RecordingListener):
        def on_gap(self, group):
            raise RuntimeError("broken")

    listeners.add("tide", Broken())

    await listeners.put("tide", None).finish()

    assert "a listener to tide failed" in caplog.text


async def test_a_flushed_layer_has_no_listeners(layer):
    recorder = RecordingListener()
    await layer.stream_subscribe("tide", recorder)

    await layer.flush()
    await publish(layer, 1)

    assert (recorder.received, recorder.groups) == ([], set())


# Retention


async def test_a_plain_group_has_no_stream(layer):
    await layer.group_send("room", {"type": "x"})
    await layer.group_broadcast("room", "x")

    assert layer._streams.get("room") is None


async def test_an_unused_stream_is_removed_after_ten_times_its_retention(layer, clock):
    await publish(layer, 1, keep=Retention(10, 100))
    before, _ = await layer.stream_read("tide", keep=KEEP)

    clock.now += 999
    await layer.send("anything", {"type": "x"})
    assert layer._streams.get("tide") is not None
    clock.now += 101  # past the next check of the stream
    await layer.send("anything", {"type": "x"})

    assert layer._streams.get("tide") is None
    after, _ = await layer.stream_read("tide", keep=KEEP)
    assert after.epoch != before.epoch


async def test_a_stream_with_a_listener_is_not_removed(layer, clock):
    await publish(layer, 1)
    recorder = RecordingListener()
    await layer.stream_subscribe("tide", recorder)
    before, _ = await layer.stream_read("tide", keep=KEEP)

    for _ in range(5):
        clock.now += 600
        await layer.send("anything", {"type": "x"})

    assert (await layer.stream_read("tide", keep=KEEP))[0] == before
    layer.stream_unsubscribe("tide", recorder)
    clock.now += 1200
    await layer.send("anything", {"type": "x"})
    assert layer._streams.get("tide") is None


async def test_an_idle_stream_drops_expired_publications(layer, clock):
    await publish(layer, *range(5))
    assert len(layer._streams.get("tide")) == 5

    clock.now += 120
    await layer.send("anything", {"type": "x"})

    assert len(layer._streams.get("tide")) == 0


async def test_a_stream_is_scheduled_for_a_check_once(layer, clock):
    for number in range(50):
        clock.now += 30
        await publish(layer, number)

    assert len(layer._streams._checks) == 1


async def test_a_key_may_publish_again_after_five_minutes(layer, clock):
    await publish(layer, 1, key="k")
    clock.now += 299
    await publish(layer, 2, key="k")
    clock.now += 1
    await publish(layer, 3, key="k")

    top, _ = await layer.stream_read("tide", keep=KEEP)
    assert top.offset == 2


async def test_expired_keys_are_removed(layer, clock):
    for number in range(10):
        await publish(layer, number, key=f"k{number}")
    clock.now += 300

    await layer.send("anything", {"type": "x"})

    assert not layer._streams._keys


async def test_a_key_with_a_longer_life_lasts_so_long(layer, clock):
    await publish(layer, 1, key="k", key_ttl=1000)

    clock.now += 999
    assert await layer.stream_find_published("tide", "k") is not None
    clock.now += 1
    assert await layer.stream_find_published("tide", "k") is None


async def test_a_key_with_a_longer_life_ends_five_minutes_after_expire_keys(
    layer, clock
):
    await publish(layer, 1, key="k", key_ttl=10_000)
    clock.now += 1000
    await layer.stream_expire_keys("tide", ["k"])

    clock.now += 299
    assert await layer.stream_find_published("tide", "k") is not None
    clock.now += 1
    assert await layer.stream_find_published("tide", "k") is None


async def test_a_key_with_a_longer_life_keeps_no_others(layer, clock):
    await publish(layer, 1, key="lasting", key_ttl=1000)
    await publish(layer, 2, key="k")
    clock.now += 300

    await layer.send("anything", {"type": "x"})

    assert not layer._streams._keys
    assert await layer.stream_find_published("tide", "lasting") is not None


async def test_of_many_keys_the_oldest_are_forgotten(layer, monkeypatch):
    monkeypatch.setattr(memory_streams, "_MAX_KEYS", 3)
    for number in range(5):
        await publish(layer, number, key=f"k{number}")

    assert [key for _, key in layer._streams._keys] == ["k2", "k3", "k4"]


async def test_a_stream_keeps_a_bounded_number_of_bytes(clock):
    layer = InMemoryChannelLayer(clock=clock, group_max_bytes=1000)
    for number in range(10):
        data = json.dumps([number, "x" * 292])
        await layer.stream_publish("tide", {"data": data}, keep=KEEP)

    _, found = await layer.stream_read("tide", keep=KEEP)

    assert [json.loads(each.data)[0] for each in found] == [7, 8, 9]


async def test_a_stream_without_a_publication_is_soon_removed(layer, clock):
    long = Retention(10, 86400)
    await layer.stream_read("empty", keep=long)
    await layer.stream_read("used", keep=long)
    await publish(layer, 1, group="used", keep=long)
    for _ in range(4):
        clock.now += 60
        await layer.send("anything", {"type": "x"})

    assert layer._streams.get("empty") is None
    assert layer._streams.get("used") is not None


def test_a_stream_of_no_expiry_lasts_a_while():
    streams = MemoryStreams(0, 1000)

    stream = streams.get_or_create("tide", 0)
    stream.append(Publication, "1", 0)
    streams.expire(5, is_used=lambda group: False)
    assert streams.get("tide") is not None
    streams.expire(10, is_used=lambda group: False)
    assert streams.get("tide") is None


# Group messages


async def test_a_message_that_json_cannot_encode_is_a_null_publication(layer, caplog):
    recorder = RecordingListener()
    await layer.stream_subscribe("tide", recorder)

    with caplog.at_level(logging.WARNING, "tiderace.layers"):
        await layer.group_send("tide", {"type": "x", "values": {(1, 2): 1}})
    await publish(layer, 2)

    assert recorder.data == ["null", "2"]
    assert recorder.offsets == [1, 2]
    assert "JSON cannot say" in caplog.text


async def test_a_group_message_has_the_time_at_which_it_was_sent(layer):
    await layer.stream_read("tide", keep=KEEP)
    await layer.group_send("tide", {"type": "x"})

    _, (found,) = await layer.stream_read("tide", keep=KEEP)

    assert found.time > 1_700_000_000
    assert found.topic == ""
