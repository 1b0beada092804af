"""The parts of channels_redis that applications and suites depend on.

They are imported by its names, through the alias.
"""

from __future__ import annotations

import asyncio
import inspect

import pytest

import tiderace

tiderace.install_as_channels()

from channels_redis.core import (  # noqa: E402
    BoundedQueue,
    ChannelLock,
    RedisChannelLayer,
)
from channels_redis.pubsub import RedisPubSubChannelLayer  # noqa: E402

from support.waiting import PATIENCE  # noqa: E402


@pytest.fixture
async def core(redis_url, prefix):
    layer = RedisChannelLayer(hosts=[redis_url], prefix=prefix)
    yield layer
    await layer.close()


@pytest.fixture
async def pubsub(redis_url, prefix):
    layer = RedisPubSubChannelLayer(hosts=[redis_url], prefix=prefix)
    yield layer
    await layer.close()


async def received(layer, channel):
    return await asyncio.wait_for(layer.receive(channel), PATIENCE)


async def test_receive_single_returns_the_channel_too(core):
    await core.send("queue", {"type": "job"})

    assert await core.receive_single("queue") == ("queue", {"type": "job"})


def test_a_receive_buffer_drops_its_oldest():
    buffer = RedisChannelLayer(capacity=2).receive_buffer["specific.x!y"]

    for number in range(3):
        buffer.put_nowait(number)

    assert isinstance(buffer, BoundedQueue)
    assert [buffer.get_nowait(), buffer.get_nowait()] == [1, 2]


async def test_a_layers_connection_runs_commands_of_the_application(core, prefix):
    await core.group_add("room", "queue")

    client = core.connection(core.consistent_hash("room"))
    members = await client.zrange(core._group_key("room"), 0, -1)
    await client.aclose()

    assert members == [b"queue"]


def test_a_connection_to_an_unknown_host_index_is_refused():
    with pytest.raises(ValueError, match="There are only 1 hosts - you asked for 1!"):
        RedisChannelLayer().connection(1)


async def test_a_channel_lock_is_deleted_when_it_is_unused():
    lock = ChannelLock()
    await lock.acquire("a")
    waiting = asyncio.create_task(lock.acquire("a"))
    await asyncio.sleep(0)

    waiting.cancel()
    await asyncio.wait([waiting])
    assert lock.locked("a")
    lock.release("a")

    assert not lock.locked("a")
    assert lock.locks == lock.wait_counts == {}


def test_the_methods_of_the_pubsub_layer_are_coroutine_functions():
    layer = RedisPubSubChannelLayer()

    for verb in ("new_channel", "send", "receive", "group_add", "group_send"):
        assert inspect.iscoroutinefunction(getattr(layer, verb))


@pytest.mark.parametrize("message", ["a string", [1, 2], 3])
async def test_the_pubsub_layer_takes_any_value_as_a_message(pubsub, message):
    channel = await pubsub.new_channel()
    await pubsub.group_add("any name", channel)

    await pubsub.send(channel, message)
    assert await received(pubsub, channel) == message
    await pubsub.group_send("any name", message)
    assert await received(pubsub, channel) == message


async def test_a_prefix_of_the_pubsub_layer_is_joined_without_a_separator(pubsub):
    channel = await pubsub.new_channel("mine")

    assert channel.startswith(f"{pubsub.prefix}mine")


async def test_the_layer_of_the_running_loop_has_the_layers_attributes(pubsub):
    channel = await pubsub.new_channel()
    await pubsub.group_add("room", channel)

    here = pubsub._get_layer()

    assert list(here.groups) == ["room"]
    assert here.prefix == pubsub.prefix
    assert list(pubsub._layers) == [asyncio.get_running_loop()]


async def test_connections_closed_under_the_pubsub_layer_are_opened_again(pubsub):
    channel = await pubsub.new_channel()
    await pubsub.group_add("room", channel)
    listening = asyncio.create_task(received(pubsub, channel))
    await asyncio.sleep(0)

    await pubsub._shards[0]._redis.aclose(close_connection_pool=True)
    await pubsub.group_send("room", {"type": "said"})

    assert await listening == {"type": "said"}
