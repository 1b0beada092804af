"""Tests of the nginx configuration in the deployment guide."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from support.asgi_process import free_port
from support.drain_server import Site, end_of, status_of
from support.paths import ROOT
from support.waiting import wait_until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

GUIDE = ROOT / "docs/guides/deployment.md"


@pytest.fixture(scope="session")
def nginx():
    """The program; Debian keeps it where only root looks."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip("no nginx; install the package nginx")
    return found


def the_guides_configuration():
    """Return the configuration in the guide."""
    text = GUIDE.read_text("utf-8")
    return re.search(r"```nginx\n(.*?)```", text, flags=re.DOTALL)[1]


@contextlib.contextmanager
def running(nginx, folder, port, upstreams, **changes):
    """Run nginx on ``port`` before ``upstreams``, until the block ends."""
    site = the_guides_configuration()
    site = site.replace("listen 80;", f"listen 127.0.0.1:{port};")
    for documented, actual in zip((8000, 8001), upstreams, strict=True):
        site = site.replace(f"127.0.0.1:{documented}", f"127.0.0.1:{actual}")
    for before, after in changes.items():
        assert before in site
        site = re.sub(rf"{before} \S+;", f"{before} {after};", site)
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # Only root may choose who the workers are, and only root needs to.
    user = "user root;" if os.geteuid() == 0 else ""
    whole = folder / "nginx.conf"
    whole.write_text(
        f"{user} daemon off; pid {folder}/pid; error_log stderr;\n"
        f"events {{}}\nhttp {{ access_log off;\n{temporary}\n{site}\n}}\n"
    )
    process = subprocess.Popen(
        [nginx, "-p", str(folder), "-c", str(whole), "-e", "stderr"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: listens(process, port), what="nginx listening")
        yield
    finally:
        process.send_signal(signal.SIGQUIT)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.terminate()
        process.communicate()


def listens(process, port):
    if process.poll() is not None:
        raise AssertionError(f"nginx ended: {process.stderr.read()}")
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


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
            ports = [server.port for server in servers]
            stack.enter_context(running(nginx, folder, port, ports, **(changes or {})))
            return Proxied(port, servers)

        yield start


class Proxied:
    """What a client sees of it, and the servers behind."""

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
    """Whose port is nginx's, and no other one's."""
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
    while leaving.process.poll() is None:
        ended, left = await asyncio.wait(left, timeout=0.1)
        returned += [await come_back() for _ in ended]

    assert len(returned) >= 10
    assert staying.process.poll() is None
    assert {task.result()[1] for task in set(ends) - left} == {1012}
    for client in (*clients, *returned):
        await client.close()
    await asyncio.wait(ends)
