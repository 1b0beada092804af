"""The broker has no memory left for 4 s."""

from __future__ import annotations

import asyncio

from benchmarks.drills.harness import Harness
from benchmarks.drills.ledger import Row
from support.servers.brokers import Server

STACKS = ("tiderace", "channels")


async def drill(harness: Harness) -> Row:
    broker = harness.enter(Server(lines=("maxmemory-policy noeviction",)))
    harness.configure(broker.url)
    traffic = await harness.traffic(await harness.sites())

    await asyncio.to_thread(broker.call, "CONFIG", "SET", "maxmemory", 1)
    await asyncio.sleep(4)
    await asyncio.to_thread(broker.call, "CONFIG", "SET", "maxmemory", 0)
    await traffic.wait_for_delivery()
    await asyncio.sleep(2)

    return await traffic.finish()
