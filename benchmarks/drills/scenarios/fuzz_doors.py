"""Random and broken requests to all HTTP endpoints and WebSocket handshakes."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

from benchmarks.drills.harness import Harness, count_leftovers
from benchmarks.drills.ledger import Row
from support.servers.brokers import Server

STACKS = ("tiderace",)


KEY = "a key of the HTTP API for the drill"
PATHS = (
    "connection/websocket", "connection/http_stream", "connection/sse",
    "connection/emulation", "connection/events", "connection/api/publish",
    "connection/api/history", "connection/api", "connection/nothing", "group/a/",
    "exits/a/", "healthz", "readyz", "nowhere", "", "%00", "..%2f",
)  # fmt: skip
QUERIES = (
    "", "?topic=stream:a", "?topic=", "?topic=%ff", "?a=" + "1&a=" * 1500, "?" * 20,
    "?cf_connect={}", "?cf_connect=%7B%22id%22:1%7D", "?topic=stream:a&token=a.b.c",
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "OPTIONS", "HEAD", "DELETE", "PATCH", "get", "X")
HEADERS = (
    "Content-Type: application/json", "Content-Type: application/octet-stream",
    "Content-Type: text/plain; charset=nonsense", "Accept: text/event-stream",
    "Origin: null", "Origin: http://elsewhere", "Origin: :", "Origin: http://[",
    "Last-Event-ID: 1", "Last-Event-ID: epoch:99999999999999999999", "Cookie: a=b; c",
    "Cookie: sessionid=" + "x" * 500, f"X-API-Key: {KEY}", "X-API-Key: ü",
    f"Authorization: apikey {KEY}", "Authorization: Bearer a.b.c", "Authorization: x",
    "X-Forwarded-For: nobody", "Upgrade: websocket", "Connection: Upgrade",
    "Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 99", "Sec-WebSocket-Key: short",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol: a, b",
    "Sec-WebSocket-Protocol: centrifuge-protobuf", "Sec-WebSocket-Extensions: x; y=z",
    "Host: elsewhere", "Host: a b", "Expect: 100-continue", "Content-Encoding: gzip",
)  # fmt: skip
BODIES = (
    b"", b"{}", b"{", b"null", b"[[]]", b"\xff\xfe", b"\x00" * 100, b"[" * 5000,
    b'{"id":1,"connect":{}}', b'{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"stream:a"}}',
    b'{"session":"x","node":"y","data":"z"}', b'{"session":1}', b'{"channel":"stream:a","data":1}',
    b'{"method":"publish","params":{"channel":"stream:a","data":NaN}}', b'{"limit":-1}',
)  # fmt: skip


async def drill(harness: Harness) -> Row:
    broker = harness.enter(Server())
    harness.configure(broker.url, tiderace={"TOPICS": {"API_KEYS": [KEY]}})
    sites = await harness.sites(1)
    traffic = await harness.traffic(sites, members=4, clients=4, rate=20)
    before = await sites[0].measurements()
    failed: list[bytes] = []
    statuses: Counter[int] = Counter()
    deadline = time.monotonic() + harness.seconds

    async def attack(seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < deadline and sites[0].running:
            data = _bytes(rng)
            status = await _request(sites[0].port, data)
            statuses[status] += 1
            if status in (500, 502):
                failed.append(data[:300])

    await asyncio.gather(*(attack(seed) for seed in range(12)))

    row = await traffic.finish()
    row.failures += [f"500 for {data!r}" for data in failed[:5]]
    await count_leftovers(row, sites[0], before)
    row.notes.append(f"{statuses.total()} requests: {dict(statuses)}")
    harness.count_errors(row)
    return row


async def _request(port: int, data: bytes) -> int:
    """Send a request and return the status of the answer; 0 if there is none."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(0.2):
            line = await reader.readline()
        return int(line.split()[1]) if line else 0
    except (OSError, TimeoutError, ValueError):
        return 0
    finally:
        writer.transport.abort()


def _bytes(rng: random.Random) -> bytes:
    """Return a request, often a broken one."""
    body = rng.choice(BODIES)
    method = rng.choice(METHODS[: rng.randint(1, 9)])
    lines = [f"{method} /{rng.choice(PATHS)}{rng.choice(QUERIES)} HTTP/1.1"]
    if rng.random() < 0.9:
        lines.append("Host: 127.0.0.1")
    lines += rng.sample(HEADERS, rng.randint(0, 7))
    if rng.random() < 0.3:
        lines += [each for each in HEADERS if "ocket" in each][:3]
    match rng.randrange(4):
        case 0:
            lines.append("Transfer-Encoding: chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        case 1:
            lines.append(f"Content-Length: {rng.choice((0, 1, 10**9, -1))}")
        case _:
            lines.append(f"Content-Length: {len(body)}")
    data = bytearray("\r\n".join([*lines, "", ""]).encode() + body)
    if rng.random() < 0.2:
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)
