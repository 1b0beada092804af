"""One process's share of who is present: entered, renewed, left, and told about."""

from __future__ import annotations

import pytest

from tiderace.layers.presence import Member, Rules
from tiderace.layers.presence_memory import MemoryPresenceStore
from tiderace.topics.presence import Presence, PresenceKeeper


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


class Process:
    """A keeper, and what it has told."""

    def __init__(self, store, clock, **options):
        self.said = []
        self.called = []
        self.keeper = PresenceKeeper(
            store, self._announce, self._hook, clock=clock, **options
        )

    async def _announce(self, group, event, member):
        self.said.append((event, member and (member.user or member.client)))

    async def _hook(self, group, event, user):
        self.called.append((event, user))

    async def enter(self, client, user, mode=Presence.PER_USER, **options):
        await self.keeper.enter("room", Member(client, user), mode, **options)
        await self.keeper.settled()

    async def leave(self, client):
        await self.keeper.leave("room", client)
        await self.keeper.settled()

    async def reap(self):
        await self.keeper.reap()
        await self.keeper.settled()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(clock):
    return MemoryPresenceStore(clock=clock)


@pytest.fixture
async def make(store, clock):
    made = []

    def make(**options):
        made.append(Process(store, clock, **options))
        return made[-1]

    yield make
    for process in made:
        await process.keeper.close()


async def test_a_user_joins_with_the_first_connection_and_leaves_with_the_last(
    make, clock
):
    process = make()
    await process.enter("tab 1", "ada")
    await process.enter("tab 2", "ada")
    await process.leave("tab 1")
    await process.leave("tab 2")
    await process.reap()
    assert process.said == [("join", "ada")]

    clock.advance(15)
    await process.reap()

    assert process.said == [("join", "ada"), ("leave", "ada")]
    assert process.called == [("joined", "ada"), ("left", "ada")]


async def test_a_connection_joins_and_leaves_at_once(make):
    process = make()

    await process.enter("tab 1", "ada", Presence.PER_CONNECTION)
    await process.enter("tab 2", "ada", Presence.PER_CONNECTION)
    await process.leave("tab 1")

    assert process.said == [("join", "ada"), ("join", "ada"), ("leave", "ada")]
    assert process.called == [("joined", "ada")]


async def test_what_a_killed_process_leaves_behind_is_found_by_another(make, clock):
    killed, other = make(), make()
    await killed.enter("tab", "ada")
    killed.keeper._running.cancel()

    clock.advance(60)
    await other.reap()
    assert other.said == []
    clock.advance(15)
    await other.reap()

    assert other.said == [("leave", "ada")]
    assert other.called == [("left", "ada")]
    assert await other.keeper.members("room", Presence.PER_USER) == {}
