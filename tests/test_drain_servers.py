"""Servers that are told to stop: what their clients, handlers and lifespan see of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections import Counter
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from asgi_process import AsgiProcess, wait_until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

_PYTHON = (sys.executable, "-W", "default", "-m")


class Site(AsgiProcess):
    """``drain_site`` on a server, with its journal."""

    def __init__(
        self, directory, *, server="uvicorn", options=(), startup=0, **settings
    ):
        self.journal = directory / "journal"
        self.journal.touch()
        self._startup = startup
        site = {
            "journal": str(self.journal),
            "tiderace": settings,
            "startup": startup,
        }
        self._options = tuple(options)
        super().__init__(
            server, "drain_site:application", env={"DRAIN_SITE": json.dumps(site)}
        )

    def _line(self, application):
        if self.server == "gunicorn":
            line = [*_PYTHON, "gunicorn", "--bind", f"127.0.0.1:{self.port}"]
            return [*line, *self._options, application]
        return [*super()._line(application), *self._options]

    def _listens(self):
        said = self.journal.read_text()
        if self._startup:  # the test does not wait for the end of it
            return "starting" in said
        # Who has workers listens before one of them can answer.
        return "started" in said and super()._listens()

    def sigterm(self):
        self.process.send_signal(signal.SIGTERM)

    def count(self, line):
        return self.journal.read_text().splitlines().count(line)


@pytest.fixture
def site(tmp_path):
    """Start ``drain_site``; every process of it ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(**settings):
            return stack.enter_context(Site(tmp_path, **settings))

        yield start


async def end_of(client):
    """Return (when, code, reason) of the server's close, in monotonic seconds."""
    async with asyncio.timeout(30):
        await client.wait_closed()
    assert client.close_code != 1006, "the connection was cut without a word"
    return time.monotonic(), client.close_code, client.close_reason


async def status_of(url):
    def ask():
        try:
            with urlopen(url, timeout=10) as page:
                return page.status
        except HTTPError as error:
            return error.code

    return await asyncio.to_thread(ask)


async def exit_of(server):
    return await asyncio.to_thread(server.process.wait, 15)


@pytest.mark.parametrize(
    "options",
    [(), ("--loop", "asyncio"), ("--ws", "tiderace.server:WebSocketProtocol")],
)
async def test_sockets_are_closed_with_1012_over_the_window(site, options):
    # Two in a tenth of a second on a quiet machine, so that a busy one may pause.
    server = site(DRAIN_SECONDS=3, options=options)
    clients = [await connect(f"{server.ws}/plain/") for _ in range(60)]

    begun = time.monotonic()
    server.sigterm()
    ends = await asyncio.gather(*(end_of(client) for client in clients))

    per_tenth = Counter(int((at - begun) * 10) for at, _, _ in ends)
    assert {code for _, code, _ in ends} == {1012}
    assert max(per_tenth.values()) <= 12, per_tenth
    assert max(at for at, _, _ in ends) - begun > 2
    assert all(reason.startswith("retry-after=") for _, _, reason in ends)


async def test_the_process_ends_when_the_last_socket_has(site):
    server = site(DRAIN_SECONDS=60)
    async with connect(f"{server.ws}/plain/") as client:
        server.sigterm()
        await end_of(client)

        assert await exit_of(server) == -signal.SIGTERM


async def test_disconnect_handlers_run_and_then_the_lifespan_ends(site):
    server = site(DRAIN_SECONDS=0)
    clients = [await connect(f"{server.ws}/{p}/") for p in ("plain", "sync")]

    server.sigterm()
    await asyncio.gather(*(end_of(client) for client in clients))
    await exit_of(server)

    lines = server.journal.read_text().splitlines()[1:]
    assert sorted(lines[1:3]) == ["plain disconnect 1012", "sync disconnect 1012"]
    assert lines[3].endswith("ended")
    assert len(lines) == 4


async def test_a_handler_that_is_at_work_finishes_first(site):
    server = site(DRAIN_SECONDS=0, DRAIN_GRACE=30)
    async with connect(f"{server.ws}/plain/") as client:
        await client.send("work 1")
        await client.recv()

        server.sigterm()
        _, code, _ = await end_of(client)

    assert code == 1012
    assert server.count("work done") == 1


async def test_a_handler_that_does_not_finish_is_cut_after_the_grace(site):
    server = site(DRAIN_SECONDS=0, DRAIN_GRACE=0.5)
    async with connect(f"{server.ws}/plain/") as client:
        await client.send("work 600")
        await client.recv()

        server.sigterm()
        await exit_of(server)

    assert server.count("work done") == 0
    assert server.count("plain disconnect 1006") == 1


async def test_a_consumer_is_told_before_its_socket_is_closed(site):
    server = site(DRAIN_SECONDS=0)
    async with connect(f"{server.ws}/polite/") as client:
        server.sigterm()

        assert await client.recv() == "goodbye"
        assert (await end_of(client))[1] == 1012


