"""One of two servers is killed; its clients return to the other one."""

from __future__ import annotations

import asyncio

from benchmarks.drills.harness import Harness, until
from benchmarks.drills.ledger import Row
from support.servers.brokers import Server

STACKS = ("tiderace", "channels")


async def drill(harness: Harness) -> Row:
    broker = harness.enter(Server())
    harness.configure(broker.url, layer={"lease": 3} if harness.is_tiderace else {})
    sites = await harness.sites()
    traffic = await harness.traffic(sites)
    groups = {member.receiver.stream for member in traffic.members}

    await sites[1].kill()
    clients = traffic.reconnecting
    await until(lambda: all(client.connected for client in clients), 30)
    await asyncio.sleep(7)  # twice the lease

    row = await traffic.finish()
    counts = [await sites[0].get("members", group) for group in groups]
    row.leaked = sum(counts) - len(traffic.members)
    row.notes.append(f"{row.leaked} members of the killed process remain")
    lasting = sum(not each.connected for each in clients)
    row.require(not lasting, f"{lasting} clients did not return")
    return row
