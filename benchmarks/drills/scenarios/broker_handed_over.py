"""A planned failover by Sentinel; the old primary becomes the replica."""

from __future__ import annotations

import asyncio

from benchmarks.drills.harness import Harness, until
from benchmarks.drills.ledger import Row
from support.servers.brokers import SentinelSetup

STACKS = ("tiderace", "channels")


async def drill(harness: Harness) -> Row:
    sentinel = harness.enter(SentinelSetup(sentinels=3, replicas=1))
    harness.configure(sentinel.host)
    traffic = await harness.traffic(await harness.sites())

    primary, watcher = sentinel.primary(), sentinel.sentinels[0]
    await asyncio.to_thread(watcher.call, "SENTINEL", "FAILOVER", sentinel.name)
    await until(lambda: sentinel.primary() is not primary)
    await traffic.wait_for_delivery()
    await asyncio.sleep(2)

    return await traffic.finish()
