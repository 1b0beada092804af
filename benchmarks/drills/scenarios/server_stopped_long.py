"""A server is stopped and cut off for longer than its messages are kept."""

from __future__ import annotations

import asyncio
import signal

from benchmarks.drills.harness import Harness
from benchmarks.drills.ledger import Row
from support.servers.brokers import Server

STACKS = ("tiderace", "channels")


async def drill(harness: Harness) -> Row:
    broker = harness.enter(Server())
    harness.configure(broker.url, layer={"expiry": 4})
    sites = await harness.sites()
    traffic = await harness.traffic(sites, rate=100)

    sites[1].signal(signal.SIGSTOP)
    await asyncio.sleep(1)
    await asyncio.to_thread(broker.client_kill, "pubsub")
    await asyncio.sleep(14)
    sites[1].signal(signal.SIGCONT)
    await traffic.wait_for_delivery()
    await asyncio.sleep(2)

    return await traffic.finish()
