"""The broker is killed and restarted without its data."""

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

    for _ in range(2):
        await asyncio.to_thread(broker.restart, down=0.5)
        await traffic.wait_for_delivery()
        await asyncio.sleep(1)

    return await traffic.finish()
