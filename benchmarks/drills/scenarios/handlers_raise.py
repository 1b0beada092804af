"""Handlers of 200 sockets raise an error: on connect, message, event, disconnect."""

from __future__ import annotations

import asyncio

from benchmarks.drills.harness import Harness, count_leftovers, crowd
from benchmarks.drills.ledger import Row
from support.servers.brokers import Server

STACKS = ("tiderace", "channels")


async def drill(harness: Harness) -> Row:
    broker = harness.enter(Server())
    harness.configure(broker.url)
    sites = await harness.sites(1)
    traffic = await harness.traffic(sites, members=10, clients=10, rate=40)
    before = await sites[0].measurements()

    sender = await harness.sender(["bad"], rate=10)
    for where in ("connect", "receive", "event", "disconnect"):
        sockets = await crowd(f"/raises/{where}/bad/", sites[0].port, 50)
        for socket in sockets:
            socket.send("x")
        await asyncio.sleep(1)
        for socket in sockets:
            socket.abort()
    await sender.stop()

    row = await traffic.finish()
    await count_leftovers(row, sites[0], before, "bad")
    return row
