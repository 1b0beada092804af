"""A server that took over, or restarted, without the last messages that were delivered."""

from __future__ import annotations

import asyncio
import time

import pytest

from support.servers.redis_state import change_of_state
from tiderace.history import merge
from tiderace.layers import Retention
from tiderace.layers.redis import RedisChannelLayer


@pytest.fixture
async def layer(own_server, prefix):
    made = RedisChannelLayer(hosts=[own_server.url], prefix=prefix)
    yield made
    await made.close()


@pytest.fixture
async def mailbox(layer):
    """The mailbox of a consumer in the group ``tide``."""
    name = await layer.new_channel()
    box = layer.attach(name)
    await layer.group_add("tide", name)
    yield box
    await layer.detach(box)


async def send(layer, *numbers):
    for number in numbers:
        await layer.group_send("tide", {"type": "n", "n": number})


async def numbers(mailbox, count):
    async with asyncio.timeout(10):
        return [(await mailbox.get()).get("n") for _ in range(count)]


def become_another(server, prefix, top, *entries):
    """Set the end and the entries of the group's stream, as on another server."""
    stream, meta = f"{prefix}:group:tide:stream", f"{prefix}:group:tide:meta"
    server.call("XTRIM", stream, "MAXLEN", 0)
    now = int(time.time() * 1000)
    for offset, data in entries:
        server.call("XADD", stream, f"{offset}-{now}", "i", offset, "d", data)
    server.call(
        *change_of_state(meta, offset=top, published_at=0, replication="another")
    )


async def test_messages_after_a_failover_with_losses_are_delivered(
    layer, mailbox, own_server, prefix
):
    await send(layer, 1, 2, 3)
    assert await numbers(mailbox, 3) == [1, 2, 3]
    become_another(own_server, prefix, 1)

    await send(layer, 4, 5, 6)

    assert await numbers(mailbox, 3) == [4, 5, 6]
    assert mailbox.empty()


async def test_messages_missed_before_a_failover_are_fetched(
    layer, mailbox, own_server, prefix
):
    await send(layer, 1)
    await numbers(mailbox, 1)
    missed = [(n, layer.serialize({"type": "n", "n": n})) for n in (2, 3)]
    become_another(own_server, prefix, 3, *missed)

    await send(layer, 4)

    assert await numbers(mailbox, 3) == [2, 3, 4]


async def test_a_member_gets_a_gap_for_messages_lost_in_a_failover(
    layer, mailbox, own_server, prefix
):
    await send(layer, 1)
    await numbers(mailbox, 1)
    become_another(own_server, prefix, 5)

    await send(layer, 6)

    gap = await asyncio.wait_for(mailbox.get(), 10)
    assert gap == {"type": "layer.gap", "group": "tide", "missed": 4}
    assert await numbers(mailbox, 1) == [6]


async def test_offsets_of_a_busy_group_rise_by_one(layer, mailbox, own_server, prefix):
    await send(layer, *range(20))
    # Long ago, so that the script asks where it is.
    own_server.call(*change_of_state(f"{prefix}:group:tide:meta", published_at=0))

    await send(layer, 20)

    top = own_server.call(*change_of_state(f"{prefix}:group:tide:meta"))
    assert int(top) == 21


async def test_publishing_works_without_the_permission_for_info(own_server, prefix):
    own_server.call(
        *("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-info")
    )
    url = own_server.url.replace("redis://", "redis://app:pw@")
    layer = RedisChannelLayer(hosts=[url], prefix=prefix)
    name = await layer.new_channel()
    await layer.group_add("tide", name)

    await send(layer, 1)
    own_server.call(*change_of_state(f"{prefix}:group:tide:meta", published_at=0))
    await send(layer, 2)

    received = [await asyncio.wait_for(layer.receive(name), 10) for _ in range(2)]
    assert [message["n"] for message in received] == [1, 2]
    await layer.close()


# Streams with a history

KEEP = Retention(4, 300)


def fail_over(server, prefix):
    """Let the server look like another one with the same data."""
    meta = f"{prefix}:group:tide:meta"
    server.call(*change_of_state(meta, published_at=0, replication="another"))


async def publish(layer, *numbers):
    for number in numbers:
        await layer.stream_publish("tide", {"data": str(number)}, keep=KEEP)


async def history(layer, **options):
    _, found = await layer.stream_read("tide", keep=KEEP, **options)
    return [publication.data for publication in found]


async def test_a_history_has_its_last_publications_after_failovers(
    layer, own_server, prefix
):
    await publish(layer, 1, 2, 3)
    fail_over(own_server, prefix)
    await publish(layer, 4)
    fail_over(own_server, prefix)

    await publish(layer, 5)

    assert await history(layer) == ["2", "3", "4", "5"]
    assert await history(layer, limit=2) == ["2", "3"]
    assert await history(layer, limit=3, reverse=True) == ["5", "4", "3"]


async def test_a_history_is_not_trimmed_at_a_failover(layer, own_server, prefix):
    await publish(layer, 1, 2)
    # Long ago, so that the next publication removes what has expired.
    meta = f"{prefix}:group:tide:meta"
    own_server.call(*change_of_state(meta, checkpoint=2, checkpoint_at=0))
    fail_over(own_server, prefix)

    await publish(layer, 3)

    assert await history(layer) == ["1", "2", "3"]


async def test_a_subscriber_recovers_what_it_missed_over_a_failover(
    layer, own_server, prefix
):
    await publish(layer, 1, 2)
    since, _ = await layer.stream_read("tide", keep=KEEP)
    await publish(layer, 3)
    fail_over(own_server, prefix)
    await publish(layer, 4, 5)

    top, kept = await layer.stream_read("tide", keep=KEEP, since=since)

    merged = merge(since, top, kept)
    assert merged.recovered
    assert [publication.data for publication in merged.missed] == ["3", "4", "5"]


async def test_a_listener_gets_the_offset_before_a_failover(layer, own_server, prefix):
    listener = Listener()
    await publish(layer, 1, 2)
    await layer.stream_subscribe("tide", listener)
    fail_over(own_server, prefix)

    await publish(layer, 3)

    publication = await asyncio.wait_for(listener.publications.get(), 10)
    assert (publication.data, publication.before) == ("3", 2)
    assert publication.position.offset > 3


class Listener:
    """A listener that queues its publications."""

    def __init__(self):
        self.groups = set()
        self.publications = asyncio.Queue()

    def on_publication(self, group, publication):
        self.publications.put_nowait(publication)

    def on_gap(self, group):
        self.publications.put_nowait(None)


async def test_a_server_is_asked_for_its_history_once_in_twenty_milliseconds(
    layer, own_server
):
    own_server.call("CONFIG", "RESETSTAT")
    begun = time.monotonic()

    for number in range(100):
        await layer.group_send(f"tide{number}", {"type": "n"})

    windows = (time.monotonic() - begun) * 1000 // 20 + 2
    asked = own_server.call("INFO", "commandstats")["cmdstat_info"]["calls"]
    assert 1 <= asked <= windows
