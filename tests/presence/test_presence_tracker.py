"""The tracker: entries of one process are added, refreshed, removed and announced."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random

import pytest

from support.clock import FakeClock
from support.waiting import PATIENCE, until
from tiderace import metrics
from tiderace.exceptions import LayerUnavailable
from tiderace.presence import entries
from tiderace.presence.memory import MemoryPresenceStore
from tiderace.presence.store import Member, PresenceConfig, PresenceStats
from tiderace.presence.tracker import Presence, PresenceTracker


class Store(MemoryPresenceStore):
    """A store that can be unreachable or slow, and records its calls."""

    def __init__(self, **options):
        super().__init__(PresenceConfig(), **options)
        self.away = False
        self.calls = []
        self.gate = None  # an event that calls wait for

    async def _record(self, verb):
        self.calls.append(verb)
        if self.away:
            raise LayerUnavailable("the store is away")

    async def _pass_gate(self):
        if self.gate is not None:
            await self.gate.wait()

    async def add(self, group, member, **options):
        await self._record("add")
        found = await super().add(group, member, **options)
        await self._pass_gate()
        return found

    async def remove(self, group, client, **options):
        await self._record("remove")
        return await super().remove(group, client, **options)

    async def refresh(self, clients, **options):
        await self._record("refresh")
        return await super().refresh(clients, **options)

    async def reap(self, limit, **options):
        await self._record("reap")
        return await super().reap(limit, **options)

    async def confirm(self, event, **options):
        await self._record("confirm")
        return await super().confirm(event, **options)

    async def members(self, group, **options):
        await self._record("members")
        members = await super().members(group, **options)
        await self._pass_gate()
        return members


class Process:
    """A tracker without its background task, and what it has announced."""

    def __init__(self, store, clock, **options):
        self.announced = []
        self.called = []
        self.members = []
        self.announce_fails = False
        self.hook = None
        self.tracker = PresenceTracker(
            store,
            self._announce,
            self._hook,
            clock=clock,
            randomness=random.Random(1),
            **options,
        )
        self.tracker.start = lambda: None

    async def _announce(self, group, event, member):
        if self.announce_fails:
            raise LayerUnavailable("the broker is away")
        self.announced.append((event, member and (member.user or member.client)))
        self.members.append(member)

    async def _hook(self, group, event, user):
        self.called.append((event, user))
        if self.hook is not None:
            await self.hook(event, user)

    async def add(self, client, user, mode=Presence.PER_USER, *, group="room", **more):
        await self.tracker.add(group, Member(client, user), mode, **more)
        await self.tracker.wait_idle()

    async def remove(self, client, group="room"):
        self.tracker.remove(group, client)
        await self.tracker.wait_idle()

    async def reap(self):
        await self.tracker.reap()
        await self.tracker.wait_idle()

    async def refresh_all(self):
        await self.tracker.refresh_all()
        await self.tracker.wait_idle()

    async def run_due(self):
        await self.tracker.run_due()
        await self.tracker.wait_idle()

    async def die(self):
        """End as a killed process does: without removing or announcing anything."""
        for pool in self.tracker._workers:
            await pool.stop()

    async def users(self):
        found = await self.tracker.members("room", Presence.PER_USER)
        return sorted(each.user or each.client for each in found.values())

    async def clients(self):
        return sorted(await self.tracker.members("room", Presence.PER_CONNECTION))


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def store(clock):
    return Store(clock=clock)


@pytest.fixture
async def make(store, clock):
    made = []

    def make(**options):
        made.append(Process(store, clock, **options))
        return made[-1]

    yield make
    store.away, store.gate = False, None
    for process in made:
        process.hook = None
        await process.tracker.close()


@pytest.fixture
def process(make):
    return make()


# Users and connections


async def test_a_user_joins_with_the_first_connection_and_leaves_with_the_last(
    process, clock
):
    await process.add("tab 1", "ada")
    await process.add("tab 2", "ada")
    await process.remove("tab 1")
    await process.remove("tab 2")
    await process.reap()
    assert process.announced == [("join", "ada")]

    clock.advance(15)
    await process.reap()

    assert process.announced == [("join", "ada"), ("leave", "ada")]
    assert process.called == [("joined", "ada"), ("left", "ada")]


async def test_a_connection_joins_and_leaves_at_once(process):
    await process.add("tab 1", "ada", Presence.PER_CONNECTION)
    await process.add("tab 2", "ada", Presence.PER_CONNECTION)
    await process.remove("tab 1")
    assert process.announced == [("join", "ada"), ("join", "ada"), ("leave", "ada")]
    assert process.called == [("joined", "ada")]

    await process.remove("tab 2")

    assert process.called == [("joined", "ada"), ("left", "ada")]


async def test_without_presence_nothing_is_stored_or_announced(process, store):
    await process.add("tab", "ada", Presence.OFF)
    await process.remove("tab")

    assert process.announced == []
    assert await process.tracker.members("room", Presence.OFF) == {}
    assert store.calls == []


async def test_a_user_who_reloads_does_not_leave(process, clock):
    await process.add("tab 0", "ada")

    for number in range(20):
        await process.remove(f"tab {number}")
        clock.advance(14)
        await process.reap()
        await process.add(f"tab {number + 1}", "ada")

    assert process.announced == [("join", "ada")]
    assert process.called == [("joined", "ada")]


async def test_the_grace_is_that_of_the_topic(process, clock):
    await process.add("tab", "ada", grace=2)
    await process.remove("tab")

    clock.advance(2)
    await process.reap()

    assert process.announced == [("join", "ada"), ("leave", "ada")]


async def test_a_user_who_moves_to_another_process_in_a_deploy_does_not_leave(
    make, clock
):
    old, new = make(), make()
    await old.add("tab 1", "ada")

    await old.tracker.close()
    clock.advance(10)
    await new.add("tab 2", "ada")
    clock.advance(10)
    await new.reap()

    assert old.announced == [("join", "ada")]
    assert new.announced == []


async def test_a_closing_tracker_removes_all_its_connections(process, store):
    for number in range(100):
        await process.add(f"tab {number}", "ada", Presence.PER_CONNECTION)

    await process.tracker.close()

    assert store._groups == {}
    assert process.announced.count(("leave", "ada")) == 100
    assert process.called == [("joined", "ada"), ("left", "ada")]


async def test_an_anonymous_connection_is_announced_without_a_hook_call(process):
    await process.add("tab 1", "")
    await process.add("tab 2", "")
    await process.remove("tab 1")

    assert process.announced == [
        ("join", "tab 1"),
        ("join", "tab 2"),
        ("leave", "tab 1"),
    ]
    assert process.called == []
    assert await process.users() == ["tab 2"]


async def test_a_connection_that_is_added_again_gets_a_new_presence_id(process):
    """Clients take the leave of a presence id as final."""
    for _ in range(3):
        await process.add("tab", "ada", Presence.PER_CONNECTION)
        await process.remove("tab")

    ids = [member.client for member in process.members]

    assert ids[0::2] == ids[1::2]
    assert ids[0] == "tab"
    assert len(set(ids)) == 3
    assert all(id_.startswith("tab") for id_ in ids)


async def test_adding_a_connection_twice_announces_one_join(process):
    await process.add("tab", "ada", Presence.PER_CONNECTION)
    await process.add("tab", "ada", Presence.PER_CONNECTION)

    assert process.announced == [("join", "ada")]


async def test_connections_and_users_of_a_group_are_counted(process):
    await process.add("tab 1", "ada")
    await process.add("tab 2", "ada")

    assert await process.tracker.stats("room") == PresenceStats(2, 1)


# Refreshes


async def test_entries_last_while_their_process_refreshes_them(process, clock):
    await process.add("tab", "ada")

    for _ in range(20):
        clock.advance(25)
        await process.refresh_all()
        await process.reap()

    assert await process.users() == ["ada"]
    assert process.announced == [("join", "ada")]


async def test_all_entries_are_refreshed_in_one_call(process, store):
    for number in range(50):
        await process.add(f"tab {number}", "ada", group=f"room{number % 5}")
    store.calls.clear()

    await process.refresh_all()

    assert store.calls == ["refresh"]


async def test_entries_that_the_store_lost_are_added_again(
    process, store, clock, caplog
):
    await process.add("tab 1", "ada")
    await process.add("tab 2", "bob", Presence.PER_CONNECTION)
    store.flush()
    clock.advance(25)
    before = metrics.PRESENCE_FORGOTTEN.value

    with caplog.at_level(logging.WARNING, "tiderace.topics"):
        await process.refresh_all()
    clock.advance(1)
    await process.run_due()

    assert await process.users() == ["ada", "bob"]
    assert (
        "the presence store had lost connections, which are added again: 2"
        in caplog.text
    )
    assert metrics.PRESENCE_FORGOTTEN.value == before + 2
    # They were there all the time.
    assert process.announced[2:] == [("changed", None)]
    assert process.called == [("joined", "ada"), ("joined", "bob")]
    assert await process.clients() == ["tab 1", "tab 2"]


async def test_a_connection_that_left_during_a_refresh_is_not_forgotten(process, store):
    await process.add("tab 1", "ada")
    before = metrics.PRESENCE_FORGOTTEN.value
    refresh = store.refresh

    async def leave_meanwhile(clients):
        await process.remove("tab 1")
        return await refresh(clients)

    store.refresh = leave_meanwhile
    await process.refresh_all()

    assert metrics.PRESENCE_FORGOTTEN.value == before
    assert await process.clients() == []


async def test_a_connection_that_was_reaped_is_added_again_under_a_new_id(make, clock):
    cut_off, other = make(), make()
    await cut_off.add("tab", "ada", Presence.PER_CONNECTION)
    clock.advance(60)
    await other.reap()
    assert other.announced == [("leave", "ada")]

    await cut_off.refresh_all()

    [id_] = await cut_off.clients()
    assert id_ != "tab"
    assert cut_off.announced[-1] == ("join", "ada")
    await cut_off.remove("tab")
    assert await cut_off.clients() == []


async def test_a_process_without_entries_reaps_rarely(process, clock):
    await process.reap()

    assert 10 <= process.tracker._schedule.reap_at - clock.now <= 11


async def test_refreshes_of_many_processes_are_spread(process, clock):
    times = set()
    for _ in range(10):
        await process.refresh_all()
        times.add(process.tracker._schedule.refresh_at - clock.now)

    assert len(times) == 10
    assert min(times) >= 20
    assert max(times) <= 25


# Processes that are killed


async def test_a_leave_of_a_killed_process_is_announced_by_another(make, clock):
    killed, other = make(), make()
    await killed.add("tab", "ada")
    await killed.die()

    clock.advance(60)
    await other.reap()
    assert other.announced == []
    clock.advance(15)
    await other.reap()

    assert other.announced == [("leave", "ada")]
    assert other.called == [("left", "ada")]
    assert await other.users() == []


async def test_only_one_process_announces_a_leave(make, clock):
    killed, *others = [make() for _ in range(4)]
    await killed.add("tab 1", "ada", grace=0)
    await killed.add("tab 2", "bob", Presence.PER_CONNECTION)
    await killed.die()
    clock.advance(60)

    await asyncio.gather(*(other.reap() for other in others))

    announced = [each for other in others for each in other.announced]
    assert sorted(announced) == [("leave", "ada"), ("leave", "bob")]


async def test_a_hook_whose_process_died_runs_in_another(make, clock):
    killed, other = make(), make()
    never = asyncio.Event()
    killed.hook = lambda event, user: never.wait()
    await killed.tracker.add("room", Member("tab", "ada"), Presence.PER_USER)
    await until(lambda: killed.called)
    await killed.die()

    await other.reap()
    assert other.called == []
    clock.advance(30)
    await other.reap()

    assert other.called == [("joined", "ada")]


async def test_a_process_without_entries_reaps_those_of_others(make, clock):
    killed, other = make(), make()
    await killed.add("tab", "ada", grace=0)
    await killed.die()
    clock.advance(60)

    await other.run_due()

    assert other.announced == [("leave", "ada")]


async def test_a_reap_is_scheduled_for_the_end_of_a_grace(process, clock):
    await process.reap()
    await process.add("tab", "ada", grace=5)
    await process.remove("tab")

    assert process.tracker._schedule.reap_at == clock.now + 5


# Hooks


async def test_a_hook_that_fails_is_logged_and_not_called_again(process, clock, caplog):
    async def fail(event, user):
        raise ValueError("no database")

    process.hook = fail
    await process.add("tab", "ada")
    clock.advance(31)
    await process.reap()

    assert process.called == [("joined", "ada")]
    assert "hook for user 'ada' having joined 'room' failed" in caplog.text
    assert "no database" in caplog.text


async def test_hooks_of_a_user_run_one_after_the_other(make):
    one, two = make(), make()
    done = asyncio.Event()
    one.hook = lambda event, user: done.wait()
    await one.tracker.add("room", Member("tab 1", "ada"), Presence.PER_USER, grace=0)
    await until(lambda: one.called)

    one.tracker.remove("room", "tab 1")
    await two.add("tab 2", "ada", grace=0)
    await two.remove("tab 2")
    await two.reap()
    assert one.called == [("joined", "ada")]
    assert two.called == []
    done.set()
    await one.tracker.wait_idle()

    assert one.called == [("joined", "ada"), ("left", "ada")]
    assert two.called == []


async def test_a_slow_hook_does_not_delay_announcements(process):
    done = asyncio.Event()
    process.hook = lambda event, user: done.wait()

    for number in range(20):
        member = Member(f"tab {number}", f"user {number}")
        await process.tracker.add("room", member, Presence.PER_USER)
    await until(lambda: len(process.announced) == 20 and len(process.called) >= 8)

    assert len(process.called) == 8
    done.set()
    await process.tracker.wait_idle()
    assert len(process.called) == 20


async def test_a_hook_that_goes_on_for_its_lease_is_cancelled_and_blocks_no_other(
    process, store, caplog
):
    store.config = PresenceConfig(lease=0.05)
    never = asyncio.Event()

    async def hook(event, user):
        if user.startswith("stuck"):
            await never.wait()

    process.hook = hook
    for name in (f"stuck {number}" for number in range(8)):
        await process.tracker.add("room", Member(name, name), Presence.PER_USER)
    await process.tracker.wait_idle()
    store.config = PresenceConfig()
    await process.add("tab", "ada")

    assert process.called[-1] == ("joined", "ada")
    assert caplog.text.count("goes on after 0.05 s, and is cancelled") == 8


async def test_a_hook_that_waited_too_long_is_left_to_other_processes(process, clock):
    """Else hooks that are late would run twice."""
    done = asyncio.Event()
    process.hook = lambda event, user: done.wait()
    for number in range(10):
        member = Member(f"tab {number}", f"user {number}")
        await process.tracker.add("room", member, Presence.PER_USER)
    await until(lambda: len(process.called) == 8)

    clock.advance(16)
    done.set()
    await process.tracker.wait_idle()
    assert len(process.called) == 8
    clock.advance(14)
    await process.reap()

    assert len(process.called) == 10


async def test_an_announcement_that_waited_too_long_is_left_to_other_processes(
    process, clock
):
    gate = asyncio.Event()
    announce = process.tracker._announcer._announce

    async def late(*args):
        await gate.wait()
        await announce(*args)

    process.tracker._announcer._announce = late
    for user in ("ada", "bob"):
        await process.tracker.add("room", Member(user, user), Presence.PER_USER)
    await asyncio.sleep(0)
    clock.advance(16)
    gate.set()
    await process.tracker.wait_idle()
    assert process.announced == [("join", "ada")]

    clock.advance(14)
    await process.reap()

    assert process.announced.count(("join", "bob")) == 1


async def test_a_hook_runs_again_when_its_event_could_not_be_confirmed(
    process, store, clock
):
    confirm = store.confirm

    async def fail(*args, **options):
        raise LayerUnavailable("it is away")

    store.confirm = fail
    await process.add("tab", "ada")
    store.confirm = confirm
    clock.advance(30)
    await process.reap()

    assert process.called == [("joined", "ada"), ("joined", "ada")]


async def test_a_tracker_without_a_hook_announces_to_clients(store, clock):
    announced = []

    async def announce(group, event, member):
        announced.append(event)

    tracker = PresenceTracker(store, announce, clock=clock)
    await tracker.add("room", Member("tab", "ada"), Presence.PER_USER, grace=0)
    tracker.remove("room", "tab")
    await tracker.close()

    assert announced == ["join", "leave"]
    assert store._groups == {}


# An unreachable store


async def test_adding_fails_while_the_store_is_unreachable(process, store):
    store.away = True

    with pytest.raises(LayerUnavailable):
        await process.add("tab", "ada")

    assert process.tracker._entries._entries == {}


async def test_a_connection_whose_add_was_cancelled_is_removed(process, store):
    store.gate = asyncio.Event()
    entering = asyncio.create_task(process.add("tab", "ada", grace=0))
    await until(lambda: store._groups)

    entering.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await entering
    await process.tracker.wait_idle()

    store.gate = None

    assert await process.clients() == []


async def test_connections_that_leave_while_the_store_is_unreachable_are_removed_later(
    process, store, caplog
):
    await process.add("tab 1", "ada", Presence.PER_CONNECTION)
    await process.add("tab 2", "bob", Presence.PER_CONNECTION)
    store.away = True

    with caplog.at_level(logging.INFO, "tiderace.topics"):
        await process.remove("tab 1")
        await process.remove("tab 2")
        await process.refresh_all()
        store.away = False
        await process.refresh_all()

    assert await process.clients() == []
    assert process.announced[2:] == [("leave", "ada"), ("leave", "bob")]
    assert [record.getMessage() for record in caplog.records] == [
        "the presence store is unavailable: the store is away",
        "the presence store is available again",
    ]


async def test_an_unreachable_store_is_not_called_for_every_leave(process, store):
    for number in range(10):
        await process.add(f"tab {number}", "ada")
    store.away = True
    await process.refresh_all()
    store.calls.clear()

    for number in range(10):
        await process.remove(f"tab {number}")

    assert store.calls == []


async def test_refresh_and_reap_are_retried_soon(process, store, clock):
    store.away = True

    await process.refresh_all()
    await process.reap()

    assert process.tracker._schedule.refresh_at - clock.now <= 1
    assert process.tracker._schedule.reap_at - clock.now <= 1


async def test_a_connection_that_leaves_during_its_add_is_removed_afterwards(
    process, store
):
    store.gate = asyncio.Event()
    entering = asyncio.create_task(process.add("tab", "ada", Presence.PER_CONNECTION))
    await until(lambda: store._groups)

    process.tracker.remove("room", "tab")
    store.gate.set()
    await entering

    assert await process.clients() == []
    assert process.announced == [("join", "ada"), ("leave", "ada")]


async def test_a_connection_that_leaves_while_it_is_added_again_is_removed_afterwards(
    process, store
):
    await process.add("tab", "ada", Presence.PER_CONNECTION)
    store.flush()
    store.gate = asyncio.Event()
    beating = asyncio.create_task(process.refresh_all())
    await until(lambda: store._groups)

    process.tracker.remove("room", "tab")
    store.gate.set()
    await beating

    assert await process.clients() == []


async def test_a_connection_that_leaves_while_adding_it_again_fails_is_removed_afterwards(
    process, store
):
    await process.add("tab", "ada", Presence.PER_CONNECTION)
    store.flush()
    entered = store.add

    async def lose_the_answer(*args, **options):
        await entered(*args, **options)
        process.tracker.remove("room", "tab")
        raise LayerUnavailable("it is away")

    store.add = lose_the_answer
    await process.refresh_all()
    await process.refresh_all()

    assert await process.clients() == []


async def test_a_connection_that_leaves_while_its_add_fails_is_removed_afterwards(
    process, store
):
    entered = store.add

    async def lose_the_answer(*args, **options):
        await entered(*args, **options)
        process.tracker.remove("room", "tab")
        raise LayerUnavailable("it is away")

    store.add = lose_the_answer
    with pytest.raises(LayerUnavailable):
        await process.add("tab", "ada", Presence.PER_CONNECTION)
    await process.tracker.wait_idle()

    assert await process.clients() == []


async def test_a_connection_that_has_left_is_not_added_again(
    process, store, monkeypatch
):
    monkeypatch.setattr(entries, "_ADDED_AT_ONCE", 1)
    await process.add("tab 1", "ada")
    await process.add("tab 2", "bob")
    store.flush()
    store.gate = asyncio.Event()
    beating = asyncio.create_task(process.refresh_all())
    await until(lambda: store._groups)

    process.tracker.remove("room", "tab 2")
    store.gate.set()
    await beating

    assert await process.users() == ["ada"]


async def test_a_connection_that_is_being_added_is_not_reported_missing(process, store):
    entered = store.add
    gate = asyncio.Event()

    async def late(*args, **options):
        await gate.wait()
        return await entered(*args, **options)

    store.add = late
    entering = asyncio.create_task(process.add("tab", "ada"))
    await until(lambda: process.tracker._entries._entries)

    await process.refresh_all()
    gate.set()
    await entering

    assert process.announced == [("join", "ada")]


async def test_a_connection_that_waits_for_its_removal_is_removed_once(process):
    for number in range(40):
        await process.add(f"tab {number}", "ada", Presence.PER_CONNECTION)

    for number in range(40):
        process.tracker.remove("room", f"tab {number}")
    await process.refresh_all()

    assert process.announced.count(("leave", "ada")) == 40


async def test_the_number_of_remembered_presence_ids_is_limited(process, monkeypatch):
    monkeypatch.setattr(entries, "_REMEMBERED_IDS", 2)

    for number in range(5):
        await process.add(f"tab {number}", "ada")
        await process.remove(f"tab {number}")

    assert list(process.tracker._entries._used_ids) == [
        ("room", "tab 3"),
        ("room", "tab 4"),
    ]


async def test_a_failed_add_is_retried_until_it_succeeds(process, store):
    await process.add("tab", "ada")
    store.flush()
    entered = store.add

    async def fail(*args, **options):
        raise LayerUnavailable("it is away")

    store.add = fail
    await process.refresh_all()
    assert await process.users() == []
    store.add = entered
    await process.refresh_all()

    assert await process.users() == ["ada"]


# Announcements


async def test_a_failed_announcement_is_followed_by_a_change(process, clock):
    process.announce_fails = True
    await process.add("tab", "ada", Presence.PER_CONNECTION)
    process.announce_fails = False

    clock.advance(1)
    await process.run_due()

    assert process.announced == [("changed", None)]


async def test_a_join_of_a_user_whose_announcement_failed_is_announced_later(
    process, clock
):
    process.announce_fails = True
    await process.add("tab", "ada")
    process.announce_fails = False
    assert process.called == []

    clock.advance(30)
    await process.reap()

    assert process.announced == [("join", "ada")]
    assert process.called == [("joined", "ada")]


async def test_an_error_in_announcing_is_logged_and_followed_by_a_change(
    process, clock, caplog
):
    process.tracker._announcer._announce = None

    await process.add("tab", "ada", Presence.PER_CONNECTION)

    assert "telling 'room' that there is a join failed" in caplog.text
    assert process.tracker._schedule.changes == {"room": clock.now + 1}


async def test_five_thousand_joins_cause_a_limited_number_of_pushes(process, clock):
    """Without a limit, 25 million pushes."""
    pushes = 0
    for number in range(5000):
        before = len(process.announced)
        await process.tracker.add(
            "room", Member(f"tab {number}", f"user {number}"), Presence.PER_USER
        )
        await process.tracker.wait_idle()
        pushes += (number + 1) * (len(process.announced) - before)
        if number % 1000 == 999:  # a thousand a second
            clock.advance(1)
            before = len(process.announced)
            await process.run_due()
            assert process.announced[before:] == [("changed", None)]
            pushes += number + 1

    assert pushes <= 5 * (10_000 + 5000)
    assert len(process.called) == 5000
    assert await process.tracker.stats("room") == PresenceStats(5000, 5000)


async def test_joins_beyond_the_limit_are_coalesced_into_one_change(
    process, store, clock
):
    store.config = PresenceConfig(pushes=1)
    before = metrics.PRESENCE_GATHERED.value
    for number in range(10):
        await process.add(f"tab {number}", f"user {number}")
    assert process.announced == [("join", "user 0")]

    clock.advance(1)
    await process.run_due()
    await process.run_due()

    assert metrics.PRESENCE_GATHERED.value == before + 1
    assert process.announced == [("join", "user 0"), ("changed", None)]


# Reads


async def test_callers_during_a_read_share_the_next_one(process, store):
    await process.add("tab", "ada")
    store.calls.clear()
    store.gate = asyncio.Event()

    async def ask():
        return await process.tracker.members("room", Presence.PER_USER)

    first = asyncio.create_task(ask())
    await until(lambda: store.calls)
    others = [asyncio.create_task(ask()) for _ in range(100)]
    await asyncio.sleep(0)
    store.gate.set()
    lists = await asyncio.gather(first, *others)

    assert store.calls == ["members", "members"]
    assert all(each is lists[1] for each in lists[1:])


async def test_members_are_read_after_the_call(process, store):
    await process.add("tab", "ada")
    store.gate = asyncio.Event()
    first = asyncio.create_task(process.users())
    await until(lambda: "members" in store.calls)
    await MemoryPresenceStore.add(
        store, "room", Member("tab 2", "bob"), per_user=True, grace=0
    )

    second = asyncio.create_task(process.users())
    await asyncio.sleep(0)
    store.gate.set()

    assert await first == ["ada"]
    assert await second == ["ada", "bob"]


async def test_a_cancelled_caller_does_not_cancel_the_read_of_others(process, store):
    await process.add("tab", "ada")
    store.gate = asyncio.Event()
    one = asyncio.create_task(process.users())
    other = asyncio.create_task(process.users())
    await until(lambda: "members" in store.calls)

    one.cancel()
    store.gate.set()

    assert await other == ["ada"]


async def test_closing_cancels_reads(process, store):
    await process.add("tab", "ada")
    store.gate = asyncio.Event()
    asking = [asyncio.create_task(process.users()) for _ in range(2)]
    await until(lambda: "members" in store.calls)
    asking.append(asyncio.create_task(process.users()))
    await asyncio.sleep(0)

    await process.tracker.close()

    assert all(
        isinstance(each, asyncio.CancelledError)
        for each in await asyncio.gather(*asking, return_exceptions=True)
    )


async def test_all_callers_get_the_error_of_an_unreachable_store(process, store):
    store.away = True

    results = await asyncio.gather(
        process.users(), process.users(), return_exceptions=True
    )

    assert [type(each) for each in results] == [LayerUnavailable] * 2


# The background task


@pytest.fixture
async def start(store):
    """Makes trackers with a background task, on a quick clock."""
    trackers = []
    store._clock = asyncio.get_running_loop().time
    store.config = PresenceConfig(ttl=0.4)

    def make(announce, **options):
        tracker = PresenceTracker(store, announce, refresh=0.05, **options)
        trackers.append(tracker)
        return tracker

    yield make
    store.away = False
    for tracker in trackers:
        await tracker.close()


def recording():
    """Return an ``announce`` function and a queue of its events."""
    received = asyncio.Queue()

    async def announce(group, event, member):
        received.put_nowait(event)

    return announce, received


async def test_a_running_tracker_refreshes_its_entries_and_reaps_those_of_a_killed_one(
    start, store
):
    quiet, _ = recording()
    announce, received = recording()
    living, killed = start(announce), start(quiet)
    await living.add("room", Member("tab 1", "ada"), Presence.PER_USER, grace=0)
    await killed.add("room", Member("tab 2", "bob"), Presence.PER_USER, grace=0)
    await killed._tasks.cancel()

    async with asyncio.timeout(PATIENCE):
        assert [await received.get(), await received.get()] == ["join", "leave"]

    [left] = (await store.members("room", per_user=True)).values()
    assert left.user == "ada"


async def test_a_running_tracker_announces_the_end_of_a_grace(start):
    announce, received = recording()
    tracker = start(announce)
    await tracker.add("room", Member("tab", "ada"), Presence.PER_USER, grace=0.05)

    tracker.remove("room", "tab")

    async with asyncio.timeout(PATIENCE):
        assert [await received.get(), await received.get()] == ["join", "leave"]


async def test_an_unexpected_error_does_not_stop_the_tracker(start, store, caplog):
    announce, received = recording()
    tracker = start(announce)
    refresh = store.refresh

    async def fail(*args, **options):
        store.refresh = refresh
        raise ZeroDivisionError

    store.refresh = fail
    await tracker.add("room", Member("tab", "ada"), Presence.PER_USER, grace=0.05)
    await until(lambda: store.refresh == refresh)
    tracker.remove("room", "tab")

    async with asyncio.timeout(PATIENCE):
        assert [await received.get(), await received.get()] == ["join", "leave"]
    assert "updating presence failed" in caplog.text


async def test_closing_waits_for_a_hook_only_until_its_timeout(start):
    announce, _ = recording()
    never = asyncio.Event()
    called = asyncio.Event()

    async def hook(group, event, user):
        called.set()
        await never.wait()

    tracker = start(announce, hook=hook)
    await tracker.add("room", Member("tab", "ada"), Presence.PER_USER)
    await called.wait()

    async with asyncio.timeout(PATIENCE):
        await tracker.close(timeout=0.01)

    assert not any(pool.busy for pool in tracker._workers)


async def test_a_closed_tracker_can_be_used_again(start):
    announce, received = recording()
    tracker = start(announce)
    await tracker.add("room", Member("tab", "ada"), Presence.PER_CONNECTION)
    await tracker.close()

    await tracker.add("room", Member("tab 2", "ada"), Presence.PER_CONNECTION)

    async with asyncio.timeout(PATIENCE):
        assert [await received.get() for _ in range(3)] == ["join", "leave", "join"]
