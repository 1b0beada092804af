"""The presence store in memory, and several stores as one.

No test waits: entries with a ttl of 0 and claims with a lease of 0 have expired, and a
grace that has to end is short.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from support.clock import FakeClock
from support.contracts.presence_contract import (
    CONFIG,
    LEFT,
    SHORT,
    Fleet,
    PresenceContract,
    events,
)
from tiderace.exceptions import LayerUnavailable
from tiderace.layers import InMemoryChannelLayer
from tiderace.presence.memory import MemoryPresenceStore
from tiderace.presence.store import (
    PresenceStats,
    ShardedPresence,
)


@pytest.fixture
def clock():
    return FakeClock()


class TestMemory(PresenceContract):
    @pytest.fixture
    def store(self, clock):
        return MemoryPresenceStore(CONFIG, clock=clock)

    @pytest.fixture
    def elapse(self, clock):
        async def elapse():
            clock.now += SHORT

        return elapse

    @pytest.fixture
    def kept(self, store):
        return lambda: list(store._groups)

    async def test_pushes_are_allowed_again_a_second_later(self, fleet, clock):
        config = replace(CONFIG, pushes=2)
        await fleet.join("tab 1", "ada", config=config)
        [gathered] = await fleet.add("tab 2", "bob", config=config)
        assert not gathered.push

        clock.now += gathered.changed_in
        await fleet.remove("tab 1", config=config)
        [pushed] = await fleet.add("tab 3", "eve", config=config)

        assert pushed.push

    async def test_a_reap_before_anything_is_due_reads_no_group(self, fleet, store):
        await fleet.join("tab", "ada")
        store._groups = None  # not looked at

        assert (await store.reap(10)).due_in == pytest.approx(100)


def test_a_layer_s_store_uses_the_layer_s_clock(clock):
    layer = InMemoryChannelLayer(clock=clock)

    assert layer.presence._clock is clock


async def test_flushing_a_layer_removes_all_members(clock):
    layer = InMemoryChannelLayer(clock=clock)
    fleet = Fleet(layer.presence)
    await fleet.join("tab", "ada")

    await layer.flush()

    assert await fleet.users() == []
    assert (await layer.presence.reap(1)).due_in is None


# Several stores as one


class UnreliableStore(MemoryPresenceStore):
    """A store that may be unreachable."""

    away = False

    async def _reach(self):
        if self.away:
            raise LayerUnavailable("it is away")

    async def reap(self, limit):
        await self._reach()
        return await super().reap(limit)

    async def refresh(self, clients):
        await self._reach()
        return await super().refresh(clients)


@pytest.fixture
def shards(clock):
    return [UnreliableStore(CONFIG, clock=clock), UnreliableStore(CONFIG, clock=clock)]


@pytest.fixture
def sharded(shards):
    return Fleet(ShardedPresence(shards, lambda group: int(group[-1])))


async def test_each_group_is_stored_in_one_shard(sharded, shards):
    await sharded.join("tab", "ada", group="room0")
    [left] = await sharded.add("tab", "bob", group="room1", grace=0)
    await sharded.store.confirm(left)

    assert [list(shard._groups) for shard in shards] == [["room0"], ["room1"]]
    assert await sharded.users("room0") == ["ada"]
    assert await sharded.store.stats("room1") == PresenceStats(1, 1)
    assert events(await sharded.remove("tab", group="room1")) == [
        ("leave", "bob", True)
    ]


async def test_a_reap_covers_all_shards(sharded):
    for group in ("room0", "room1"):
        await sharded.join("tab", "ada", grace=0, group=group)
        await sharded.expire("tab", group=group)

    assert sorted(each.group for each in await sharded.reap()) == ["room0", "room1"]


async def test_the_next_reap_is_due_when_any_shard_has_something_due(sharded):
    await sharded.join("tab", "ada", group="room1")
    assert (await sharded.store.reap(1)).due_in == pytest.approx(100)

    await sharded.join("tab", "ada", group="room0", config=replace(CONFIG, ttl=50))

    assert (await sharded.store.reap(1)).due_in == pytest.approx(50)


async def test_an_unreachable_shard_does_not_hide_events_of_the_others(sharded, shards):
    await sharded.join("tab", "ada", grace=0, group="room0")
    await sharded.expire("tab", group="room0")
    shards[1].away = True

    found, due_in = await sharded.store.reap(1)

    assert events(found) == [LEFT]
    assert due_in == 0
    with pytest.raises(LayerUnavailable):
        await sharded.store.reap(1)


async def test_entries_of_other_shards_are_refreshed_while_one_is_unreachable(
    sharded, shards
):
    for group in ("room0", "room1"):
        await sharded.join("tab", "ada", group=group)
    shards[0].away = True

    with pytest.raises(LayerUnavailable):
        await sharded.refresh(
            {"room0": ["tab"], "room1": ["tab"]}, config=replace(CONFIG, ttl=500)
        )

    assert (await shards[1].reap(1)).due_in == pytest.approx(100)
    assert [
        each.expires_ms for each in shards[1]._groups["room1"].connections.values()
    ] == [1_500_000]
