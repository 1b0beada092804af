"""Drills in which the server, its connections or a process are hurt.

They know how it is done and what must come out of it.
"""

from __future__ import annotations

import asyncio
import random
import time

from .harness import Stage, stage

from support.brokers import Cluster, SentinelSetup, Server  # isort: skip (tests is on the path)

__all__ = [
    "cluster",
    "cuts",
    "emptied",
    "failover",
    "pause",
    "process",
    "restart",
    "takeover",
]


def _size(quick: bool) -> dict[str, int]:
    if quick:
        return {"sockets": 20, "rooms": 10, "rate": 300}
    return {"sockets": 100, "rooms": 25, "rate": 1000}


async def _verdict(drill: Stage, *notes: str, timeout: float = 20) -> bool:
    """Print the figures; whether nothing at all was wrong."""
    figures = await drill.finish(timeout=timeout)
    _print(drill, figures, *notes)
    return figures.clean


def _print(drill: Stage, figures: object, *notes: str) -> None:
    counted = []
    for site in drill.sites:
        if site.process is not None and site.process.returncode is None:
            values = site.counted()
            names = ("layer_interruptions", "gaps_filled", "messages_dropped_full")
            counted.append(", ".join(f"{name} {values[name]}" for name in names))
    print(f"    {figures}")
    print(
        f"    slowest send {drill.sender.slowest:.2f} s, "
        f"{drill.sender.refused} refused and sent again"
    )
    for line in (*counted, *notes):
        print(f"    {line}")


async def cuts(quick: bool) -> bool:
    """Connections cut 100 times while 1,000 messages a second flow."""
    times, chance = (15 if quick else 100), random.Random(3)
    with Server() as server:
        async with stage({"hosts": [server.url]}, **_size(quick)) as drill:
            cut = 0
            for number in range(times):
                kind = ("pubsub", "normal")[number % 2]
                cut += await asyncio.to_thread(server.client_kill, kind)
                await asyncio.sleep(chance.uniform(0.02, 0.5))
            return await _verdict(drill, f"{cut} connections cut in {times} blows")


async def cluster(quick: bool) -> bool:
    """Connections to all three nodes of a cluster cut while messages flow."""
    times, chance = (10 if quick else 50), random.Random(4)
    with Cluster() as nodes:
        async with stage({"hosts": [nodes.host]}, **_size(quick)) as drill:
            cut = 0
            for number in range(times):
                kind = ("pubsub", "normal")[number % 2]
                for node in nodes.nodes:
                    cut += await asyncio.to_thread(node.client_kill, kind)
                await asyncio.sleep(chance.uniform(0.05, 0.5))
            return await _verdict(drill, f"{cut} connections cut in {times} blows")


async def takeover(quick: bool) -> bool:
    """A primary of a cluster killed -9; its replica takes over."""
    with Cluster(replicas=True) as nodes:
        async with stage({"hosts": [nodes.host]}, **_size(quick)) as drill:
            took = await asyncio.to_thread(nodes.fail_over, 1)
            await drill.flowing()
            await asyncio.sleep(2)
            return await _verdict(drill, f"its replica took over after {took:.1f} s")


async def resharding(quick: bool) -> bool:
    """Most slots of two nodes of a cluster moved to another while messages flow."""
    with Cluster() as nodes:
        async with stage({"hosts": [nodes.host]}, **_size(quick)) as drill:
            for source, target in ((0, 1), (2, 0)):
                await asyncio.to_thread(nodes.move_slots, source, target)
                await drill.flowing()
                await asyncio.sleep(1)
            return await _verdict(drill)


async def restart(quick: bool) -> bool:
    """The server killed -9 and restarted with its append-only file."""
    with Server(append_only=True) as server:
        async with stage({"hosts": [server.url]}, **_size(quick)) as drill:
            for down in (0.0, 0.5, 2.0)[: 2 if quick else 3]:
                await asyncio.to_thread(server.restart, down=down)
                await drill.flowing()
                await asyncio.sleep(2)
            return await _verdict(drill)


async def emptied(quick: bool) -> bool:
    """The server restarted empty: every loss is told, and all goes on."""
    with Server() as server:
        async with stage({"hosts": [server.url]}, **_size(quick)) as drill:
            for _ in range(2):
                await asyncio.to_thread(server.restart, down=0.5)
                await drill.flowing()
                await asyncio.sleep(1)
            figures = await drill.finish()
            untold = sum(
                any(number >= tally.told_up_to for number in tally.missing)
                for tally in drill.ears.tallies
            )
            deaf = sum(tally.gaps == 0 for tally in drill.ears.tallies)
            _print(
                drill,
                figures,
                f"{deaf} sockets were told nothing, {untold} lost something untold",
            )
            clean = not (figures.twice or figures.late or figures.closed)
            return clean and not untold and not deaf


async def failover(quick: bool) -> bool:
    """The primary behind Sentinel killed -9; its replica takes over."""
    with SentinelSetup(sentinels=3, replicas=1) as sentinel:
        async with stage({"hosts": [sentinel.host]}, **_size(quick)) as drill:
            took = await asyncio.to_thread(sentinel.fail_over)
            await drill.flowing()
            await asyncio.sleep(2)
            return await _verdict(drill, f"another primary after {took:.1f} s")


async def pause(quick: bool) -> bool:
    """The server stopped for 5 s, then for 8 s, with its connections open."""
    with Server() as server:
        async with stage({"hosts": [server.url]}, **_size(quick)) as drill:
            # The second is longer than a connection may be silent.
            for seconds in (1, 6) if quick else (5, 8):
                server.pause()
                await asyncio.sleep(seconds)
                server.resume()
                await drill.flowing()
                await asyncio.sleep(1)
            return await _verdict(drill)


async def process(quick: bool) -> bool:
    """One process of the site killed -9 while the other goes on."""
    lease = 2.0
    with Server() as server:
        config = {"hosts": [server.url], "lease": lease}
        async with stage(config, **_size(quick)) as drill:
            await asyncio.sleep(0.5)  # for the memberships to be announced
            before = await _members(drill)
            for tally in drill.ears.tallies[len(drill.ears.tallies) // 2 :]:
                tally.closed = "killed"
            drill.sites[1].kill()
            begun = time.monotonic()
            half = before // 2
            while (after := await _members(drill)) != half:
                if time.monotonic() - begun > lease * 3:
                    break
                await asyncio.sleep(0.1)
            took = time.monotonic() - begun
            await drill.flowing()
            survivors = [t for t in drill.ears.tallies if t.closed != "killed"]
            drill.ears.tallies = survivors
            clean = await _verdict(
                drill, f"members {before}, {after} of them {took:.1f} s after the kill"
            )
            return clean and after == half


async def _members(drill: Stage) -> int:
    from tiderace.layers.redis import RedisChannelLayer

    layer = RedisChannelLayer(**drill.config)
    try:
        return sum([await layer.group_count(room) for room in drill.rooms])
    finally:
        await layer.close()
