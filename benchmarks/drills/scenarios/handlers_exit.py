"""Handlers call sys.exit() or raise CancelledError."""

from __future__ import annotations

import asyncio
import contextlib

from benchmarks.drills.harness import Harness, count_leftovers, crowd
from benchmarks.drills.ledger import Row
from support.servers.brokers import Server

STACKS = ("tiderace", "channels")

TOPIC = (
    "/connection/websocket",
    '{"id": 1, "connect": {}}',
    '{"id": 2, "subscribe": {"channel": "exits:a"}}',
    '{"id": 3, "publish": {"channel": "exits:a", "data": {}}}',
)


async def drill(harness: Harness) -> Row:
    broker = harness.enter(Server())
    harness.configure(broker.url)
    sites = await harness.sites(1)
    traffic = await harness.traffic(sites, members=10, clients=10, rate=40)
    before = await sites[0].measurements()

    for path, *messages in (
        ("/exits/bad/", "cancelled"),
        ("/exits/bad/", "exit"),
        ("/syncexits/", "exit"),
        *((TOPIC,) if harness.is_tiderace else ()),
    ):
        # An ended server refuses them.
        with contextlib.suppress(OSError):
            for socket in await crowd(path, sites[0].port, 5):
                for message in messages:
                    socket.send(message)
        await asyncio.sleep(1)

    row = await traffic.finish()
    row.require(sites[0].running, "the server has ended")
    if sites[0].running:
        await count_leftovers(row, sites[0], before, "bad")
    return row
