"""Topics over a real server: storms, two processes, and what becomes of users in them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from types import SimpleNamespace

import jwt
import pytest
import redis
from websockets.asyncio.client import connect

from support.clients.wire_client import WireClient
from support.paths import TESTS
from support.servers.asgi_process import AsgiProcess
from support.topics.storm import InProcess, OverTheNetwork, Storm
from support.topics.storm_site import storm_site
from tiderace.layers import Retention
from tiderace.layers.redis import RedisChannelLayer
from tiderace.topics import (
    AllowAny,
    History,
    Presence,
    Topic,
    TopicsEndpoint,
    ahistory,
    apublish,
    topic_group,
)
from tiderace.topics.declaration.topic import declared
from tiderace.topics.hub import close
from tiderace.topics.streams import record_of


@pytest.fixture
async def site(settings, redis_url, prefix):
    """Layers on the shared server; a client that dozes off is soon too slow."""
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "tiderace.layers.redis.RedisChannelLayer",
            "CONFIG": {"hosts": [redis_url], "prefix": prefix},
        }
    }
    settings.TIDERACE = {"OUTBOX_LIMIT": 2000, "TOPICS": {"RECOVERED": 2000}}


@pytest.fixture
async def app(site):
    with storm_site() as endpoint:
        yield endpoint


@pytest.fixture
async def elsewhere(redis_url, prefix):
    """The layer of another process of the same site."""
    layer = RedisChannelLayer(hosts=[redis_url], prefix=prefix)
    yield layer
    await layer.close()


def cut_all(url):
    """Have the server drop every connection on which layers hear."""
    with redis.Redis.from_url(url) as client:
        client.client_kill_filter(_type="pubsub")


def storm(app, seed, topic, url, elsewhere):
    async def open_socket(visitor, chance):
        return InProcess(app, visitor)

    async def here(data):
        await apublish(topic, data)

    async def there(data):
        record = record_of(topic, json.dumps(data))
        keep = declared.resolve(topic).keep()
        await elsewhere.stream_publish(topic_group(topic), record, keep=keep)

    async def end():
        position = (await ahistory(topic, limit=0)).position
        return position.epoch, position.offset

    async def havoc():
        cut_all(url)

    return Storm(
        seed,
        topic,
        open_socket=open_socket,
        publishers=[here, there],
        end=end,
        havoc=havoc,
    )


@pytest.mark.parametrize("seed", range(4))
async def test_no_client_loses_a_publication_that_is_kept(
    app, redis_url, elsewhere, seed
):
    tide = storm(app, seed, "tide:high", redis_url, elsewhere)
    await tide.rage()

    for visitor in tide.visitors:
        assert {"recovered false", "error 112"}.isdisjoint(visitor.signals)
    # Otherwise nothing would have been tried.
    assert sum(visitor.recovered for visitor in tide.visitors) > 10


@pytest.mark.parametrize("seed", range(4))
async def test_every_loss_is_reported_to_the_client(app, redis_url, elsewhere, seed):
    pool = storm(app, seed, "pool:small", redis_url, elsewhere)
    await pool.rage(publications=300)


# Two processes


@pytest.fixture(scope="module")
def fleet(shared_server):
    """Two servers of one site, and where their broker is."""
    if shared_server is None:
        pytest.skip("the fleet's processes share a server of the tests' own")
    env = {
        "TRANSPORTS_SITE": json.dumps(
            {
                "redis": shared_server.url,
                "tiderace": {"TOPICS": {"RECOVERED": 1000, "COMMANDS": "10000/s"}},
            }
        )
    }
    application = "sites.transports_site:application"
    with (
        AsgiProcess("uvicorn", application, env=env) as one,
        AsgiProcess("uvicorn", application, env=env) as other,
    ):
        yield one, other, shared_server.url


@pytest.mark.timeout(120)
@pytest.mark.servers
@pytest.mark.parametrize("seed", range(3))
async def test_clients_that_change_processes_learn_of_every_loss(fleet, seed):
    *servers, url = fleet
    topic = f"room:storm-{seed}"
    layer = RedisChannelLayer(hosts=[url], prefix="transports")
    keep = History(size=50, ttl=60)

    async def open_socket(visitor, chance):
        return await OverTheNetwork.open(chance.choice(servers).ws, visitor)

    async def publish(data):
        record = record_of(topic, json.dumps(data))
        await layer.stream_publish(
            topic_group(topic), record, keep=Retention(keep.size, keep.ttl)
        )

    async def end():
        position, _ = await layer.stream_read(
            topic_group(topic), keep=Retention(keep.size, keep.ttl), limit=0
        )
        return position.epoch, position.offset

    async def havoc():
        cut_all(url)

    try:
        fleet_storm = Storm(
            seed,
            topic,
            open_socket=open_socket,
            publishers=[publish, publish],
            end=end,
            havoc=havoc,
        )
        await fleet_storm.rage(rounds=12, publications=150)
    finally:
        await layer.close()

    assert sum(visitor.recovered for visitor in fleet_storm.visitors) > 0


# Subscriptions under load


SECRET = "a secret for tokens that is long enough"
TOPICS = ("room:one", "room:two", "room:three")


@pytest.fixture(scope="module")
def tide(shared_server):
    """Our own server, whose topics have history and presence, and its broker."""
    if shared_server is None:
        pytest.skip("the process shares a server of the tests' own")
    options = {
        "redis": shared_server.url,
        "tiderace": {
            "TOKEN_KEYS": [{"algorithm": "HS256", "key": SECRET}],
            "TOPICS": {"USERS": "claims", "CONNECTS": None},
        },
    }
    env = {"TRANSPORTS_SITE": json.dumps(options)}
    application = "sites.transports_site:application"
    with AsgiProcess("tiderace", application, env=env) as server:
        yield server, shared_server.url


async def offsets_of_a_visit(socket):
    """Connect with two server-side topics, subscribe to a third one, and read.

    Returns:
        For each topic the offset in the reply, and those of ten publications.
    """
    token = jwt.encode({"sub": "7", "channels": TOPICS[:2]}, SECRET)
    commands = [
        {"id": 1, "connect": {"token": token}},
        {"id": 2, "subscribe": {"channel": TOPICS[2], "join_leave": True}},
    ]
    await socket.send("\n".join(map(json.dumps, commands)))
    offsets = {}
    while len(offsets) < 3 or any(len(each) < 11 for each in offsets.values()):
        for line in (await socket.recv()).split("\n"):
            frame = json.loads(line)
            if "connect" in frame:
                for topic, result in frame["connect"]["subs"].items():
                    offsets[topic] = [result.get("offset", 0)]
            elif "subscribe" in frame:
                offsets[TOPICS[2]] = [frame["subscribe"].get("offset", 0)]
            elif "pub" in frame.get("push", {}):
                push = frame["push"]
                offsets[push["channel"]].append(push["pub"]["offset"])
            else:
                assert frame.get("push", {}).keys() & {"join", "leave"}, frame
    return offsets


@pytest.mark.timeout(120)
@pytest.mark.servers
async def test_no_publication_is_lost_while_a_subscription_begins(tide):
    server, url = tide
    layer = RedisChannelLayer(hosts=[url], prefix="transports")

    async def publish(topic):
        group, keep = topic_group(topic), Retention(50, 60)
        while True:
            await layer.stream_publish(group, record_of(topic, "1"), keep=keep)

    async def visit():
        for _ in range(5):
            async with connect(f"{server.ws}/connection/websocket") as socket:
                visits.append(await offsets_of_a_visit(socket))

    visits = []
    publishers = [asyncio.create_task(publish(topic)) for topic in TOPICS]
    try:
        async with asyncio.TaskGroup() as visitors:
            for _ in range(3):
                visitors.create_task(visit())
    finally:
        for each in publishers:
            each.cancel()
        await asyncio.gather(*publishers, return_exceptions=True)
        await layer.close()

    for offsets in visits:
        for seen in offsets.values():
            assert seen == list(range(seen[0], seen[0] + len(seen)))


# Users


# What another process does until it is killed.
VISITED = """
import asyncio, json, sys

