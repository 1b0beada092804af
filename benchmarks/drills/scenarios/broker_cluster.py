"""A primary of a cluster is cut off 30 times, then killed; its replica takes over."""

from __future__ import annotations

import asyncio

from benchmarks.drills.harness import Harness
from benchmarks.drills.ledger import Row
from support.servers.brokers import Cluster

STACKS = ("tiderace",)


async def drill(harness: Harness) -> Row:
    cluster = harness.enter(Cluster(replicas=True))
    harness.configure(cluster.host)
    traffic = await harness.traffic(await harness.sites())

    for number in range(30):
        for node in cluster.nodes:
            kind = ("pubsub", "normal")[number % 2]
            await asyncio.to_thread(node.client_kill, kind)
        await asyncio.sleep(traffic.random.uniform(0.05, 0.2))
    took = await asyncio.to_thread(cluster.fail_over, 1)
    await traffic.wait_for_delivery()
    await asyncio.sleep(2)

    row = await traffic.finish()
    row.notes.append(f"the replica took over after {took:.1f} s")
    return row
