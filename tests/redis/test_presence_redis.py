"""The store of presence over real servers: the contract, and what is its own."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from test_presence_races import CLIENTS
from test_presence_store import (
    EXPIRED,
    LAPSED,
    LONG,
    RULES,
    SHORT,
    PresenceContract,
)
from tiderace.layers.presence import Member
from tiderace.layers.presence_memory import MemoryPresenceStore
from tiderace.layers.redis import RedisChannelLayer


@pytest.fixture
async def make_layer(host, prefix):
    made = []

    def make(hosts=None, **options):
        layer = RedisChannelLayer(hosts=hosts or [host], prefix=prefix, **options)
        made.append(layer)
        return layer

    yield make
    for layer in made:
        await layer.close()


class RedisPresenceContract(PresenceContract):
    @pytest.fixture
    def store(self, make_layer):
        return make_layer().presence

    @pytest.fixture
    def elapse(self):
        async def elapse():
            await asyncio.sleep(SHORT)

        return elapse


class TestStandalone(RedisPresenceContract):
    @pytest.fixture
    def host(self, redis_url):
        return redis_url

    @pytest.fixture
    def kept(self, shared_server, prefix):
        if shared_server is None:
            pytest.skip("needs a server of the suite's own")
        return lambda: sorted(
            key
            for key in shared_server
            if key.startswith(prefix)
        )


class TestCluster(RedisPresenceContract):
    @pytest.fixture
    def host(self, cluster):
        return cluster.host

    @pytest.fixture
    def kept(self, cluster, prefix):
        return lambda: sorted(
            key
            for node in cluster.nodes
            for key in node.keys()  # noqa: SIM118
            if prefix in key
        )


# The same as in memory

leases = st.sampled_from([RULES, LAPSED])
clients = st.sampled_from(sorted(CLIENTS))
steps = st.one_of(
    st.tuples(st.just("enter"), clients, st.sampled_from([0.0, LONG]), leases),
    st.tuples(st.just("leave"), clients, leases),
    st.tuples(st.just("renew"), clients, st.sampled_from([RULES, EXPIRED])),
    st.tuples(st.just("reap")),
    st.tuples(st.just("confirm"), st.integers(0, 5), leases),
    st.tuples(st.just("confirm"), st.integers(0, 5), leases),
)


class Side:
    """One of two stores to which the same happens."""

    def __init__(self, store, group):
        self.store = store
        self.group = group
        self.held = []

    async def do(self, step, *, per_user):
        """What follows, without what two stores cannot have in common."""
        match step:
            case ("enter", client, grace, rules):
                member = Member(client, CLIENTS[client])
                found = await self.store.enter(
                    self.group, member, per_user=per_user, grace=grace, rules=rules
                )
            case ("leave", client, rules):
                found = await self.store.leave(self.group, client, rules=rules)
            case ("renew", client, rules):
                lost = await self.store.renew({self.group: [client]}, rules=rules)
                return len(lost)
            case ("reap",):
                found, again = [], 0.0
                while again is not None and again <= 0:
                    reaped = await self.store.reap(2, rules=RULES)
                    found += reaped.notices
                    again = reaped.again
            case ("confirm", place, rules):
                if not self.held:
                    return []
                notice = self.held[place % len(self.held)]
                found = await self.store.confirm(notice, rules=rules)
        found.sort(key=lambda each: (each.member.user, each.event, bool(each.claim)))
        self.held += [each for each in found if each.claim]
        return [
            (each.event, each.member.user, each.push, bool(each.claim))
            for each in found
        ]

    async def state(self):
        users = await self.store.members(self.group, per_user=True)
        rows = await self.store.members(self.group, per_user=False)
        return (
            sorted(each.user or each.client for each in users.values()),
            sorted(rows),
            await self.store.stats(self.group),
        )


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(played=st.lists(steps, max_size=25), per_user=st.booleans())
def test_the_scripts_do_what_the_store_in_memory_does(
    redis_url, prefix, played, per_user
):
    async def play():
        layer = RedisChannelLayer(hosts=[redis_url], prefix=prefix)
        await layer.flush()
        group = uuid.uuid4().hex
        sides = [
            Side(MemoryPresenceStore(clock=lambda: 1000.0), group),
            Side(layer.presence, group),
        ]
        try:
            for step in played:
                here, there = [await side.do(step, per_user=per_user) for side in sides]
                assert here == there, step
                here, there = [await side.state() for side in sides]
                assert here == there, step
        finally:
            await layer.close()

    asyncio.run(play())
