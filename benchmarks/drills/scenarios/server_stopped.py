"""A server is stopped for 6 s, with its connections open."""

from __future__ import annotations

import asyncio
import signal

from benchmarks.drills.harness import Harness
from benchmarks.drills.ledger import Row
from support.servers.brokers import Server

STACKS = ("tiderace", "channels")


async def drill(harness: Harness) -> Row:
    broker = harness.enter(Server())
    harness.configure(broker.url)
    sites = await harness.sites()
    traffic = await harness.traffic(sites)

    sites[1].signal(signal.SIGSTOP)
    await asyncio.sleep(6)
    sites[1].signal(signal.SIGCONT)
    await traffic.wait_for_delivery()
    await asyncio.sleep(1)

    return await traffic.finish()
