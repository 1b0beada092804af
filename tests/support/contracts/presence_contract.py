"""The contract of a presence store as tests, for each implementation."""

from __future__ import annotations

import asyncio
import time

import pytest
from msgspec.structs import replace

from tiderace.presence.store import (
    Member,
    PresenceConfig,
    PresenceStats,
    PresenceStore,
)

CLIENTS = {"c0": "ada", "c1": "ada", "c2": "ada", "c3": "bob", "c4": "bob", "c5": ""}
CONFIG = PresenceConfig(ttl=100, lease=100, pushes=0)
EXPIRED = replace(CONFIG, ttl=0)
LAPSED = replace(CONFIG, lease=0)

LONG = 1000.0
SHORT = 0.02


def configure(store: PresenceStore, config: PresenceConfig) -> None:
    """Give another configuration to a store, or to those behind a ShardedPresence."""
    for each in getattr(store, "_stores", [store]):
        each.config = config


class Fleet:
    """A store as several processes use it.

    Each verb takes the configuration of the process that calls it.
    """

    def __init__(self, store: PresenceStore) -> None:
        self.store = store
        configure(self.store, CONFIG)

    async def _call(self, method, *args, config, **options):
        configure(self.store, config)
        try:
            return await method(*args, **options)
        finally:
            configure(self.store, CONFIG)

    async def add(
        self,
        client,
        user="",
        *,
        grace=LONG,
        group="room",
        per_user=True,
        config=CONFIG,
        **options,
    ):
        member = Member(client, user, f'"{client}"')
        return await self._call(
            self.store.add,
            group,
            member,
            per_user=per_user,
            grace=grace,
            config=config,
            **options,
        )

    async def remove(self, client, *, group="room", config=CONFIG):
        return await self._call(self.store.remove, group, client, config=config)

    async def join(self, client, user, **options):
        """Add a connection, confirm what follows; return the presence id of the user."""
        found = await self.add(client, user, **options)
        await self.confirm(found)
        return next((each.member.client for each in found if each.claim), None)

    async def confirm(self, found):
        """Confirm these events and those that follow; return the latter."""
        more = []
        for event in found:
            if event.claim:
                after = await self.store.confirm(event)
                more += [*after, *await self.confirm(after)]
        return more

    async def refresh(self, clients, *, config=CONFIG):
        return await self._call(self.store.refresh, clients, config=config)

    async def expire(self, *clients, group="room"):
        """Let connections expire, as when their process does not refresh them."""
        assert await self.refresh({group: clients}, config=EXPIRED) == []

    async def reap(self, config=CONFIG):
        """Return all events that are due now."""
        found = []
        while True:
            result = await self._call(self.store.reap, 3, config=config)
            found += result.events
            if result.due_in is None or result.due_in > 0:
                return found

    async def users(self, group="room"):
        members = await self.store.members(group, per_user=True)
        assert all(id_ == member.client for id_, member in members.items())
        return sorted(member.user or member.client for member in members.values())

    async def clients(self, group="room"):
        members = await self.store.members(group, per_user=False)
        assert all(id_ == member.client for id_, member in members.items())
        return sorted(members)


def events(found):
    return [(each.kind, each.member.user, bool(each.claim)) for each in found]


async def within_a_second(crowd):
    """Return the result of ``crowd`` for a new group, from a try within a second."""
    for number in range(20):
        begun = time.monotonic()
        found = await crowd(f"crowd-{number}")
        if time.monotonic() - begun < 0.9:
            return found
    raise AssertionError("this machine is too busy to do it within a second")


JOINED = ("join", "ada", True)
LEFT = ("leave", "ada", True)


