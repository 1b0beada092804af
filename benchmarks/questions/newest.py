"""How much of a core do 10,000 updates per second to 1,000 slow readers take?

A topic with ``deliver = Latest(rate="5/s", key="key")`` gets updates of a hundred keys
in the process that serves its subscribers. At the end each subscriber must have the
newest value of each key, and none may have got more than the rate allows.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from typing import cast

from websockets.asyncio.client import connect

from benchmarks.client_protocols import Script
from benchmarks.contenders import Contender, Server, served
from benchmarks.frames import RunFailed, masked_frame, parse_frame
from benchmarks.plan import Plan
from benchmarks.report import Figure, Question

__all__ = ["QUESTION", "run"]

CONTENDER = "tiderace-newest-server"
QUESTION = Question(
    "newest",
    "Cores that 10,000 updates per second to subscribers at 5 per second take",
    "cores",
    more_is_better=False,
    baseline=CONTENDER,
)
RATE = 10_000
KEYS = 100
PACE = 5
# Seconds for the last delivery after the last update.
TAIL = 10


async def run(plan: Plan) -> None:
    for size in plan.sizes or [1000]:
        for contender in plan.alternate((CONTENDER,)):
            with served(contender) as server:
                await measure(plan, contender, server, size)


async def measure(plan: Plan, contender: Contender, server: Server, size: int) -> None:
    port = server.ports[0]
    loop = asyncio.get_running_loop()
    readers = [Reader(contender.fan) for _ in range(size)]
    try:
        for reader in readers:
            await loop.create_connection(lambda r=reader: r, "127.0.0.1", port)
        async with asyncio.timeout(60):
            await asyncio.gather(*(reader.subscribed.wait() for reader in readers))
        await drive(port, 0.5)
        first = sum(reader.count for reader in readers)
        before, started = server.cpu_seconds(), time.perf_counter()
        updates = await drive(port, plan.seconds * 2)
        took = time.perf_counter() - started
        used = server.cpu_seconds() - before
        received = sum(reader.count for reader in readers) - first
        if updates / took < RATE * 0.97:
            raise RunFailed(f"only {updates / took:,.0f} updates per second were made")
        if received > size * (took * PACE + 2):
            raise RunFailed(f"{received / took / size:.1f} messages per s and reader")
        await verify(readers, updates)
    finally:
        for reader in readers:
            reader.close()
    case = f"{size:,} subscribers"
    more = {"messages per s": received / took, "updates per s": updates / took}
    plan.report.add(Figure(QUESTION.name, contender.name, case, used / took, more))


async def drive(port: int, seconds: float) -> int:
    """Have the server publish for ``seconds``; return the number of updates."""
    order = {"rate": RATE, "seconds": seconds, "keys": KEYS}
    async with connect(f"ws://127.0.0.1:{port}/drive/") as client:
        await client.send(json.dumps(order))
        return int(await client.recv())


async def verify(readers: list[Reader], updates: int) -> None:
    """Return when every reader has the newest value of each key.

    Raises:
        RunFailed: when one does not get it.
    """
    newest = {number % KEYS: number for number in range(updates - KEYS, updates)}
    deadline = time.monotonic() + TAIL
    for reader in readers:
        while reader.newest() != newest:
            if time.monotonic() > deadline:
                raise RunFailed("a subscriber has not the newest value of each key")
            await asyncio.sleep(0.05)


class Reader(asyncio.Protocol):
    """A subscriber that counts its messages and keeps the last ones."""

    def __init__(self, script: Script) -> None:
        self.subscribed = asyncio.Event()
        self.count = 0
        self._script = script
        self._greeting = deque(script.greeting)
        self._data = b""
        # Older ones than these are no longer the newest of a key at this rate.
        self._last: deque[bytes] = deque(maxlen=4)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(
            f"GET {self._script.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._data.startswith(b"HTTP"):
            head, found, rest = self._data.partition(b"\r\n\r\n")
            if not found:
                return
            assert head.startswith(b"HTTP/1.1 101"), head
            self._data = rest
            self._transport.write(masked_frame(self._script.opening))
        place = 0
        while (found_frame := parse_frame(self._data, place)) is not None:
            payload, place = found_frame
            if self._greeting:
                _, answer = self._greeting.popleft()
                if answer:
                    self._transport.write(masked_frame(answer))
                if not self._greeting:
                    self.subscribed.set()
                continue
            self.count += 1
            self._last.append(bytes(payload))
        self._data = self._data[place:]

    def newest(self) -> dict[int, int]:
        """Return the last value of each key."""
        values: dict[int, int] = {}
        for message in self._last:
            for line in message.split(b"\n"):
                data = json.loads(line)["push"]["pub"]["data"]
                values[data["key"]] = data["number"]
        return values

    def close(self) -> None:
        self._transport.abort()
