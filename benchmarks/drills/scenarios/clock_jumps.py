"""The sender's wall clock jumps by up to a day, five times a second."""

from __future__ import annotations

import asyncio

from benchmarks.drills.harness import Harness
from benchmarks.drills.ledger import Row
from support.servers.brokers import Server

STACKS = ("tiderace", "channels")


async def drill(harness: Harness) -> Row:
    broker = harness.enter(Server())
    harness.configure(broker.url)

    traffic = await harness.traffic(await harness.sites(), clock=True)
    await asyncio.sleep(6)

    return await traffic.finish()
