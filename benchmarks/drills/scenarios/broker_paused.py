"""The broker is stopped for 5 s, with its connections open."""

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

    broker.pause()
    await asyncio.sleep(5)
    broker.resume()
    await traffic.wait_for_delivery()
    await asyncio.sleep(2)

    row = await traffic.finish()
    if harness.is_tiderace:
        row.require(not row.lost, "something was lost although the broker has it")
    return row
