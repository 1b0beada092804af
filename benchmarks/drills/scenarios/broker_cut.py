"""All connections to the broker are cut 100 times."""

from __future__ import annotations

import asyncio

from benchmarks.drills.harness import Harness
from benchmarks.drills.ledger import Row
from support.servers.brokers import Server

STACKS = ("tiderace", "channels")


async def drill(harness: Harness) -> Row:
    broker = harness.enter(Server())
    harness.configure(broker.url)
    traffic = await harness.traffic(await harness.sites())

    cut = 0
    for number in range(100):
        kind = ("pubsub", "normal")[number % 2]
        cut += await asyncio.to_thread(broker.client_kill, kind)
        await asyncio.sleep(traffic.random.uniform(0.02, 0.25))

    row = await traffic.finish()
    row.notes.append(f"{cut} connections cut")
    return row