import django
from django.conf import settings

url, prefix, quick = sys.argv[1:]
settings.configure(
    SECRET_KEY="tests only",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "tiderace"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    CHANNEL_LAYERS={"default": {
        "BACKEND": "tiderace.layers.redis.RedisChannelLayer",
        "CONFIG": {"hosts": [url], "prefix": prefix},
    }},
    TIDERACE=json.loads(quick),
)
django.setup()

from types import SimpleNamespace

from tiderace.topics import AllowAny, Presence, Topic, TopicsEndpoint
from support.clients.wire_client import WireClient


class Lounge(Topic):
    pattern = "lounge"
    permission_classes = [AllowAny]
    presence = Presence.PER_USER
    presence_grace = 0.2


async def main():
    ada = SimpleNamespace(pk="ada", is_authenticated=True, is_active=True)
    async with WireClient(TopicsEndpoint.as_asgi(), user=ada) as client:
        await client.subscribe("lounge")
        print("there", flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
"""


QUICK = {"PRESENCE_TTL": 2.0, "PRESENCE_REFRESH": 0.5, "PRESENCE_LEASE": 1.0}


class Told:
    """The calls of a topic's hooks, in order."""

    def __init__(self):
        self.log = asyncio.Queue()

    async def next(self):
        async with asyncio.timeout(20):
            return await self.log.get()


@pytest.fixture
async def told(site, settings):
    """The hooks of a topic for which presence is quickly over."""
    settings.TIDERACE = QUICK
    told = Told()

    class Lounge(Topic):
        pattern = "lounge"
        permission_classes = [AllowAny]
        presence = Presence.PER_USER
        presence_grace = 0.2

        async def user_joined(self, user_id):
            told.log.put_nowait(("joined", self.topic, user_id))

        def user_left(self, user_id):
            loop.call_soon_threadsafe(
                told.log.put_nowait, ("left", self.topic, user_id)
            )

    loop = asyncio.get_running_loop()
    yield told
    await close()
    declared.remove(Lounge)


async def test_the_hooks_of_a_topic_are_called_for_joins_and_leaves(told):
    app = TopicsEndpoint.as_asgi()
    async with WireClient(app, user=person("ada")) as client:
        await client.subscribe("lounge")
        assert await told.next() == ("joined", "lounge", "ada")

    assert await told.next() == ("left", "lounge", "ada")


async def test_user_left_is_called_for_a_user_whose_process_was_killed(
    told, redis_url, prefix
):
    app = TopicsEndpoint.as_asgi()
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", VISITED, redis_url, prefix, json.dumps(QUICK)),
        cwd=TESTS,
        env={**_environment(), "PYTHONPATH": str(TESTS)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert await other.stdout.readline() == b"there\n"
    finally:
        other.kill()
        await other.communicate()
    async with WireClient(app, user=person("bob")) as client:
        await client.subscribe("lounge")
        while (seen := await told.next()) != ("left", "lounge", "ada"):
            # Ada's coming perhaps again: at least once.
            assert seen[0] == "joined"


def person(pk):
    return SimpleNamespace(pk=pk, is_authenticated=True, is_active=True)


def _environment():
    """This process's, but for the settings that it names."""
    return {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
