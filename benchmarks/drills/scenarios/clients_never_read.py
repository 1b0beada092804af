"""80 clients never read, over WebSocket, HTTP streaming and server-sent events."""

from __future__ import annotations

import asyncio
import socket

from benchmarks.drills.harness import Harness, count_leftovers, crowd
from benchmarks.drills.ledger import Row
from support.servers.brokers import Server

STACKS = ("tiderace", "channels")


async def drill(harness: Harness) -> Row:
    broker = harness.enter(Server())
    harness.configure(broker.url)
    pings = ("--ws-ping-interval", "5", "--ws-ping-timeout", "5")
    sites = await harness.sites(1, *pings)
    site = sites[0]
    before = await site.measurements()
    traffic = await harness.traffic(
        sites, members=4, groups=1, direct=0, clients=4, topics=1, rate=150, size=8000
    )

    idle = await crowd("/group/group-0/", site.port, 20, buffer=4096)
    for each in idle:
        each.transport.pause_reading()
    requests = await _open_requests(harness, site.port)
    peak = 0
    for _ in range(20):
        await asyncio.sleep(1)
        peak = max(peak, (await site.measurements())["resident"])

    row = await traffic.finish()
    traffic.close()
    grown = (peak - before["resident"]) >> 20
    row.notes.append(f"the process grew by {grown} MB at most")
    row.require(grown < 200, f"the process grew by {grown} MB")
    await count_leftovers(row, site, before, timeout=40)
    for request in requests:
        request.close()
    return row


async def _open_requests(harness: Harness, port: int) -> list[socket.socket]:
    """Open connections to the topics' transports that nothing reads."""
    if not harness.is_tiderace:
        return []
    host = f"Host: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\n"
    subscribe = '{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"stream:0"}}'
    post = f"Content-Type: application/json\r\nContent-Length: {len(subscribe)}\r\n"
    heads = (
        f"GET /connection/events?topic=stream:0 HTTP/1.1\r\n{host}\r\n",
        f"POST /connection/http_stream HTTP/1.1\r\n{host}{post}\r\n{subscribe}",
        f"POST /connection/sse HTTP/1.1\r\n{host}{post}\r\n{subscribe}",
    )
    requests = []
    for number in range(60):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.to_thread(connection.connect, ("127.0.0.1", port))
        connection.sendall(heads[number % 3].encode())
        requests.append(connection)
    return requests
