"""A Channels project's connections, start to end, on the four ASGI servers.

The site is written for Channels; its one line is ``tiderace.install_as_channels()``.
What a server cannot do is not asked of it; the constants below say which that is.
"""

from __future__ import annotations

import asyncio
import json
import socket
from urllib.request import urlopen

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from support.servers.asgi_process import SERVERS, AsgiProcess
from support.waiting import wait_until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

APPLICATION = "sites.servers_site.asgi:application"

# What a server passes on to the client; the others drop it, whatever the application.
PASS_ACCEPT_HEADERS = ("uvicorn", "hypercorn")
PASS_CLOSE_REASON = ("uvicorn", "hypercorn", "granian")

# Those that let every application end before they do; the others are gone first.
WAIT_FOR_CONSUMERS = ("uvicorn", "hypercorn")


class Site:
    """The running site: its address, its journal, its groups."""

    def __init__(self, server, journal):
        self.server = server
        self.name = server.server
        self.journal = journal

    def url(self, path):
        return f"{self.server.ws}/{path}"

    def lines(self, room):
        """Return the journal's lines about a room, without its name."""
        words = [line.split() for line in self.journal.read_text().splitlines()]
        return [line[1:] for line in words if line[0] == room]

    def members(self, room):
        with urlopen(f"{self.server.http}/groups/", timeout=10) as page:
            return json.load(page).get(room, 0)

    async def until(self, truth, what):
        await asyncio.to_thread(wait_until, truth, what=what)


def launch(name, directory):
    journal = directory / "journal"
    journal.touch()
    env = {"SERVERS_SITE_JOURNAL": str(journal)}
    return AsgiProcess(name, APPLICATION, env=env), journal


@pytest.fixture(scope="module", params=SERVERS)
def site(request, tmp_path_factory):
    process, journal = launch(request.param, tmp_path_factory.mktemp("servers"))
    with process as server:
        yield Site(server, journal)


@pytest.fixture(params=SERVERS)
def own_site(request, tmp_path):
    """A server for one test alone, that the test may stop."""
    process, journal = launch(request.param, tmp_path)
    with process as server:
        yield Site(server, journal)


async def close_of(socket):
    """Return (code, reason) once the server has closed; code 1006 without a frame."""
    try:
        async with asyncio.timeout(10):
            while True:
                await socket.recv()
    except ConnectionClosed as closed:
        if closed.rcvd is None:
            return 1006, ""
        return closed.rcvd.code, closed.rcvd.reason


async def test_text_and_binary_frames_come_back(site):
    async with connect(site.url("life/echo/")) as client:
        await client.send("quietly")
        text = await client.recv()
        await client.send(b"\x00\x01\xff")
        binary = await client.recv()

    assert (text, binary) == ("QUIETLY", b"\xff\x01\x00")


@pytest.mark.parametrize("site", PASS_ACCEPT_HEADERS, indirect=True)
async def test_accept_headers_reach_the_client(site):
    async with connect(site.url("life/headers/")) as client:
        headers = client.response.headers

    assert headers["x-life"] == "long"
    assert headers["set-cookie"].startswith("seat=7")


async def test_the_chosen_subprotocol_reaches_the_client(site):
    async with connect(
        site.url("life/spoken/"), subprotocols=["life.v1", "life.v2"]
    ) as client:
        assert client.subprotocol == "life.v2"


async def test_a_client_without_subprotocols_is_accepted_without_one(site):
    async with connect(site.url("life/unspoken/")) as client:
        assert client.subprotocol is None


async def test_a_group_message_reaches_both_clients(site):
    async with (
        connect(site.url("life/pair/")) as one,
        connect(site.url("life/pair/")) as other,
    ):
        await one.send("all:good morning")

        assert await one.recv() == "pair: good morning"
        assert await other.recv() == "pair: good morning"


async def test_sync_and_async_consumers_share_a_group(site):
    async with (
        connect(site.url("life/mixed/")) as one,
        connect(site.url("sync/mixed/")) as other,
    ):
        await other.send("hello")

        assert await one.recv() == "mixed: hello"
        assert await other.recv() == "sync mixed: hello"


async def test_the_consumers_close_code_reaches_the_client(site):
    async with connect(site.url("life/leave/")) as client:
        await client.send("leave")
        code, _ = await close_of(client)

    assert code == 4007


@pytest.mark.parametrize("site", PASS_CLOSE_REASON, indirect=True)
async def test_the_consumers_close_reason_reaches_the_client(site):
    async with connect(site.url("life/reason/")) as client:
        await client.send("leave")
        _, reason = await close_of(client)

    assert reason == "you asked for it"


@pytest.mark.parametrize("path", ["closed/", "denied/"])
async def test_a_refusal_before_accept_is_403(site, path):
    with pytest.raises(InvalidStatus) as refusal:
        await connect(site.url(path))

    assert refusal.value.response.status_code == 403


async def test_a_path_without_a_route_is_refused_and_is_no_server_error(site):
    with pytest.raises(InvalidStatus) as refusal:
        await connect(site.url("nowhere/"))

    assert refusal.value.response.status_code in {403, 404}


async def test_an_error_in_connect_refuses_the_handshake(site):
    with pytest.raises(InvalidStatus) as refusal:
        await connect(site.url("broken/"))

    assert refusal.value.response.status_code in {403, 500}


async def test_an_error_in_a_handler_closes_with_1011_and_disconnects_once(site):
    async with connect(site.url("life/crash/")) as client:
        await client.send("crash")
        code, _ = await close_of(client)
    await site.until(lambda: site.lines("crash"), "disconnect()")

    assert code == 1011
    assert len(site.lines("crash")) == 1
    assert site.members("crash") == 0


@pytest.mark.parametrize("consumer", ["life", "sync"])
async def test_a_lost_connection_disconnects_once_and_leaves_the_group(site, consumer):
    room = f"lost-{consumer}"
    client = await connect(site.url(f"{consumer}/{room}/"))
    assert await asyncio.to_thread(site.members, room) == 1

    cut(client)
    await site.until(lambda: site.lines(room), "disconnect()")
    await site.until(lambda: site.members(room) == 0, "leaving the group")

    assert len(site.lines(room)) == 1


async def stop_with_a_client(site):
    """Stop the server under an open socket; return what the client saw."""
    async with connect(site.url("life/stop/")) as client:
        await client.send("all:here")
        await client.recv()

        await asyncio.to_thread(site.server.terminate)
        code, _ = await close_of(client)
    return code


async def test_sigterm_ends_a_server_that_has_open_sockets(own_site):
    code = await stop_with_a_client(own_site)

    assert code != 1000, "a client would take it for a normal end and not come back"


@pytest.mark.parametrize("own_site", ["uvicorn"], indirect=True)
async def test_sigterm_tells_clients_that_the_service_restarts(own_site):
    assert await stop_with_a_client(own_site) == 1012


@pytest.mark.parametrize("own_site", WAIT_FOR_CONSUMERS, indirect=True)
async def test_sigterm_disconnects_a_consumer_once(own_site):
    await stop_with_a_client(own_site)

    assert [word for word, _ in own_site.lines("stop")] == ["disconnect"]


def cut(client):
    """End the TCP connection with a reset, as a pulled cable's peer would see it."""
    raw = client.transport.get_extra_info("socket")
    linger = socket.SO_LINGER
    raw.setsockopt(socket.SOL_SOCKET, linger, b"\x01\0\0\0\0\0\0\0")
    client.transport.abort()