async def test_a_consumer_may_close_in_its_own_words(site):
    server = site(DRAIN_SECONDS=0)
    async with connect(f"{server.ws}/polite/own/") as client:
        server.sigterm()

        assert (await end_of(client))[1:] == (4100, "moving house")


async def test_newcomers_are_refused_while_pages_are_served(site):
    server = site(DRAIN_SECONDS=0, DRAIN_GRACE=60)
    async with connect(f"{server.ws}/plain/") as busy:
        await busy.send("work 600")
        await busy.recv()
        server.sigterm()

        async def refused():
            while True:
                try:
                    async with connect(f"{server.ws}/plain/"):
                        pass
                except InvalidStatus as refusal:
                    return refusal.response

        response = await asyncio.wait_for(refused(), 10)

        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert await status_of(server.http) == 200
        assert await status_of(f"{server.http}/readyz") == 503
        assert await status_of(f"{server.http}/healthz") == 200


async def test_a_second_sigterm_ends_it_at_once(site):
    server = site(DRAIN_SECONDS=60)
    clients = [await connect(f"{server.ws}/plain/") for _ in range(700)]
    ends = [asyncio.ensure_future(end_of(client)) for client in clients]
    server.sigterm()
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)

    def ended():
        server.sigterm()
        return server.process.poll() is not None

    await asyncio.to_thread(wait_until, ended, what="the end of the process")

    assert {code for _, code, _ in await asyncio.gather(*ends)} == {1012}


async def test_sigint_ends_it_at_once(site):
    server = site(DRAIN_SECONDS=60)
    clients = [await connect(f"{server.ws}/plain/") for _ in range(10)]

    server.process.send_signal(signal.SIGINT)
    ends = await asyncio.gather(*(end_of(client) for client in clients))
    await exit_of(server)

    assert {code for _, code, _ in ends} == {1012}


async def test_sigint_ends_a_drain_at_once(site):
    server = site(DRAIN_SECONDS=60)
    clients = [await connect(f"{server.ws}/plain/") for _ in range(700)]
    ends = [asyncio.ensure_future(end_of(client)) for client in clients]
    server.sigterm()
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)

    server.process.send_signal(signal.SIGINT)
    await asyncio.gather(*ends)

    await exit_of(server)


async def test_every_worker_drains(site):
    server = site(DRAIN_SECONDS=1, options=("--workers", "2"))
    clients = [await connect(f"{server.ws}/plain/") for _ in range(20)]

    server.sigterm()
    ends = await asyncio.gather(*(end_of(client) for client in clients))
    await exit_of(server)

    assert {code for _, code, _ in ends} == {1012}
    assert all(reason.startswith("retry-after=") for _, _, reason in ends)
    assert server.count("plain disconnect 1012") == 20


async def test_sigterm_during_the_start_ends_it_when_it_has_started(site):
    server = site(startup=1)

    server.sigterm()

    assert await exit_of(server) == -signal.SIGTERM
    words = [line.split()[-1] for line in server.journal.read_text().splitlines()]
    assert words == ["starting", "started", "ended"]


# gunicorn: the arbiter is told, and tells its workers.

WORKERS = ("tiderace.server.gunicorn.UvicornWorker", "uvicorn_worker.UvicornWorker")


@pytest.mark.parametrize("worker", WORKERS)
async def test_gunicorns_workers_drain(site, worker):
    server = site(server="gunicorn", options=("-k", worker, "-w", "2"), DRAIN_SECONDS=1)
    clients = [await connect(f"{server.ws}/plain/") for _ in range(20)]

    server.sigterm()
    ends = await asyncio.gather(*(end_of(client) for client in clients))

    assert await exit_of(server) == 0
    assert {code for _, code, _ in ends} == {1012}
    assert all(reason.startswith("retry-after=") for _, _, reason in ends)
    assert server.count("plain disconnect 1012") == 20


async def test_a_reload_of_gunicorn_drains_the_old_worker(site):
    options = ("-k", WORKERS[0], "-w", "1")
    server = site(server="gunicorn", options=options, DRAIN_SECONDS=3)
    clients = [await connect(f"{server.ws}/plain/") for _ in range(60)]

    begun = time.monotonic()
    server.process.send_signal(signal.SIGHUP)
    ends = await asyncio.gather(*(end_of(client) for client in clients))

    assert {code for _, code, _ in ends} == {1012}
    assert max(at for at, _, _ in ends) - begun > 2
    assert max(Counter(int((at - begun) * 10) for at, _, _ in ends).values()) <= 12


async def test_sigint_ends_gunicorn_at_once(site):
    options = ("-k", WORKERS[0], "-w", "1")
    server = site(server="gunicorn", options=options, DRAIN_SECONDS=60)
    clients = [await connect(f"{server.ws}/plain/") for _ in range(3)]

    server.process.send_signal(signal.SIGINT)
    ends = await asyncio.gather(*(end_of(client) for client in clients))

    await exit_of(server)
    assert {code for _, code, _ in ends} == {1012}
