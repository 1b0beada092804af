"""Drills with faults of the server, of its connections or of a process."""

from __future__ import annotations

import asyncio
import random
import time

from .harness import Harness, harness

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


async def _verdict(drill: Harness, *notes: str, timeout: float = 20) -> bool:
    """Print the summary and return whether there was no fault."""
    summary = await drill.finish(timeout=timeout)
    _print(drill, summary, *notes)
    return summary.clean


def _print(drill: Harness, summary: object, *notes: str) -> None:
    counted = []
    for site in drill.sites:
        if site.process is not None and site.process.returncode is None:
            values = site.measurements()
            names = ("layer_interruptions", "gaps_filled", "messages_dropped_full")
            counted.append(", ".join(f"{name} {values[name]}" for name in names))
    print(f"    {summary}")
    print(
        f"    slowest send {drill.sender.slowest:.2f} s, "
        f"{drill.sender.refused} refused and resent"
    )
    for line in (*counted, *notes):
        print(f"    {line}")


async def cuts(quick: bool) -> bool:
    """Connections are cut 100 times during 1,000 messages a second."""
    times, rng = (15 if quick else 100), random.Random(3)
    with Server() as server:
        async with harness({"hosts": [server.url]}, **_size(quick)) as drill:
            cut = 0
            for number in range(times):
                kind = ("pubsub", "normal")[number % 2]
                cut += await asyncio.to_thread(server.client_kill, kind)
                await asyncio.sleep(rng.uniform(0.02, 0.5))
            return await _verdict(drill, f"{cut} connections cut in {times} blows")


async def cluster(quick: bool) -> bool:
    """Connections to all three nodes of a cluster are cut."""
    times, rng = (10 if quick else 50), random.Random(4)
    with Cluster() as nodes:
        async with harness({"hosts": [nodes.host]}, **_size(quick)) as drill:
            cut = 0
            for number in range(times):
                kind = ("pubsub", "normal")[number % 2]
                for node in nodes.nodes:
                    cut += await asyncio.to_thread(node.client_kill, kind)
                await asyncio.sleep(rng.uniform(0.05, 0.5))
            return await _verdict(drill, f"{cut} connections cut in {times} blows")


async def takeover(quick: bool) -> bool:
    """A primary of a cluster is killed; its replica takes over."""
    with Cluster(replicas=True) as nodes:
        async with harness({"hosts": [nodes.host]}, **_size(quick)) as drill:
            took = await asyncio.to_thread(nodes.fail_over, 1)
            await drill.wait_for_delivery()
            await asyncio.sleep(2)
            return await _verdict(drill, f"its replica took over after {took:.1f} s")


async def resharding(quick: bool) -> bool:
    """Most slots of two nodes of a cluster are moved to another node."""
    with Cluster() as nodes:
        async with harness({"hosts": [nodes.host]}, **_size(quick)) as drill:
            for source, target in ((0, 1), (2, 0)):
                await asyncio.to_thread(nodes.move_slots, source, target)
                await drill.wait_for_delivery()
                await asyncio.sleep(1)
            return await _verdict(drill)


async def restart(quick: bool) -> bool:
    """The server is killed and restarted with its append-only file."""
    with Server(append_only=True) as server:
        async with harness({"hosts": [server.url]}, **_size(quick)) as drill:
            for down in (0.0, 0.5, 2.0)[: 2 if quick else 3]:
                await asyncio.to_thread(server.restart, down=down)
                await drill.wait_for_delivery()
                await asyncio.sleep(2)
            return await _verdict(drill)


async def emptied(quick: bool) -> bool:
    """The server restarts without its data: every loss is reported."""
    with Server() as server:
        async with harness({"hosts": [server.url]}, **_size(quick)) as drill:
            for _ in range(2):
                await asyncio.to_thread(server.restart, down=0.5)
                await drill.wait_for_delivery()
                await asyncio.sleep(1)
            summary = await drill.finish()
            unreported = sum(
                any(number >= check.reported_up_to for number in check.missing)
                for check in drill.listeners.checks
            )
            uninformed = sum(check.gaps == 0 for check in drill.listeners.checks)
            _print(
                drill,
                summary,
                f"{uninformed} sockets received no gap, {unreported} have unreported losses",
            )
            clean = not (summary.duplicates or summary.reordered or summary.closed)
            return clean and not unreported and not uninformed


async def failover(quick: bool) -> bool:
    """The primary behind Sentinel is killed; its replica takes over."""
    with SentinelSetup(sentinels=3, replicas=1) as sentinel:
        async with harness({"hosts": [sentinel.host]}, **_size(quick)) as drill:
            took = await asyncio.to_thread(sentinel.fail_over)
            await drill.wait_for_delivery()
            await asyncio.sleep(2)
            return await _verdict(drill, f"another primary after {took:.1f} s")


async def pause(quick: bool) -> bool:
    """The server is stopped for 5 s, then for 8 s, with its connections open."""
    with Server() as server:
        async with harness({"hosts": [server.url]}, **_size(quick)) as drill:
            # The second pause exceeds the timeout for silent connections.
            for seconds in (1, 6) if quick else (5, 8):
                server.pause()
                await asyncio.sleep(seconds)
                server.resume()
                await drill.wait_for_delivery()
                await asyncio.sleep(1)
            return await _verdict(drill)


async def process(quick: bool) -> bool:
    """One process of the site is killed; the other continues."""
    lease = 2.0
    with Server() as server:
        config = {"hosts": [server.url], "lease": lease}
        async with harness(config, **_size(quick)) as drill:
            await asyncio.sleep(0.5)  # for the memberships to be announced
            before = await _members(drill)
            for check in drill.listeners.checks[len(drill.listeners.checks) // 2 :]:
                check.closed = "killed"
            drill.sites[1].kill()
            begun = time.monotonic()
            half = before // 2
            while (after := await _members(drill)) != half:
                if time.monotonic() - begun > lease * 3:
                    break
                await asyncio.sleep(0.1)
            took = time.monotonic() - begun
            await drill.wait_for_delivery()
            survivors = [t for t in drill.listeners.checks if t.closed != "killed"]
            drill.listeners.checks = survivors
            clean = await _verdict(
                drill, f"members {before}, {after} of them {took:.1f} s after the kill"
            )
            return clean and after == half


async def _members(drill: Harness) -> int:
    from tiderace.layers.redis import RedisChannelLayer

    layer = RedisChannelLayer(**drill.config)
    try:
        return sum([await layer.group_count(room) for room in drill.rooms])
    finally:
        await layer.close()
