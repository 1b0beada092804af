"""Tests of the nginx configuration and the systemd unit in the deployment guide."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import sys
from collections import Counter

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from support.paths import TESTS
from support.servers.drain_server import Site, end_of, status_of
from support.servers.nginx import guide_block, nginx_before
from support.servers.ports import free_port
from support.servers.systemd import Unit
from support.topics.storm_site import storm_site
from tiderace.layers.redis import RedisChannelLayer
from tiderace.topics import topic_group
from tiderace.topics.declaration.topic import declared
from tiderace.topics.streams import record_of

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]


@pytest.fixture
def proxied(nginx, tmp_path):
    """Start two servers and nginx before them; ``proxied.servers`` and its addresses."""
    with contextlib.ExitStack() as stack:

        def start(options=(), changes=None, **settings):
            servers = []
            for name in ("one", "two"):
                (tmp_path / name).mkdir()
                site = Site(tmp_path / name, options=options, **settings)
                servers.append(stack.enter_context(site))
            port, folder = free_port(), tmp_path / "nginx"
            folder.mkdir()
            hosts = [f"127.0.0.1:{server.port}" for server in servers]
            stack.enter_context(
                nginx_before(nginx, folder, port, hosts, **(changes or {}))
            )
            return Proxied(port, servers)

        yield start


class Proxied:
    """The address of nginx for clients, and the servers behind it."""

    def __init__(self, port, servers):
        self.http = f"http://127.0.0.1:{port}"
        self.ws = f"ws://127.0.0.1:{port}"
        self.servers = servers


async def test_a_websocket_is_proxied(proxied):
    site = proxied()

    async with connect(f"{site.ws}/plain/") as client:
        await client.send("hello")

        assert await client.recv() == "begun hello"


async def test_topics_are_there_for_the_sites_own_pages(proxied):
    """Their origin has the port of nginx."""
    site = proxied()
    topics = f"{site.ws}/connection/websocket"

    async with connect(topics, origin=site.http):
        pass

    with pytest.raises(InvalidStatus) as refusal:
        await connect(topics, origin=site.servers[0].http)
    assert refusal.value.response.status_code == 403


async def test_pages_are_proxied_and_probes_are_not_public(proxied):
    site = proxied()

    assert await status_of(site.http) == 200
    assert await status_of(f"{site.http}/readyz") == 404
    assert await status_of(f"{site.servers[0].http}/readyz") == 200


async def test_a_refusal_by_the_application_reaches_the_client(proxied):
    site = proxied()

    with pytest.raises(InvalidStatus) as refusal:
        await connect(f"{site.ws}/nowhere/")

    assert refusal.value.response.status_code == 404


async def test_pings_keep_a_silent_socket_open_beyond_the_timeout(proxied):
    pings = ("--ws-ping-interval", "0.3")
    site = proxied(options=pings, changes={"proxy_read_timeout": "2s"})

    async with connect(f"{site.ws}/plain/") as client:
        await client.send("work 4")
        assert await client.recv() == "begun work"
        await client.send("still here")

        assert await client.recv() == "begun still"


async def test_a_refused_client_reconnects_at_the_first_attempt(proxied):
    site = proxied(DRAIN_SECONDS=1)
    leaving, staying = site.servers
    clients = [await connect(f"{site.ws}/plain/") for _ in range(40)]
    ends = [asyncio.create_task(end_of(client)) for client in clients]

    async def come_back():
        # No second attempt: a refusal would fail the test.
        return await connect(f"{site.ws}/plain/")

    leaving.sigterm()
    returned = []
    left = set(ends)
    has_ended = False
    while not has_ended:
        # Once more after the end: its last words may be unread.
        has_ended = leaving.process.poll() is not None
        ended, left = await asyncio.wait(left, timeout=0.1)
        returned += [await come_back() for _ in ended]

    assert len(returned) >= 10
    assert staying.process.poll() is None
    assert {task.result()[1] for task in set(ends) - left} == {1012}
    for client in (*clients, *returned):
        await client.close()
    await asyncio.wait(ends)


def rolling_unit(number, run, env):
    """Return an instance of the guide's template ``mysite@.service``."""

    def command(words):
        program, application, *options = words
        assert (program, application) == (
            "/srv/mysite/.venv/bin/uvicorn",
            "mysite.asgi:application",
        )
        site = (sys.executable, "-m", "uvicorn", "sites.rolling_site:application")
        return [*site, *options]

    env = {**os.environ, "PYTHONPATH": str(TESTS), **env}
    env.pop("DJANGO_SETTINGS_MODULE", None)
    text = guide_block("ini")
    return Unit(text, run, command, cwd=TESTS, env=env, instance=number)