class PresenceContract:
    """Needs the fixtures ``store``; ``elapse``, which lets SHORT pass; and ``kept``,
    which returns what is stored."""

    @pytest.fixture
    def fleet(self, store):
        return Fleet(store)

    # Users

    async def test_the_first_connection_of_a_user_is_their_join(self, fleet):
        assert events(await fleet.add("tab 1", "ada")) == [JOINED]
        assert events(await fleet.add("tab 2", "ada")) == []
        assert events(await fleet.add("tab 3", "bob")) == [("join", "bob", True)]

    async def test_members_of_one_group_are_not_in_another(self, fleet):
        await fleet.join("tab", "ada", group="one")

        assert events(await fleet.add("tab", "ada", group="two")) == [JOINED]
        assert await fleet.users("one") == await fleet.users("two") == ["ada"]
        assert await fleet.users("three") == []

    async def test_without_a_grace_the_last_removal_of_a_user_is_their_leave(
        self, fleet
    ):
        await fleet.join("tab 1", "ada", grace=0)
        await fleet.join("tab 2", "ada", grace=0)

        assert events(await fleet.remove("tab 1")) == []
        assert await fleet.users() == ["ada"]
        assert events(await fleet.remove("tab 2")) == [LEFT]
        assert await fleet.users() == []

    async def test_a_user_who_returns_within_the_grace_causes_no_event(self, fleet):
        id_ = await fleet.join("tab 1", "ada")
        assert events(await fleet.remove("tab 1")) == []
        assert await fleet.users() == ["ada"]

        assert events(await fleet.add("tab 2", "ada")) == []
        assert events(await fleet.reap()) == []
        assert list(await fleet.store.members("room", per_user=True)) == [id_]

    async def test_a_user_leaves_when_the_grace_is_over(self, fleet, elapse):
        await fleet.join("tab", "ada", grace=SHORT)
        await fleet.remove("tab")

        await elapse()

        assert await fleet.users() == []
        assert events(await fleet.reap()) == [LEFT]
        assert await fleet.store.stats("room") == PresenceStats(0, 0)

    async def test_a_user_who_returns_before_the_reap_causes_no_event(
        self, fleet, elapse
    ):
        id_ = await fleet.join("tab", "ada", grace=SHORT)
        await fleet.remove("tab")
        await elapse()

        assert events(await fleet.add("tab 2", "ada")) == []
        assert events(await fleet.reap()) == []
        assert list(await fleet.store.members("room", per_user=True)) == [id_]

    async def test_a_presence_id_of_a_user_is_never_used_again(self, fleet):
        ids = [await fleet.join("tab", "ada", grace=0)]
        for _ in range(3):
            [left] = await fleet.remove("tab")
            assert left.member.client == ids[-1]
            await fleet.confirm([left])
            ids.append(await fleet.join("tab", "ada", grace=0))

        assert len(set(ids)) == 4

    async def test_a_user_has_the_info_of_their_first_connection(self, fleet):
        id_ = await fleet.join("tab 1", "ada")
        await fleet.add("tab 2", "ada")
        await fleet.remove("tab 1")

        members = await fleet.store.members("room", per_user=True)

        assert members == {id_: Member(id_, "ada", '"tab 1"')}

    async def test_names_and_info_are_returned_unchanged(self, fleet):
        member = Member("tab", "☃ ada:1 \n", '{"name": "☃ \\" \\u0000", "n": [1, 2.5]}')
        [joined] = await fleet.store.add("room", member, per_user=True, grace=0)
        assert joined.member == replace(member, client=joined.member.client)
        assert await fleet.store.members("room", per_user=False) == {"tab": member}

        await fleet.store.confirm(joined)
        [left] = await fleet.store.remove("room", "tab")

        assert left.member == joined.member

    async def test_info_is_none_without_any(self, fleet):
        await fleet.store.add("room", Member("tab", "ada"), per_user=True, grace=0)

        [user] = (await fleet.store.members("room", per_user=True)).values()
        [client] = (await fleet.store.members("room", per_user=False)).values()

        assert (user.info, client.info) == (None, None)

    # Connections

    async def test_every_connection_joins_and_leaves_at_once(self, fleet):
        entered = [
            *await fleet.add("tab 1", "ada", per_user=False, grace=0),
            *await fleet.add("tab 2", "ada", per_user=False, grace=0),
        ]
        await fleet.confirm(entered)
        left = [*await fleet.remove("tab 1"), *await fleet.remove("tab 2")]

        assert [
            (each.kind, each.member.client) for each in [*entered, *left] if each.push
        ] == [
            ("join", "tab 1"),
            ("join", "tab 2"),
            ("leave", "tab 1"),
            ("leave", "tab 2"),
        ]

    async def test_with_connections_as_members_claims_are_for_users(self, fleet):
        first = await fleet.add("tab 1", "ada", per_user=False, grace=0)
        await fleet.confirm(first)
        assert [(each.push, bool(each.claim)) for each in first] == [
            (True, False),
            (False, True),
        ]
        second = await fleet.add("tab 2", "ada", per_user=False, grace=0)
        assert [bool(each.claim) for each in second] == [False]

        await fleet.remove("tab 1")
        last = await fleet.remove("tab 2")

        assert [(each.kind, bool(each.claim)) for each in last] == [
            ("leave", False),
            ("leave", True),
        ]

    async def test_adding_a_connection_again_changes_nothing(self, fleet):
        await fleet.join("tab", "ada", per_user=False, grace=0)

        assert await fleet.add("tab", "ada", per_user=False, grace=0) == []
        assert await fleet.clients() == ["tab"]
        assert events(await fleet.remove("tab")) == [("leave", "ada", False), LEFT]
        assert await fleet.clients() == []

    @pytest.mark.parametrize("per_user", [True, False])
    async def test_a_connection_that_stayed_causes_no_join(self, fleet, per_user):
        found = await fleet.add("tab", "ada", per_user=per_user, grace=0, stayed=True)

        assert found == []
        assert await fleet.clients() == ["tab"]
        assert [event.kind for event in await fleet.remove("tab")][-1] == "leave"

    async def test_removing_an_unknown_connection_changes_nothing(self, fleet):
        await fleet.join("tab", "ada", grace=0)

        assert await fleet.remove("other") == []
        assert await fleet.remove("tab", group="other") == []
        assert await fleet.users() == ["ada"]

    async def test_each_anonymous_connection_is_a_user(self, fleet):
        await fleet.confirm(await fleet.add("tab 1"))
        await fleet.confirm(await fleet.add("tab 2"))
        assert await fleet.users() == ["tab 1", "tab 2"]
        assert await fleet.store.stats("room") == PresenceStats(2, 2)

        [left] = await fleet.remove("tab 1")  # whatever the grace

        assert (left.kind, left.member) == ("leave", Member("tab 1", "", '"tab 1"'))
        assert await fleet.users() == ["tab 2"]
        assert await fleet.confirm([left]) == []
        assert await fleet.reap() == []

    # Numbers

    async def test_connections_and_users_are_counted(self, fleet):
        await fleet.join("tab 1", "ada")
        await fleet.join("tab 2", "ada")
        await fleet.join("tab 3", "bob")
        await fleet.join("tab 4", "")

        assert await fleet.store.stats("room") == PresenceStats(clients=4, users=3)
        assert await fleet.store.stats("other") == PresenceStats(0, 0)

    async def test_a_user_within_the_grace_counts(self, fleet):
        await fleet.join("tab", "ada")
        await fleet.remove("tab")

        assert await fleet.store.stats("room") == PresenceStats(clients=0, users=1)

    # Processes that are killed

    async def test_a_connection_that_is_not_refreshed_is_not_listed(self, fleet):
        await fleet.join("tab 1", "ada", grace=0)
        await fleet.join("tab 2", "bob", grace=0)

        await fleet.expire("tab 1")

        assert await fleet.clients() == ["tab 2"]
        assert await fleet.users() == ["bob"]

    async def test_a_user_whose_connections_expired_is_listed_for_the_grace(
        self, fleet
    ):
        await fleet.join("tab 1", "ada")
        await fleet.expire("tab 1")
        assert await fleet.users() == ["ada"]

        await fleet.reap()

        assert await fleet.users() == ["ada"]

    async def test_a_user_with_another_connection_stays(self, fleet):
        await fleet.join("tab 1", "ada", grace=0)
        await fleet.join("tab 2", "ada", grace=0)
        await fleet.expire("tab 1")

        assert await fleet.users() == ["ada"]
        assert events(await fleet.reap()) == []
        assert await fleet.store.stats("room") == PresenceStats(1, 1)

    async def test_each_expired_connection_is_handed_to_one_caller(self, fleet):
        names = [f"tab {number}" for number in range(10)]
        for name in names:
            await fleet.join(name, name, per_user=False, grace=0)
        await fleet.expire(*names)

        reaped = await asyncio.gather(*(fleet.reap() for _ in range(4)))

        found = [event for some in reaped for event in some]
        told = [each.member.client for each in found if each.push]
        assert sorted(told) == sorted(names)
        left = [each.member.user for each in found if each.claim]
        assert sorted(left) == sorted(names)

    async def test_expired_connections_of_all_groups_are_reaped(self, fleet):
        for group in ("one", "two", "three"):
            await fleet.join("tab", "ada", grace=0, group=group)
            await fleet.expire("tab", group=group)

        found = await fleet.reap()

        assert sorted(each.group for each in found) == ["one", "three", "two"]

    async def test_an_expired_connection_that_is_refreshed_before_the_reap_stays(
        self, fleet
    ):
        await fleet.join("tab", "ada", grace=0)
        await fleet.expire("tab")

        assert await fleet.store.refresh({"room": ["tab"]}) == []
        assert await fleet.reap() == []
        assert await fleet.users() == ["ada"]

    async def test_a_refresh_returns_the_missing_connections(self, fleet):
        await fleet.join("tab 1", "ada")
        await fleet.join("tab 2", "ada")
        await fleet.join("tab 3", "ada", group="other")
        await fleet.expire("tab 1")
        await fleet.reap()

        forgotten = await fleet.store.refresh(
            {"room": ["tab 1", "tab 2"], "other": ["tab 3", "tab 4"], "none": ["tab"]}
        )

        assert sorted(forgotten) == [
            ("none", "tab"),
            ("other", "tab 4"),
            ("room", "tab 1"),
        ]

    async def test_refreshing_an_unknown_connection_keeps_the_grace_of_its_user(
        self, fleet
    ):
        await fleet.join("tab", "ada")
        await fleet.remove("tab")

        assert await fleet.store.refresh({"room": ["tab"]}) == [("room", "tab")]

        assert await fleet.users() == ["ada"]

    async def test_a_refresh_of_no_connections_returns_nothing(self, fleet):
        assert await fleet.store.refresh({}) == []
        assert await fleet.store.refresh({"room": []}) == []

    async def test_thousands_of_connections_are_refreshed_in_one_call(self, fleet):
        crowd = {f"room{n}": [f"tab {m}" for m in range(30)] for n in range(70)}
        crowd["room0"] = [f"tab {m}" for m in range(2300)]
        for group, clients in crowd.items():
            for client in clients[:2]:
                await fleet.add(client, "ada", group=group)

        forgotten = await fleet.store.refresh(crowd)

        assert sorted(forgotten) == sorted(
            (group, client)
            for group, clients in crowd.items()
            for client in clients[2:]
        )

    async def test_a_reap_returns_when_something_is_due(self, fleet):
        assert (await fleet.store.reap(10)).due_in is None

        await fleet.join("tab", "ada")

        due_in = (await fleet.store.reap(10)).due_in
        assert due_in is not None
        assert 90 < due_in <= 100

    async def test_the_end_of_a_grace_is_due(self, fleet):
        await fleet.join("tab", "ada", grace=50)
        await fleet.remove("tab")

        due_in = (await fleet.store.reap(10)).due_in

        assert due_in is not None
        assert 40 < due_in <= 50

    # Confirmations

    async def test_a_claim_that_is_not_confirmed_is_handed_out_again(self, fleet):
        [joined] = await fleet.add("tab", "ada", config=LAPSED)

        [again] = await fleet.reap()

        assert again == replace(joined, claim=again.claim)
        assert again.claim != joined.claim
        assert await fleet.reap() == []

    async def test_a_claim_is_not_handed_out_twice(self, fleet):
        await fleet.add("tab", "ada")

        assert await fleet.reap() == []

    async def test_a_late_confirmation_has_no_effect(self, fleet):
        [joined] = await fleet.add("tab", "ada", grace=0, config=LAPSED)
        [again] = await fleet.reap()
        await fleet.remove("tab")

        assert await fleet.store.confirm(joined) == []
        assert events(await fleet.store.confirm(again)) == [LEFT]

    async def test_a_leave_waits_until_the_join_is_confirmed(self, fleet):
        [joined] = await fleet.add("tab", "ada", grace=0)

        assert await fleet.remove("tab") == []
        assert await fleet.users() == []
        [left] = await fleet.store.confirm(joined)

        assert events([left]) == [LEFT]
        assert left.member == joined.member
        assert await fleet.confirm([left]) == []

    async def test_a_join_waits_until_the_leave_before_it_is_confirmed(self, fleet):
        first = await fleet.join("tab", "ada", grace=0)
        [left] = await fleet.remove("tab")

        assert await fleet.add("tab 2", "ada", grace=0) == []
        [second] = await fleet.store.members("room", per_user=True)
        [joined] = await fleet.store.confirm(left)

        assert events([joined]) == [JOINED]
        assert joined.member.client == second != first

    async def test_a_user_who_returns_before_the_join_is_confirmed_keeps_the_id(
        self, fleet
    ):
        [joined] = await fleet.add("tab", "ada", grace=0)
        await fleet.remove("tab")

        await fleet.add("tab 2", "ada", grace=0)

        assert list(await fleet.store.members("room", per_user=True)) == [
            joined.member.client
        ]
        assert await fleet.store.confirm(joined) == []

    async def test_a_claim_is_confirmed_once(self, fleet):
        [joined] = await fleet.add("tab", "ada", grace=0)
        await fleet.remove("tab")
        [left] = await fleet.store.confirm(joined)

        assert await fleet.store.confirm(joined) == []
        assert await fleet.store.confirm(left) == []

    # Limits of pushes

    async def test_pushes_beyond_the_limit_are_coalesced(self, fleet):
        config = replace(CONFIG, pushes=10)

        async def crowd(group):
            return [
                event
                for number in range(8)
                for event in await fleet.add(
                    f"tab {number}", f"{number}", group=group, config=config
                )
            ]

        found = await within_a_second(crowd)

        # The first joins cost 1 + 2 + 3 + 4 pushes.
        assert [each.push for each in found] == [True] * 4 + [False] * 4
        assert all(each.claim for each in found)
        [later] = [each.changed_in for each in found if each.changed_in is not None]
        assert 0 < later <= 1

    async def test_leaves_count_as_pushes(self, fleet):
        config = replace(CONFIG, pushes=4)

        async def crowd(group):
            for number in range(4):
                await fleet.join(f"tab {number}", "", group=group)
            return [
                event
                for number in range(3)
                for event in await fleet.remove(
                    f"tab {number}", group=group, config=config
                )
            ]

        found = await within_a_second(crowd)

        # They cost 3, 2 and 1 pushes.
        assert [each.push for each in found] == [True, False, True]

    async def test_a_group_too_big_for_one_push_gets_changes_at_the_limit(self, fleet):
        for number in range(6):
            await fleet.join(f"tab {number}", "ada")

        [joined] = await fleet.add("tab", "bob", config=replace(CONFIG, pushes=2))

        assert not joined.push
        assert joined.changed_in == pytest.approx(3.5, abs=0.5)

    async def test_each_group_has_its_own_limit_of_pushes(self, fleet):
        config = replace(CONFIG, pushes=1)
        for group in ("one", "two"):
            [event] = await fleet.add("tab", "ada", group=group, config=config)
            assert event.push

    # Nothing stays behind

    async def test_nothing_is_stored_of_removed_connections(self, fleet, kept):
        for number in range(5):
            await fleet.join(f"tab {number}", f"{number % 2}", grace=0)
        await fleet.join("last", "", per_user=False)
        await fleet.expire("tab 0")
        for number in range(1, 5):
            await fleet.confirm(await fleet.remove(f"tab {number}"))
        await fleet.confirm(await fleet.remove("last"))
        await fleet.confirm(await fleet.reap())

        assert kept() == []

    async def test_concurrent_adds_of_a_user_cause_one_join(self, fleet):
        found = await asyncio.gather(
            *(fleet.add(f"tab {number}", "ada") for number in range(20))
        )

        assert events(event for some in found for event in some) == [JOINED]
        assert await fleet.store.stats("room") == PresenceStats(20, 1)
