"""The presence store in Redis, over real servers: the contract, and its own tests."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from random import Random

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from support.contracts.presence_contract import (
    CLIENTS,
    CONFIG,
    EXPIRED,
    JOINED,
    LAPSED,
    LEFT,
    LONG,
    SHORT,
    Fleet,
    PresenceContract,
    configure,
    events,
)
from support.waiting import until
from tiderace.exceptions import LayerUnavailable
from tiderace.layers.redis import RedisChannelLayer
from tiderace.layers.redis.presence import RedisPresenceStore
from tiderace.presence.memory import MemoryPresenceStore
from tiderace.presence.store import Member, PresenceConfig, PresenceStats
from tiderace.presence.tracker import Presence, PresenceTracker


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
        mine = f"{prefix}:*"
        return lambda: sorted(shared_server.call("KEYS", mine))


class TestCluster(RedisPresenceContract):
    @pytest.fixture
    def host(self, cluster):
        return cluster.host

    @pytest.fixture
    def kept(self, cluster, prefix):
        mine = f"*{prefix}:*"
        return lambda: [
            key for node in cluster.nodes for key in node.call("KEYS", mine)
        ]

    async def test_groups_are_spread_over_the_nodes(self, fleet, cluster):
        for number in range(60):
            await fleet.join("tab", "ada", group=f"room{number}")

        assert all(node.call("DBSIZE") for node in cluster.nodes)


# Compared with the store in memory

leases = st.sampled_from([CONFIG, LAPSED])
clients = st.sampled_from(sorted(CLIENTS))
steps = st.one_of(
    st.tuples(st.just("add"), clients, st.sampled_from([0.0, LONG]), leases),
    st.tuples(st.just("remove"), clients, leases),
    st.tuples(st.just("refresh"), clients, st.sampled_from([CONFIG, EXPIRED])),
    st.tuples(st.just("reap")),
    st.tuples(st.just("confirm"), st.integers(0, 5), leases),
    st.tuples(st.just("confirm"), st.integers(0, 5), leases),
)


class Side:
    """One of two stores that get the same calls."""

    def __init__(self, store, group):
        self.store = store
        self.group = group
        self.held = []

    async def do(self, step, *, per_user):
        """Return the events, without ids and tokens, which differ between stores."""
        match step:
            case ("add", client, grace, config):
                configure(self.store, config)
                member = Member(client, CLIENTS[client])
                found = await self.store.add(
                    self.group, member, per_user=per_user, grace=grace
                )
            case ("remove", client, config):
                configure(self.store, config)
                found = await self.store.remove(self.group, client)
            case ("refresh", client, config):
                configure(self.store, config)
                lost = await self.store.refresh({self.group: [client]})
                return len(lost)
            case ("reap",):
                configure(self.store, CONFIG)
                found, due_in = [], 0.0
                while due_in is not None and due_in <= 0:
                    more, due_in = await self.store.reap(2)
                    found += more
            case ("confirm", place, config):
                if not self.held:
                    return []
                configure(self.store, config)
                event = self.held[place % len(self.held)]
                found = await self.store.confirm(event)
        found.sort(key=lambda each: (each.member.user, each.kind, bool(each.claim)))
        self.held += [each for each in found if each.claim]
        return [
            (each.kind, each.member.user, each.push, bool(each.claim)) for each in found
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
def test_the_redis_store_behaves_like_the_memory_store(
    redis_url, prefix, played, per_user
):
    async def play():
        layer = RedisChannelLayer(hosts=[redis_url], prefix=prefix)
        await layer.flush()
        group = uuid.uuid4().hex
        sides = [
            Side(MemoryPresenceStore(CONFIG, clock=lambda: 1000.0), group),
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


# Its own


@pytest.fixture
def host(redis_url):
    return redis_url


@pytest.fixture
def fleet(make_layer):
    return Fleet(make_layer().presence)


async def test_every_key_expires_by_itself(fleet, own_server, prefix):
    layer = RedisChannelLayer(hosts=[own_server.url], prefix=prefix)
    fleet = Fleet(layer.presence)
    config = replace(CONFIG, pushes=10)
    await fleet.join("tab 1", "ada", config=config)
    await fleet.add("tab 2", "bob", config=config)
    await fleet.remove("tab 1")
    await fleet.store.refresh({"room": ["tab 2"]})

    keys = own_server.keys()

    assert keys == {
        f"{prefix}:presence:{name}"
        for name in (
            "due",
            "room:rows",
            "room:deadlines",
            "room:users",
            "room:claims",
            "room:turns",
            "room:pace",
        )
    }
    left = {key: own_server.call("PTTL", key) for key in keys}
    assert 0 < left.pop(f"{prefix}:presence:room:pace") <= 1000
    assert all(86_300_000 < each <= 86_400_000 for each in left.values())
    await layer.close()


def repeated(times, layer):
    """Return a store that runs each script several times, as over lost connections."""
    [broker] = layer._brokers

    async def run_script(name, **values):
        for _ in range(times):
            reply = await broker.commands.run_script(name, **values)
        return reply

    return Fleet(RedisPresenceStore(CONFIG, run_script, layer.prefix, cluster=False))


async def test_a_join_whose_reply_was_lost_is_returned_again(make_layer):
    fleet = repeated(3, make_layer())

    assert events(await fleet.add("tab 1", "ada")) == [JOINED]
    found = await fleet.add("tab 2", "bob", per_user=False)

    assert [(each.push, bool(each.claim)) for each in found] == [
        (True, False),
        (False, True),
    ]
    assert await fleet.store.stats("room") == PresenceStats(2, 2)


async def test_the_event_after_a_confirmation_whose_reply_was_lost_is_returned_again(
    make_layer,
):
    fleet = repeated(3, make_layer())
    joined = await fleet.add("tab", "ada", grace=0)
    await fleet.remove("tab")

    [left] = await fleet.store.confirm(joined[0])

    assert events([left]) == [LEFT]
    assert await fleet.store.confirm(left) == []
    assert await fleet.reap() == []


async def test_events_reaped_before_the_broker_became_unreachable_are_returned(
    make_layer,
):
    layer = make_layer()
    fleet = Fleet(layer.presence)
    for group in ("one", "two"):
        await fleet.join("tab", "ada", grace=0, group=group)
        await fleet.expire("tab", group=group)
    [broker] = layer._brokers
    reaped = []

    async def run_script(name, **values):
        if name == "presence/reap":
            if reaped:
                raise LayerUnavailable("it is away")
            reaped.append(name)
        return await broker.commands.run_script(name, **values)

    store = RedisPresenceStore(CONFIG, run_script, layer.prefix, cluster=False)

    found, due_in = await store.reap(10)

    assert events(found) == [LEFT]
    assert due_in == 0
    with pytest.raises(LayerUnavailable):
        await store.reap(10)


async def test_groups_are_distributed_over_several_hosts(own_server, make_layer, host):
    layer = make_layer([host, own_server.url])
    fleet = Fleet(layer.presence)
    groups = [f"room{number}" for number in range(40)]
    for group in groups:
        await fleet.join("tab", "ada", grace=0, group=group)
        assert await fleet.users(group) == ["ada"]

    there = {key.split(":")[2] for key in own_server.keys()} - {"due"}  # noqa: SIM118
    assert there == {group for group in groups if layer.consistent_hash(group) == 1}
    assert there

    assert await fleet.refresh({each: ["tab"] for each in groups}, config=EXPIRED) == []
    assert sorted(each.group for each in await fleet.reap()) == sorted(groups)


@pytest.mark.parametrize("lost", ["rows", "deadlines", "users"])
async def test_connections_in_evicted_keys_are_reported_missing(
    own_server, make_layer, prefix, lost
):
    fleet = Fleet(make_layer([own_server.url]).presence)
    await fleet.join("tab 1", "ada", grace=0)
    await fleet.join("tab 2", "ada", grace=0)
    own_server.call("DEL", f"{prefix}:presence:room:{lost}")

    forgotten = await fleet.store.refresh({"room": ["tab 1", "tab 2"]})
    assert sorted(forgotten) == [("room", "tab 1"), ("room", "tab 2")]
    for _, client in forgotten:
        await fleet.join(client, "ada", grace=0)

    assert await fleet.clients() == ["tab 1", "tab 2"]
    assert await fleet.users() == ["ada"]
    await fleet.remove("tab 1")
    assert await fleet.users() == ["ada"]
    assert events(await fleet.remove("tab 2")) == [LEFT]


async def test_members_can_be_read_after_a_key_was_evicted(
    own_server, make_layer, prefix
):
    fleet = Fleet(make_layer([own_server.url]).presence)
    await fleet.add("tab", "ada", grace=0, config=EXPIRED)
    own_server.call("DEL", f"{prefix}:presence:room:rows")

    assert await fleet.clients() == []
    assert await fleet.users() == ["ada"]


async def test_a_reap_with_nothing_due_sends_one_command(own_server, make_layer):
    fleet = Fleet(make_layer([own_server.url]).presence)
    for number in range(20):
        await fleet.join("tab", "ada", group=f"room{number}")

    def asked():
        return own_server.call("INFO", "commandstats")["cmdstat_evalsha"]["calls"]

    before = asked()

    assert await fleet.reap() == []
    assert asked() == before + 1


async def test_pushes_of_racing_processes_add_up_to_the_member_list(make_layer):
    """A client that applies joins and leaves to the list gets the final list."""
    fleets = [Fleet(make_layer().presence) for _ in range(3)]
    random = Random(7)
    announced = []

    async def visit(number):
        fleet, user = random.choice(fleets), f"user {number % 5}"
        for again in range(4):
            client = f"tab {number} {again}"
            await tell(fleet, await fleet.add(client, user, grace=0))
            if again < 3 or number % 2:
                await tell(fleet, await fleet.remove(client))
            if random.random() < 0.3:
                await tell(fleet, await fleet.reap())

    async def tell(fleet, found):
        for event in found:
            announced.append((event.kind, event.member.client))
            await tell(fleet, await fleet.store.confirm(event))

    await asyncio.gather(*(visit(number) for number in range(30)))

    joined = {id_ for event, id_ in announced if event == "join"}
    left = {id_ for event, id_ in announced if event == "leave"}
    assert joined - left == set(await fleets[0].store.members("room", per_user=True))
    assert len(announced) == len(set(announced))
    assert left <= joined
    assert await fleets[0].users() == [f"user {number}" for number in range(5)]


async def test_info_is_encrypted_where_the_layer_is(make_layer, redis_url, prefix):
    store = make_layer(symmetric_encryption_keys=["k"]).presence
    member = Member("tab", "ada", '{"name": "Ada Lovelace"}')

    event, *_ = await store.add("room", member, per_user=False, grace=0)

    assert event.member == member
    assert await store.members("room", per_user=False) == {"tab": member}
    [user] = (await store.members("room", per_user=True)).values()
    assert user.info == member.info
    assert (await store.remove("room", "tab"))[0].member == member
    await store.add("room", member, per_user=False, grace=0)
    client = redis.Redis.from_url(redis_url)
    stored = [client.dump(key) for key in client.keys(f"{prefix}:presence:*")]
    assert stored
    assert not any(b"Lovelace" in each for each in stored)


async def test_info_encrypted_with_a_removed_key_is_left_out(make_layer):
    one, two = (make_layer(symmetric_encryption_keys=[key]).presence for key in "ab")
    await one.add("room", Member("tab", "ada", '"x"'), per_user=False, grace=0)

    assert await two.members("room", per_user=False) == {"tab": Member("tab", "ada")}


# Processes


class Process:
    """A tracker over a layer of its own, and what it has announced."""

    def __init__(self, layer, config=PresenceConfig(), **options):  # noqa: B008
        self.layer = layer
        self.announced = []
        self.called = []
        configure(layer.presence, config)
        self.tracker = PresenceTracker(
            layer.presence, self._announce, self._hook, **options
        )

    async def _announce(self, group, event, member):
        self.announced.append((event, member and member.user))

    async def _hook(self, group, event, user):
        self.called.append((event, user))

    async def add(self, client, user, mode=Presence.PER_USER, **options):
        await self.tracker.add("room", Member(client, user), mode, **options)
        await self.tracker.wait_idle()

    async def remove(self, client):
        self.tracker.remove("room", client)
        await self.tracker.wait_idle()

    async def die(self):
        """End as a killed process does: without removing or announcing anything."""
        await self.tracker._tasks.cancel()
        for pool in self.tracker._workers:
            await pool.stop()

    async def users(self):
        members = await self.tracker.members("room", Presence.PER_USER)
        return sorted(member.user for member in members.values())


@pytest.fixture
async def start(make_layer):
    started = []

    def start(hosts=None, *, publish_timeout=5.0, **options):
        layer = make_layer(hosts, publish_timeout=publish_timeout)
        started.append(Process(layer, **options))
        started[-1].tracker.start()
        return started[-1]

    yield start
    for process in started:
        await process.tracker.close()


async def test_a_user_is_announced_once_across_processes(start):
    one, two = start(), start()

    await one.add("tab 1", "ada", grace=0)
    await two.add("tab 2", "ada", grace=0)
    await one.remove("tab 1")
    await two.remove("tab 2")

    assert (one.announced, two.announced) == ([("join", "ada")], [("leave", "ada")])
    assert (one.called, two.called) == ([("joined", "ada")], [("left", "ada")])


async def test_a_user_who_reloads_in_another_process_does_not_leave(start):
    one, two = start(), start()
    await one.add("tab 1", "ada")

    await one.tracker.close()
    await two.add("tab 2", "ada")
    await two.tracker.reap()
    await two.tracker.wait_idle()

    assert (one.announced, two.announced) == ([("join", "ada")], [])
    assert await two.users() == ["ada"]


async def test_a_running_process_announces_leaves_of_a_killed_one(start):
    config = PresenceConfig(ttl=2.0)
    living, killed = [start(config=config, refresh=0.2) for _ in range(2)]
    await living.add("tab 1", "ada", grace=0)
    await killed.add("tab 2", "bob", grace=0)
    await killed.add("tab 3", "eve", Presence.PER_CONNECTION)

    await killed.die()
    await until(lambda: len(living.announced) == 3 and len(living.called) == 3)

    assert sorted(living.announced[1:]) == [("leave", "bob"), ("leave", "eve")]
    assert sorted(living.called[1:]) == [("left", "bob"), ("left", "eve")]
    assert await living.users() == ["ada"]


# The program of another process, which is killed.
VISITOR = """
import asyncio, sys
import django
django.setup()
from tiderace.presence.store import Member, PresenceConfig
from tiderace.layers.redis import RedisChannelLayer
from tiderace.presence.tracker import Presence, PresenceTracker

