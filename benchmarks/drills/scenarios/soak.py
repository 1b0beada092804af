"""Traffic, visitors and a cut of the broker every 10 s, for ten minutes or as long as wanted."""

from __future__ import annotations

import asyncio
import contextlib
import time

from benchmarks.drills.harness import Harness, count_leftovers
from benchmarks.drills.ledger import Row
from benchmarks.drills.websocket import Refused, WebSocket
from support.servers.brokers import Server

STACKS = ("tiderace",)


# Growth of the memory of a process that caches may cause, in bytes.
ALLOWED = 24 << 20


async def drill(harness: Harness) -> Row:
    broker = harness.enter(Server())
    harness.configure(broker.url)
    sites = await harness.sites()
    traffic = await harness.traffic(sites)

    async def visit() -> None:
        site = traffic.random.choice(sites)
        with contextlib.suppress(OSError, Refused):
            socket = await WebSocket.open(site.port, "/group/visitors/")
            await asyncio.sleep(traffic.random.uniform(0, 5))
            socket.abort()

    before = [await site.measurements() for site in sites]
    warm: list[int] = []
    begun = time.monotonic()
    async with asyncio.TaskGroup() as visitors:
        second = 0
        while time.monotonic() - begun < harness.seconds:
            second += 1
            for _ in range(10):
                visitors.create_task(visit())
                await asyncio.sleep(0.1)
            if second % 10 == 0:
                await asyncio.to_thread(broker.client_kill, "pubsub", "normal")
            if second == min(30, harness.seconds // 3):
                warm = [(await site.measurements())["resident"] for site in sites]

    row = await traffic.finish()
    for site, earlier, resident in zip(sites, before, warm, strict=True):
        await count_leftovers(row, site, earlier, "visitors")
        grown = (await site.measurements())["resident"] - resident
        row.notes.append(f"a process grew by {grown / 1024:,.0f} KB")
        row.require(grown < ALLOWED, f"a process grew by {grown >> 20} MB")
    return row
