"""Topics over HTTP on real servers: frames come as they are said; two processes."""

from __future__ import annotations

import contextlib
import json

import httpx
import pytest

from support.servers.asgi_process import AsgiProcess
from support.servers.brokers import Server
from support.waiting import wait_until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

APPLICATION = "sites.transports_site:application"
OURS = ("--ws", "tiderace.server:WebSocketProtocol")
OURS += ("--http", "tiderace.server:HttpProtocol")


class Uvicorn(AsgiProcess):
    """uvicorn with both protocols of ours, which writes finished parts of responses."""

    def _line(self, application):
        return [*super()._line(application), *OURS, "--log-level", "info"]


def launch(kind="uvicorn", **options):
    env = {"TRANSPORTS_SITE": json.dumps(options)}
    if kind == "ours":
        return Uvicorn("uvicorn", APPLICATION, env=env)
    return AsgiProcess(kind, APPLICATION, env=env)


@pytest.fixture(scope="module", params=["ours", "uvicorn", "hypercorn", "granian"])
def site(request):
    with launch(request.param) as server:
        yield server


class Stream:
    """A client that reads an endless response, and posts to any process."""

    def __init__(self, client, site, response, kind):
        self.client = client
        self.site = site
        self.response = response
        self._kind = kind
        self._lines = response.aiter_lines()
        self._number = 1
        self.said = {}

    async def frame(self):
        """Return the next frame that is no ping."""
        async for line in self._lines:
            text = line.removeprefix("data: ").strip()
            if text and text != "{}":
                return json.loads(text)
        return None

    async def push(self, kind):
        """Return the next push of this kind."""
        while frame := await self.frame():
            if kind in frame.get("push", {}):
                return frame["push"][kind]
        raise AssertionError(f"the response ended without {kind!r}")

    async def post(self, *commands, to=None):
        """Send commands to a process; the status of its answer."""
        body = {
            **{name: self.said[name] for name in ("session", "node")},
            "data": "\n".join(json.dumps(each) for each in commands),
        }
        url = f"{(to or self.site).http}/connection/emulation"
        return (await self.client.post(url, json=body)).status_code

    async def ask(self, to=None, **command):
        """Send a command and return its answer, whatever comes before."""
        self._number += 1
        status = await self.post({"id": self._number, **command}, to=to)
        assert status == 204
        while frame := await self.frame():
            if frame.get("id") == self._number:
                return frame
        raise AssertionError("the response ended without an answer")


@contextlib.asynccontextmanager
async def stream(site, kind="http_stream"):
    first = '{"id": 1, "connect": {}}'
    url = f"{site.http}/connection/{kind}"
    async with httpx.AsyncClient(timeout=20) as client:
        if kind == "sse":
            begun = client.stream("GET", url, params={"cf_connect": first})
        else:
            headers = {"content-type": "application/json"}
            begun = client.stream("POST", url, content=first, headers=headers)
        async with begun as response:
            assert response.status_code == 200
            made = Stream(client, site, response, kind)
            made.said = (await made.frame())["connect"]
            yield made


@pytest.mark.parametrize("kind", ["http_stream", "sse"])
async def test_frames_arrive_when_they_are_sent(site, kind):
    async with stream(site, kind) as one, stream(site, kind) as other:
        await one.ask(subscribe={"channel": f"room:{kind}"})
        await other.ask(subscribe={"channel": f"room:{kind}"})

        await other.ask(publish={"channel": f"room:{kind}", "data": {"text": "größer"}})

        assert (await one.push("pub"))["data"] == {"text": "größer"}


async def test_no_log_shows_the_token_in_the_address_of_an_sse_client(site):
    first = '{"id": 1, "connect": {"token": "hush-hush"}}'
    url = f"{site.http}/connection/sse?a=1"
    async with httpx.AsyncClient(timeout=20) as client:
        response = await client.get(url, params={"a": "1", "cf_connect": first})
        await client.get(f"{site.http}/connection/page")

    assert "3500" in response.text  # an invalid token
    assert "hush" not in site.output()


async def test_pages_beside_the_endpoint_are_djangos(site):
    async with httpx.AsyncClient() as client:
        for path in ("/", "/connection/page"):
            assert (await client.get(site.http + path)).text == "a page of Django's"


async def test_a_client_that_leaves_is_cleaned_up(site):
    async with stream(site) as stays:
        await stays.ask(subscribe={"channel": "room:gone"})
        async with stream(site) as goes:
            await goes.ask(subscribe={"channel": "room:gone"})
            await stays.push("join")

        assert (await stays.push("leave"))["info"]["client"] == goes.said["client"]


@pytest.mark.parametrize("kind", ["http_stream", "sse"])
async def test_a_drain_ends_streams_with_a_push_and_their_response(kind):
    with launch("ours", tiderace={"DRAIN_SECONDS": 0.2}) as server:
        async with stream(server, kind) as one:
            server.process.terminate()

            assert (await one.push("disconnect"))["code"] == 3001
            assert await one.frame() is None
        assert server.process.wait(timeout=15) is not None
        assert "Traceback" not in server.output()


class Fleet:
    """Two processes behind one broker, as behind a load balancer."""

    def __init__(self, one, other):
        self.one = one
        self.other = other


@pytest.fixture(scope="module")
def fleet():
    with (
        Server() as broker,
        launch("ours", redis=broker.url) as one,
        launch("ours", redis=broker.url) as other,
    ):
        yield Fleet(one, other)


@pytest.mark.parametrize("kind", ["http_stream", "sse"])
async def test_posts_may_go_to_another_process(fleet, kind):
    async with stream(fleet.one, kind) as client:
        await client.ask(to=fleet.other, subscribe={"channel": f"room:{kind}"})
        for n in range(20):
            await client.ask(
                to=(fleet.one, fleet.other)[n % 2],
                publish={"channel": f"room:{kind}", "data": n},
            )
        reply = await client.ask(
            to=fleet.other, history={"channel": f"room:{kind}", "limit": -1}
        )

    assert [each["data"] for each in reply["history"]["publications"]] == list(
        range(20)
    )


async def test_another_process_answers_that_the_session_is_gone(fleet):
    async with stream(fleet.one) as client:
        said = client.said
    async with stream(fleet.other) as lives:
        lives.said = said

        def gone():
            url = f"{fleet.other.http}/connection/emulation"
            body = {"session": said["session"], "node": said["node"], "data": "{}"}
            return httpx.post(url, json=body).status_code == 404

        wait_until(gone, what="404")


async def test_a_client_recovers_in_another_process(fleet):
    async with stream(fleet.one) as client:
        seen = (await client.ask(subscribe={"channel": "room:back"}))["subscribe"]
        await client.ask(publish={"channel": "room:back", "data": "missed"})
    async with stream(fleet.other) as client:
        reply = await client.ask(
            subscribe={
                "channel": "room:back",
                "recover": True,
                "epoch": seen["epoch"],
                "offset": seen.get("offset", 0),
            }
        )

    assert reply["subscribe"]["recovered"] is True
    assert [each["data"] for each in reply["subscribe"]["publications"]] == ["missed"]
