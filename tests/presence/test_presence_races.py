"""Random sequences of calls: the events about users, and the member list.

Hypothesis generates the calls of several processes to one group, claims that are never
confirmed included; a model computes the list, and a ledger checks the events.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from support.contracts.presence_contract import CLIENTS
from tiderace.presence.memory import MemoryPresenceStore
from tiderace.presence.store import Member, PresenceConfig, PresenceEvent

TTL, LEASE = 60.0, 30.0

clients = st.sampled_from(sorted(CLIENTS))
steps = st.one_of(
    st.tuples(st.just("add"), clients, st.sampled_from([0.0, 5.0, 20.0])),
    st.tuples(st.just("remove"), clients),
    st.tuples(st.just("refresh"), clients),
    st.tuples(st.just("reap")),
    # An index into all claims of all processes, lapsed ones included.
    st.tuples(st.just("confirm"), st.integers(0, 5)),
    st.tuples(st.just("confirm"), st.integers(0, 5)),
    st.tuples(st.just("pass"), st.sampled_from([1.0, 5.0, 31.0, 61.0])),
)


@dataclass
class Ledger:
    """The events about users; checks that their order is valid."""

    held: list[PresenceEvent] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    last: dict[str, tuple[str, str]] = field(default_factory=dict)
    confirmed: dict[str, bool] = field(default_factory=dict)

    def take(self, found: list[PresenceEvent]) -> None:
        for event in found:
            if not event.claim:
                continue
            who = event.member.user or event.member.client
            kind, id_ = event.kind, event.member.client
            before, before_id = self.last.get(who, ("leave", ""))
            if (kind, id_) == (before, before_id):
                assert not self.confirmed[who], (
                    "handed out again after its confirmation"
                )
            else:
                assert self.confirmed.get(who, True), (
                    "handed out before the confirmation of the last event"
                )
                assert kind != before, f"two events {kind} in a row"
                if kind == "leave":
                    assert id_ == before_id, "left under another id than they joined"
                elif event.member.user:
                    assert id_ not in self.ids, "an id was used again"
                    self.ids.add(id_)
            self.last[who] = kind, id_
            self.confirmed[who] = False
            self.held.append(event)

    async def confirm(self, store, event: PresenceEvent) -> None:
        who = event.member.user or event.member.client
        newest = [
            held.claim
            for held in self.held
            if (held.member.user or held.member.client) == who
        ][-1]
        if newest == event.claim:
            self.confirmed[who] = True
        self.take(await store.confirm(event))


@dataclass
class Model:
    """The expected members."""

    rows: dict[str, tuple[float, float]] = field(default_factory=dict)
    gone: dict[str, float] = field(default_factory=dict)

    def who(self, client: str) -> str:
        return CLIENTS[client] or client

    def add(self, client: str, grace: float, now: float) -> None:
        grace = grace if CLIENTS[client] else 0.0
        if client in self.rows:
            grace = self.rows[client][1]
        self.rows[client] = now + TTL, grace
        self.gone.pop(self.who(client), None)

    def remove(self, client: str, now: float) -> None:
        row = self.rows.pop(client, None)
        if row and not any(self.who(each) == self.who(client) for each in self.rows):
            self.gone[self.who(client)] = now + row[1]

    def reap(self, now: float) -> None:
        for client in [
            key for key, (deadline, _) in self.rows.items() if deadline <= now
        ]:
            self.remove(client, now)

    def users(self, now: float) -> list[str]:
        there = {
            self.who(client)
            for client, (deadline, grace) in self.rows.items()
            if deadline + grace > now
        }
        return sorted(there | {who for who, end in self.gone.items() if end > now})

    def clients(self, now: float) -> list[str]:
        return sorted(client for client, row in self.rows.items() if row[0] > now)


async def play(played, *, per_user: bool) -> None:
    now = 1000.0
    config = PresenceConfig(ttl=TTL, lease=LEASE, pushes=0)
    store = MemoryPresenceStore(config, clock=lambda: now)
    ledger, model = Ledger(), Model()

    async def reap() -> None:
        while True:
            reaped = await store.reap(2)
            ledger.take(reaped.events)
            if reaped.due_in is None or reaped.due_in > 0:
                return

    for step in played:
        match step:
            case ("add", client, grace):
                member = Member(client, CLIENTS[client])
                ledger.take(
                    await store.add("room", member, per_user=per_user, grace=grace)
                )
                model.add(client, grace, now)
            case ("remove", client):
                ledger.take(await store.remove("room", client))
                model.remove(client, now)
            case ("refresh", client):
                forgotten = await store.refresh({"room": [client]})
                assert bool(forgotten) == (client not in model.rows)
                if not forgotten:
                    model.rows[client] = now + TTL, model.rows[client][1]
            case ("reap",):
                await reap()
                model.reap(now)
            case ("confirm", place) if ledger.held:
                event = ledger.held[place % len(ledger.held)]
                await ledger.confirm(store, event)
            case ("pass", seconds):
                now += seconds
        shown = await store.members("room", per_user=True)
        assert sorted(
            each.user or each.client for each in shown.values()
        ) == model.users(now)
        assert sorted(await store.members("room", per_user=False)) == model.clients(now)

    # All connections expire and are reaped.
    for _ in range(4 * len(CLIENTS)):
        now += TTL + LEASE
        await reap()
        for event in list(ledger.held):
            await ledger.confirm(store, event)
    assert {kind for kind, _ in ledger.last.values()} <= {"leave"}
    assert all(ledger.confirmed.values())
    assert store._groups == {}
    assert (await store.reap(1)).due_in is None


@settings(deadline=None, max_examples=300)
@given(st.lists(steps, max_size=40))
def test_user_events_are_in_order_and_the_member_list_is_correct(played):
    asyncio.run(play(played, per_user=True))


@settings(deadline=None, max_examples=100)
@given(st.lists(steps, max_size=40))
def test_events_of_connections_are_in_order_and_the_member_list_is_correct(played):
    asyncio.run(play(played, per_user=False))
