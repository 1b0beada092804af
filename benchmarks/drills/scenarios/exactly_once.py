"""Publications with a key are repeated until accepted, while the broker is cut off and killed."""

from __future__ import annotations

import asyncio

from benchmarks.drills.harness import Harness
from benchmarks.drills.ledger import Row
from support.servers.brokers import Server

STACKS = ("tiderace",)


async def drill(harness: Harness) -> Row:
    broker = harness.enter(Server(append_only=True, lines=("appendfsync always",)))
    harness.configure(broker.url)
    sites = await harness.sites()
    traffic = await harness.traffic(
        sites, members=0, direct=0, groups=0, rate=60, keyed=True
    )

    for number in range(40):
        kind = ("pubsub", "normal")[number % 2]
        await asyncio.to_thread(broker.client_kill, kind)
        await asyncio.sleep(traffic.random.uniform(0.02, 0.25))
    await asyncio.to_thread(broker.restart, down=1)
    await traffic.wait_for_delivery()
    await asyncio.sleep(1)

    row = await traffic.finish()
    row.require(not row.lost, f"{row.lost} publications did not reach a client")
    for topic, sent in traffic.ledger.sent.items():
        kept = [number for _, number in await sites[0].get("history", topic)]
        row.require(kept == [*range(sent.total)], f"the history of {topic} differs")
    return row
