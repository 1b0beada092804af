"""1,000 and then 5,000 clients disappear at the same moment."""

from __future__ import annotations

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

    leftovers = Row()
    for number in (1000, 5000):
        sockets = await crowd("/group/crowd/", sites[0].port, number)
        for socket in sockets:
            socket.abort()
        await count_leftovers(leftovers, sites[0], before, "crowd")

    row = await traffic.finish()
    row.leaked = leftovers.leaked
    row.notes += leftovers.notes
    return row
