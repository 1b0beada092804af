"""Drills without a fault: changing memberships, several servers, clocks that jump."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import Any

from tiderace.exceptions import ChannelFull
from tiderace.layers.redis import RedisChannelLayer

from .harness import Listeners, SiteProcess, harness
from .interruptions import _verdict
from .sequence import SequenceCheck, Summary

from support.brokers import Server  # isort: skip (tests is on the path)

__all__ = ["churn", "clocks", "sharded"]


class _Room:
    """A room to which this process sends consecutive numbers."""

    def __init__(self, layer: RedisChannelLayer, name: str) -> None:
        self.layer = layer
        self.name = name
        self.next = 0

    async def send(self) -> None:
        number, self.next = self.next, self.next + 1
        await self.layer.group_send(
            self.name, {"type": "drill.number", "number": number}
        )


async def churn(quick: bool) -> bool:
    """50 sockets a second connect and leave: none of 100,000 messages is lost."""
    wanted, per_second, staying = (5_000, 20, 20) if quick else (100_000, 50, 100)
    with Server() as server:
        config: dict[str, Any] = {"hosts": [server.url], "prefix": "drill"}
        sites = [SiteProcess(config), SiteProcess(config)]
        layer = RedisChannelLayer(**config)
        listeners = Listeners()
        try:
            await asyncio.gather(*(site.start() for site in sites))
            rooms = [_Room(layer, f"room-{number}") for number in range(10)]
            for number in range(staying):
                room = rooms[number % 10]
                await listeners.open(
                    sites[number % 2].port, room.name, lambda room=room: room.next
                )
            visitors: list[SequenceCheck] = []
            clients = asyncio.create_task(
                _come_and_go(listeners, sites, rooms, per_second, visitors)
            )
            begun = time.monotonic()
            while sum(check.received for check in listeners.checks) < wanted:
                await asyncio.gather(*(room.send() for room in rooms))
                await asyncio.sleep(0.1)
                if clients.done():
                    clients.result()
            clients.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await clients
            seconds = time.monotonic() - begun
            await listeners.wait_for_last({room.name: room.next - 1 for room in rooms})
            for check in visitors:
                # The client left; a closed socket is no fault.
                check.closed = ""
            summary = Summary.of(listeners.checks, sum(room.next for room in rooms))
            print(f"    {summary}")
            print(f"    {len(visitors)} sockets came and went in {seconds:.0f} s")
            return summary.clean
        finally:
            listeners.close()
            await layer.close()
            for site in sites:
                await site.end()


async def _come_and_go(
    listeners: Listeners,
    sites: list[SiteProcess],
    rooms: list[_Room],
    per_second: int,
    visitors: list[SequenceCheck],
) -> None:
    rng = random.Random(5)

    async def one() -> None:
        room = rng.choice(rooms)
        check, socket = await listeners.open(
            rng.choice(sites).port, room.name, lambda: room.next
        )
        visitors.append(check)
        await asyncio.sleep(rng.uniform(0.05, 3))
        check.closed = "left"
        await socket.close()

    async with asyncio.TaskGroup() as group:
        while True:
            group.create_task(one())
            await asyncio.sleep(1 / per_second)


async def sharded(quick: bool) -> bool:
    """Messages to channels on four servers: none is lost or out of order."""
    channels, messages = (40, 20) if quick else (200, 50)
    async with contextlib.AsyncExitStack() as stack:
        servers = [stack.enter_context(Server()) for _ in range(4)]
        hosts = [server.url for server in servers]
        here, there = (RedisChannelLayer(hosts=hosts) for _ in range(2))
        names = [await there.new_channel() for _ in range(channels // 2)]
        # Named queues are distributed over the servers.
        names += [f"queue-{number}" for number in range(channels // 2)]
        heard: dict[str, list[int]] = {name: [] for name in names}

        async def listen(name: str) -> None:
            while len(heard[name]) < messages:
                heard[name].append((await there.receive(name))["number"])

        listeners = [asyncio.create_task(listen(name)) for name in names]
        begun = time.monotonic()
        for number in range(messages):
            await asyncio.gather(
                *(
                    _send_until_accepted(here, name, {"type": "n", "number": number})
                    for name in names
                )
            )
        _, pending = await asyncio.wait(listeners, timeout=20)
        for task in pending:
            task.cancel()
        seconds = time.monotonic() - begun
        await here.close()
        await there.close()
        lost = sum(messages - len(set(numbers)) for numbers in heard.values())
        disorder = sum(numbers != sorted(numbers) for numbers in heard.values())
        print(
            f"    {channels * messages:,} messages to {channels} channels over 4 servers "
            f"in {seconds:.1f} s, {lost} lost, {disorder} channels out of order"
        )
        return not lost and not disorder


async def _send_until_accepted(
    layer: RedisChannelLayer, name: str, message: dict[str, Any]
) -> None:
    while True:
        try:
            return await layer.send(name, message)
        except ChannelFull:
            await asyncio.sleep(0.05)


async def clocks(quick: bool) -> bool:
    """The sender's wall clock jumps by up to a day, without an effect."""
    size = (
        {"sockets": 20, "rooms": 10, "rate": 300}
        if quick
        else {"sockets": 50, "rooms": 25, "rate": 1000}
    )
    with Server() as server:
        async with harness({"hosts": [server.url]}, **size, clock=True) as drill:
            await asyncio.sleep(2 if quick else 10)
            return await _verdict(drill)
