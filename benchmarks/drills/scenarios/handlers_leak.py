"""Handlers of 100 sockets start 300 endless tasks."""

from __future__ import annotations

import asyncio

from benchmarks.drills.harness import Harness, count_leftovers, crowd
from benchmarks.drills.ledger import Row
from support.servers.brokers import Server

STACKS = ("tiderace",)


async def drill(harness: Harness) -> Row:
    broker = harness.enter(Server())
    harness.configure(broker.url)
    sites = await harness.sites(1)
    traffic = await harness.traffic(sites, members=10, clients=10, rate=40)
    before = await sites[0].measurements()

    sockets = await crowd("/leaks/bad/", sites[0].port, 100)
    for socket in sockets:
        socket.send("x")
    await asyncio.sleep(1)
    during = await sites[0].measurements()
    for socket in sockets:
        socket.abort()

    row = await traffic.finish()
    row.notes.append(f"{during['tasks'] - before['tasks']} more tasks meanwhile")
    await count_leftovers(row, sites[0], before, "bad")
    return row
