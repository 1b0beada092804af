"""30 sockets a second join, stay for up to 3 s, and disappear."""

from __future__ import annotations

import asyncio

from benchmarks.drills.harness import Harness, count_leftovers
from benchmarks.drills.ledger import Row
from benchmarks.drills.websocket import WebSocket
from support.servers.brokers import Server

STACKS = ("tiderace", "channels")


async def drill(harness: Harness) -> Row:
    broker = harness.enter(Server())
    harness.configure(broker.url)
    sites = await harness.sites(1)
    traffic = await harness.traffic(sites, members=20)
    before, keys = await sites[0].measurements(), broker.keys()

    async def come_and_go() -> None:
        socket = await WebSocket.open(sites[0].port, "/group/group-0/")
        await asyncio.sleep(traffic.random.uniform(0, 3))
        socket.abort()

    async with asyncio.TaskGroup() as visitors:
        for _ in range(450):
            visitors.create_task(come_and_go())
            await asyncio.sleep(1 / 30)

    row = await traffic.finish()
    await count_leftovers(row, sites[0], before)
    members = await sites[0].get("members", "group-0")
    here = sum(each.receiver.stream == "group-0" for each in traffic.members)
    row.leaked += members - here
    lasting = broker.keys() - keys
    row.notes.append(f"450 sockets came and went; {len(lasting)} new keys in Redis")
    return row
