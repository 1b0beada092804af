"""The broker is killed and restarted with its append-only file."""

from __future__ import annotations

import asyncio

from benchmarks.drills.harness import Harness
from benchmarks.drills.ledger import Row
from support.servers.brokers import Server

STACKS = ("tiderace", "channels")


async def drill(harness: Harness) -> Row:
    broker = harness.enter(Server(append_only=True, lines=("appendfsync always",)))
    harness.configure(broker.url)
    traffic = await harness.traffic(await harness.sites())

    for down in (0.0, 0.5, 2.0):
        await asyncio.to_thread(broker.restart, down=down)
        await traffic.wait_for_delivery()
        await asyncio.sleep(1)

    row = await traffic.finish()
    if harness.is_tiderace:
        row.require(not row.lost, "something was lost although it is in the file")
    return row
