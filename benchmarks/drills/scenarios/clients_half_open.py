"""100 clients stay connected and answer no ping."""

from __future__ import annotations

import time

from benchmarks.drills.harness import Harness, count_leftovers, crowd, until
from benchmarks.drills.ledger import Row
from support.servers.brokers import Server

STACKS = ("tiderace", "channels")


async def drill(harness: Harness) -> Row:
    broker = harness.enter(Server())
    harness.configure(broker.url, tiderace={"TOPICS": {"PING": 2, "PONG_TIMEOUT": 1}})
    pings = ("--ws-ping-interval", "2", "--ws-ping-timeout", "2")
    sites = await harness.sites(1, *pings)
    traffic = await harness.traffic(sites, members=10, clients=10, rate=40)
    before = await sites[0].measurements()

    sockets = await crowd("/group/quiet/", sites[0].port, 50, pongs=False)
    if harness.is_tiderace:
        silent = await crowd("/connection/websocket", sites[0].port, 50)
        for socket in silent:
            socket.send('{"id": 1, "connect": {}}')
        sockets += silent
    begun = time.monotonic()
    await until(lambda: all(socket.closed for socket in sockets), 15)
    seconds = time.monotonic() - begun

    row = await traffic.finish()
    still = sum(not socket.closed for socket in sockets)
    row.require(not still, f"{still} clients that answer nothing are still connected")
    row.notes.append(f"all were disconnected after {seconds:.1f} s")
    await count_leftovers(row, sites[0], before, "quiet")
    return row
