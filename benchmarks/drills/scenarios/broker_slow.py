"""The broker answers after 0.3 s, then 32 bytes at a time."""

from __future__ import annotations

import asyncio

from benchmarks.drills.harness import Harness
from benchmarks.drills.ledger import Row
from benchmarks.drills.slow_proxy import SlowProxy
from support.servers.brokers import Server

STACKS = ("tiderace", "channels")


async def drill(harness: Harness) -> Row:
    broker = harness.enter(Server())
    proxy = await harness.enter_async(SlowProxy(broker.port))
    harness.configure(proxy.url)
    traffic = await harness.traffic(await harness.sites(), rate=100)

    proxy.delay = 0.3
    await asyncio.sleep(6)
    proxy.delay, proxy.size = 0.001, 32
    await asyncio.sleep(6)
    proxy.delay, proxy.size = 0.0, 65536
    await traffic.wait_for_delivery()

    row = await traffic.finish()
    if harness.is_tiderace:
        row.require(not row.lost, "something was lost although the broker has it")
    return row
