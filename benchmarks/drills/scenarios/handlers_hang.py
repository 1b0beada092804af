"""Handlers of 90 sockets never return, hang in disconnect, swallow cancellation."""

from __future__ import annotations

import asyncio
import signal
import time

from benchmarks.drills.harness import Harness, count_leftovers, crowd
from benchmarks.drills.ledger import Row
from benchmarks.drills.websocket import WebSocket
from support.servers.brokers import Server

STACKS = ("tiderace", "channels")


async def drill(harness: Harness) -> Row:
    broker = harness.enter(Server())
    harness.configure(broker.url, tiderace={"DRAIN_SECONDS": 1, "DRAIN_GRACE": 2})
    sites = await harness.sites(1)
    traffic = await harness.traffic(sites, members=10, clients=10, rate=40)
    before = await sites[0].measurements()

    async def hang() -> list[WebSocket]:
        sockets = []
        for where in ("receive", "disconnect", "swallow"):
            sockets += await crowd(f"/hangs/{where}/bad/", sites[0].port, 30)
        for socket in sockets:
            socket.send("x")
        await asyncio.sleep(1)
        return sockets

    for socket in await hang():
        socket.abort()
    # No task can be ended that swallows its cancellation; it is logged.
    before["tasks"] += 30
    leftovers = Row()
    await count_leftovers(leftovers, sites[0], before, "bad", timeout=25)
    row = await traffic.finish()
    row.leaked = leftovers.leaked
    row.notes += leftovers.notes
    await hang()
    begun = time.monotonic()
    sites[0].signal(signal.SIGTERM)
    try:
        await sites[0].wait(25)
        row.notes.append(f"the process ended after {time.monotonic() - begun:.1f} s")
    except TimeoutError:
        row.failures.append("the process does not end on SIGTERM")
    return row
