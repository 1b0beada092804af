"""Servers that are told to stop: what their clients, handlers and lifespan see of it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from support.servers.drain_server import end_of, exit_of, status_of
from support.waiting import wait_until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]


@pytest.mark.parametrize(
    "options",
    [(), ("--loop", "asyncio"), ("--ws", "tiderace.server:WebSocketProtocol")],
)
async def test_sockets_are_closed_with_1012_over_the_window(drain_site, options):
    # Two in a tenth of a second on a quiet machine, so that a busy one may pause.
    server = drain_site(DRAIN_SECONDS=3, options=options)
    clients = [await connect(f"{server.ws}/plain/") for _ in range(60)]

    begun = time.monotonic()
    server.sigterm()
    ends = await asyncio.gather(*(end_of(client) for client in clients))

    per_tenth = Counter(int((at - begun) * 10) for at, _, _ in ends)
    assert {code for _, code, _ in ends} == {1012}
    assert max(per_tenth.values()) <= 12, per_tenth
    assert max(at for at, _, _ in ends) - begun > 2
    assert all(reason.startswith("retry-after=") for _, _, reason in ends)


async def test_the_process_ends_when_the_last_socket_has(drain_site):
    server = drain_site(DRAIN_SECONDS=60)
    async with connect(f"{server.ws}/plain/") as client:
        server.sigterm()
        await end_of(client)

        assert await exit_of(server) == -signal.SIGTERM


async def test_disconnect_handlers_run_and_then_the_lifespan_ends(drain_site):
    server = drain_site(DRAIN_SECONDS=0)
    clients = [await connect(f"{server.ws}/{p}/") for p in ("plain", "sync")]

    server.sigterm()
    await asyncio.gather(*(end_of(client) for client in clients))
    await exit_of(server)

    lines = server.journal.read_text().splitlines()[1:]
    assert sorted(lines[1:3]) == ["plain disconnect 1012", "sync disconnect 1012"]
    assert lines[3].endswith("ended")
    assert len(lines) == 4


async def test_a_handler_that_is_at_work_finishes_first(drain_site):
    server = drain_site(DRAIN_SECONDS=0, DRAIN_GRACE=30)
    async with connect(f"{server.ws}/plain/") as client:
        await client.send("work 1")
        await client.recv()

        server.sigterm()
        _, code, _ = await end_of(client)

    assert code == 1012
    assert server.count("work done") == 1


async def test_a_handler_that_does_not_finish_is_cut_after_the_grace(drain_site):
    server = drain_site(DRAIN_SECONDS=0, DRAIN_GRACE=0.5)
    async with connect(f"{server.ws}/plain/") as client:
        await client.send("work 600")
        await client.recv()

        server.sigterm()
        await exit_of(server)

    assert server.count("work done") == 0
    assert server.count("plain disconnect 1006") == 1


async def test_a_consumer_gets_server_drain_before_its_socket_is_closed(drain_site):
    server = drain_site(DRAIN_SECONDS=0)
    async with connect(f"{server.ws}/polite/") as client:
        server.sigterm()

        assert await client.recv() == "goodbye"
        assert (await end_of(client))[1] == 1012


async def test_a_consumer_may_close_with_its_own_code(drain_site):
    server = drain_site(DRAIN_SECONDS=0)
    async with connect(f"{server.ws}/polite/own/") as client:
        server.sigterm()

        assert (await end_of(client))[1:] == (4100, "moving house")


async def test_new_websockets_are_refused_while_pages_are_served(drain_site):
    server = drain_site(DRAIN_SECONDS=0, DRAIN_GRACE=60)
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


async def test_a_second_sigterm_ends_the_drain_at_once(drain_site):
    server = drain_site(DRAIN_SECONDS=60)
    clients = [await connect(f"{server.ws}/plain/") for _ in range(700)]
    ends = [asyncio.ensure_future(end_of(client)) for client in clients]
    server.sigterm()
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)

    def ended():
        server.sigterm()
        return server.process.poll() is not None

    await asyncio.to_thread(wait_until, ended, what="the end of the process")

    assert {code for _, code, _ in await asyncio.gather(*ends)} == {1012}


async def test_sigint_ends_it_at_once(drain_site):
    server = drain_site(DRAIN_SECONDS=60)
    clients = [await connect(f"{server.ws}/plain/") for _ in range(10)]

    server.process.send_signal(signal.SIGINT)
    ends = await asyncio.gather(*(end_of(client) for client in clients))
    await exit_of(server)

    assert {code for _, code, _ in ends} == {1012}


async def test_sigint_ends_a_drain_at_once(drain_site):
    server = drain_site(DRAIN_SECONDS=60)
    clients = [await connect(f"{server.ws}/plain/") for _ in range(700)]
    ends = [asyncio.ensure_future(end_of(client)) for client in clients]
    server.sigterm()
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)

    server.process.send_signal(signal.SIGINT)
    await asyncio.gather(*ends)

    await exit_of(server)


async def test_every_worker_drains(drain_site):
    server = drain_site(DRAIN_SECONDS=1, options=("--workers", "2"))
    clients = [await connect(f"{server.ws}/plain/") for _ in range(20)]

    server.sigterm()
    ends = await asyncio.gather(*(end_of(client) for client in clients))
    await exit_of(server)

    assert {code for _, code, _ in ends} == {1012}
    assert all(reason.startswith("retry-after=") for _, _, reason in ends)
    assert server.count("plain disconnect 1012") == 20


async def test_sigterm_during_the_start_ends_it_when_it_has_started(drain_site):
    server = drain_site(startup=1)

    server.sigterm()

    assert await exit_of(server) == -signal.SIGTERM
    words = [line.split()[-1] for line in server.journal.read_text().splitlines()]
    assert words == ["starting", "started", "ended"]


# gunicorn: the arbiter is told, and tells its workers.

WORKERS = ("tiderace.server.gunicorn.UvicornWorker", "uvicorn_worker.UvicornWorker")


@pytest.mark.parametrize("worker", WORKERS)
async def test_gunicorns_workers_drain(drain_site, worker):
    server = drain_site(
        server="gunicorn", options=("-k", worker, "-w", "2"), DRAIN_SECONDS=1
    )
    clients = [await connect(f"{server.ws}/plain/") for _ in range(20)]

    server.sigterm()
    ends = await asyncio.gather(*(end_of(client) for client in clients))

    assert await exit_of(server) == 0
    assert {code for _, code, _ in ends} == {1012}
    assert all(reason.startswith("retry-after=") for _, _, reason in ends)
    assert server.count("plain disconnect 1012") == 20


async def test_a_reload_of_gunicorn_drains_the_old_worker(drain_site):
    options = ("-k", WORKERS[0], "-w", "1")
    server = drain_site(server="gunicorn", options=options, DRAIN_SECONDS=3)
    clients = [await connect(f"{server.ws}/plain/") for _ in range(60)]

    begun = time.monotonic()
    server.process.send_signal(signal.SIGHUP)
    ends = await asyncio.gather(*(end_of(client) for client in clients))

    assert {code for _, code, _ in ends} == {1012}
    assert max(at for at, _, _ in ends) - begun > 2
    assert max(Counter(int((at - begun) * 10) for at, _, _ in ends).values()) <= 12


async def test_sigint_ends_gunicorn_at_once(drain_site):
    options = ("-k", WORKERS[0], "-w", "1")
    server = drain_site(server="gunicorn", options=options, DRAIN_SECONDS=60)
    clients = [await connect(f"{server.ws}/plain/") for _ in range(3)]

    server.process.send_signal(signal.SIGINT)
    ends = await asyncio.gather(*(end_of(client) for client in clients))

    await exit_of(server)
    assert {code for _, code, _ in ends} == {1012}
