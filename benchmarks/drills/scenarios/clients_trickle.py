"""100 clients send their requests and messages one byte at a time."""

from __future__ import annotations

import asyncio

from benchmarks.drills.harness import Harness, count_leftovers
from benchmarks.drills.ledger import Row
from benchmarks.drills.websocket import handshake
from support.servers.brokers import Server

STACKS = ("tiderace", "channels")


async def drill(harness: Harness) -> Row:
    broker = harness.enter(Server())
    harness.configure(broker.url)
    sites = await harness.sites(1)
    traffic = await harness.traffic(sites, members=10, clients=10, rate=40)
    before = await sites[0].measurements()

    request = handshake(sites[0].port, "/group/slow/")
    message = b"\x81\x86\0\0\0\0" + b"trickl"
    served = await asyncio.gather(
        *(_trickle(sites[0].port, request + message) for _ in range(100))
    )

    row = await traffic.finish()
    row.require(all(served), f"{served.count(False)} slow clients got no answer")
    await count_leftovers(row, sites[0], before, "slow")
    return row


async def _trickle(port: int, data: bytes) -> bool:
    """Send ``data`` byte by byte; return whether the message came back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for number in range(len(data)):
            writer.write(data[number : number + 1])
            await asyncio.sleep(0.03)
        async with asyncio.timeout(20):
            await reader.readuntil(b"trickl")
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
    finally:
        writer.transport.abort()
    return True
