"""Two servers behind the deployment guide's nginx are restarted one after the other."""

from __future__ import annotations

import asyncio
import signal
import time

from benchmarks.drills.harness import Harness
from benchmarks.drills.ledger import Row
from benchmarks.drills.processes import Site
from benchmarks.drills.registry import Unavailable
from support.servers.brokers import Server
from support.servers.nginx import nginx_before, nginx_program
from support.servers.ports import free_port

STACKS = ("tiderace", "channels")


async def drill(harness: Harness) -> Row:
    program = nginx_program()
    if program is None:
        raise Unavailable("there is no nginx; Debian has it as a package")
    broker = harness.enter(Server())
    harness.configure(broker.url, tiderace={"DRAIN_SECONDS": 6})
    sites = await harness.sites()
    port = free_port()
    hosts = [f"127.0.0.1:{site.port}" for site in sites]
    harness.enter(nginx_before(program, harness.folder, port, hosts))
    traffic = await harness.traffic(
        sites, members=100, clients=300, topics=10, rate=60, port=lambda: port
    )

    seconds = [await _restart(site) for site in sites]

    row = await traffic.finish(timeout=30)
    row.notes.append(f"the processes ended after {seconds[0]} s and {seconds[1]} s")
    lasting = sum(not each.connected for each in traffic.reconnecting)
    row.require(not lasting, f"{lasting} clients did not return")
    refused = sum(
        count
        for client in traffic.reconnecting
        for code, count in client.codes.items()
        if code in (0, 502, 504)
    )
    row.require(not refused, f"{refused} attempts failed at nginx")
    return row


async def _restart(site: Site) -> float:
    begun = time.monotonic()
    site.signal(signal.SIGTERM)
    await site.wait()
    seconds = round(time.monotonic() - begun, 1)
    await site.start()
    # nginx does not try a server for five seconds after a failure.
    await asyncio.sleep(6)
    return seconds