async def announce(group, event, member):
    print(event, flush=True)

async def main(url, prefix):
    layer = RedisChannelLayer(hosts=[url], prefix=prefix)
    [broker] = layer._brokers
    broker.presence.config = PresenceConfig(ttl=2.0)
    tracker = PresenceTracker(layer.presence, announce, refresh=0.2)
    await tracker.add("room", Member("tab", "eve"), Presence.PER_USER, grace=0.5)
    # A claim that is not confirmed would block others for the whole lease.
    await tracker.wait_idle()
    print("settled", flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def visitor(host, prefix):
    """A process that prints what it announces."""
    with subprocess.Popen(
        [sys.executable, "-c", VISITOR, host, prefix],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        yield process
        process.kill()


async def test_connections_of_a_killed_process_are_reaped_by_another(start, visitor):
    other = start(config=PresenceConfig(ttl=2.0), refresh=0.2)
    for line in (b"join\n", b"settled\n"):
        assert await asyncio.to_thread(visitor.stdout.readline) == line
    assert await other.users() == ["eve"]

    visitor.kill()
    await until(lambda: other.called)

    assert other.announced == [("leave", "eve")]
    assert other.called == [("left", "eve")]
    assert await other.users() == []


async def test_connections_are_added_again_to_a_server_that_restarted_empty(
    own_server, start
):
    process = start([own_server.url], publish_timeout=20)
    await process.add("tab 1", "ada")
    await process.add("tab 2", "bob", Presence.PER_CONNECTION)

    await asyncio.to_thread(own_server.restart)
    await asyncio.to_thread(process.tracker.refresh_soon)
    await until(lambda: ("changed", None) in process.announced)

    assert await process.users() == ["ada", "bob"]
    assert process.called == [("joined", "ada"), ("joined", "bob")]


async def test_without_a_server_adding_fails_and_removing_waits(own_server, start):
    process = start([own_server.url], publish_timeout=0.3)
    await process.add("tab 1", "ada", Presence.PER_CONNECTION)
    await process.add("tab 2", "bob", Presence.PER_CONNECTION)
    await asyncio.to_thread(own_server.pause)

    with pytest.raises(LayerUnavailable):
        await process.add("tab 3", "eve", Presence.PER_CONNECTION)
    await process.remove("tab 1")
    await asyncio.to_thread(own_server.resume)
    await until(lambda: ("leave", "ada") in process.announced)
    await process.tracker.wait_idle()

    assert await process.users() == ["bob"]
