"""The primary behind Sentinel is killed; its replica takes over."""

from __future__ import annotations

import asyncio

from benchmarks.drills.harness import Harness
from benchmarks.drills.ledger import Row
from support.servers.brokers import SentinelSetup

STACKS = ("tiderace", "channels")


async def drill(harness: Harness) -> Row:
    sentinel = harness.enter(SentinelSetup(sentinels=3, replicas=1))
    harness.configure(sentinel.host)
    traffic = await harness.traffic(await harness.sites())

    took = await asyncio.to_thread(sentinel.fail_over)
    await traffic.wait_for_delivery()
    await asyncio.sleep(2)

    row = await traffic.finish()
    row.notes.append(f"another primary after {took:.1f} s")
    return row