class Returning:
    """A client that connects again until it is cancelled, as client libraries do."""

    refused = Counter()

    def __init__(self, url):
        self._url = url
        self.ends = []
        self._connected = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def until_connected(self):
        connected = asyncio.create_task(self._connected.wait())
        await asyncio.wait([connected, self._task], return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            self._task.result()  # raises the error

    async def close(self):
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self):
        while True:
            try:
                async with connect(self._url, compression=None) as socket:
                    await self.serve(socket)
            except InvalidStatus as refusal:
                self.refused[refusal.response.status_code] += 1
            except ConnectionClosed as closed:
                self.ends.append(closed.rcvd.code if closed.rcvd else "cut")
            self._connected.clear()
            # The delay of a client library, without which all would come at once.
            await asyncio.sleep(random.uniform(0.1, 0.5))


class EchoClient(Returning):
    """A client of a consumer."""

    async def serve(self, socket):
        await socket.send("hello")
        assert await socket.recv() == "hello"
        self._connected.set()
        await socket.recv()


class TopicClient(Returning):
    """A client of a topic; ``received`` has the data of all publications."""

    def __init__(self, url):
        super().__init__(url)
        self.received = []
        self._position = {}
        self._news = asyncio.Event()

    async def until_received(self, number):
        while len(self.received) < number:
            self._news.clear()
            await self._news.wait()

    async def serve(self, socket):
        request = {"channel": "tide:all", **self._position}
        commands = ({"id": 1, "connect": {}}, {"id": 2, "subscribe": request})
        await socket.send("\n".join(json.dumps(command) for command in commands))
        async for message in socket:
            for line in message.splitlines():
                self._read(json.loads(line))
        await socket.recv()  # raises the code of the close

    def _read(self, reply):
        publications = [reply["push"]["pub"]] if "pub" in reply.get("push", {}) else []
        if result := reply.get("subscribe"):
            assert result.get("recovered") or not self._position, "not recovered"
            publications = result.get("publications", [])
            self._position.setdefault("offset", result.get("offset", 0))
            self._position |= {"recover": True, "epoch": result["epoch"]}
            self._connected.set()
        assert "error" not in reply, reply
        for publication in publications:
            self.received.append(publication["data"])
            self._position["offset"] = publication["offset"]
            self._news.set()


@contextlib.asynccontextmanager
async def published(layer):
    """Publish the numbers 0, 1, 2, … to ``tide:all`` during the block; yield them."""
    numbers = []

    async def publish():
        keep = declared.resolve("tide:all").keep()
        while True:
            record = record_of("tide:all", str(len(numbers)))
            await layer.stream_publish(topic_group("tide:all"), record, keep=keep)
            numbers.append(len(numbers))
            await asyncio.sleep(0.02)

    with storm_site():
        task = asyncio.create_task(publish())
        try:
            yield numbers
        finally:
            task.cancel()
            await asyncio.wait([task])


async def test_a_rolling_restart_loses_no_client_and_no_publication(
    nginx, redis_url, prefix, tmp_path
):
    if shutil.which("curl") is None:
        pytest.skip("no curl, which the guide's unit runs; install the package curl")
    layer = RedisChannelLayer(hosts=[redis_url], prefix=prefix)
    site = {"ROLLING_SITE": json.dumps({"hosts": [redis_url], "prefix": prefix})}
    units = [rolling_unit(number, tmp_path, site) for number in ("1", "2")]
    port, folder = free_port(), tmp_path / "nginx"
    folder.mkdir()
    sockets = [f"unix:{tmp_path}/mysite-{number}/web.sock" for number in (1, 2)]
    url = f"ws://127.0.0.1:{port}"
    clients = []
    try:
        await asyncio.gather(*(unit.start() for unit in units))
        with nginx_before(nginx, folder, port, sockets):
            for _ in range(50):
                clients.append(EchoClient(f"{url}/echo/"))
                clients.append(TopicClient(f"{url}/connection/websocket"))
            await all_connected(clients)
            async with published(layer) as numbers:
                for unit in units:
                    await unit.stop()
                    await unit.start()
                await all_connected(clients)
            topic_clients = clients[1::2]
            async with asyncio.timeout(30):
                for client in topic_clients:
                    await client.until_received(len(numbers))
            assert all(client.received == numbers for client in topic_clients)
        assert all(set(client.ends) in ({1012}, {3001}) for client in clients)
        assert not Returning.refused
    finally:
        for client in clients:
            await client.close()
        for unit in units:
            await unit.kill()
        await layer.close()


async def all_connected(clients):
    async with asyncio.timeout(60):
        for client in clients:
            await client.until_connected()
