"""Groups are distributed over four brokers, and two of them are killed."""

from __future__ import annotations

import asyncio

from benchmarks.drills.harness import Harness
from benchmarks.drills.ledger import Row
from support.servers.brokers import Server

STACKS = ("tiderace", "channels")


async def drill(harness: Harness) -> Row:
    brokers = [harness.enter(Server(append_only=True)) for _ in range(4)]
    harness.configure(*(broker.url for broker in brokers))
    traffic = await harness.traffic(await harness.sites(), groups=20, topics=10)

    for broker in brokers[:2]:
        await asyncio.to_thread(broker.restart, down=0.5)
        await traffic.wait_for_delivery()
    await asyncio.sleep(1)

    return await traffic.finish()
