"""The drill of memory: what joins and leaves of groups leave behind."""

from __future__ import annotations

import asyncio
import gc
import resource
import time
import tracemalloc

from tiderace.layers.redis import RedisChannelLayer

from .harness import ROOT  # noqa: F401 (makes the servers of the tests importable)

from support.brokers import Server  # isort: skip

__all__ = ["memory"]


async def memory(quick: bool) -> bool:
    """100,000 joins and leaves of groups leave nothing behind, in the process or in Redis."""
    total, at_once = (5_000, 500) if quick else (100_000, 1_000)
    with Server() as server:
        layer = RedisChannelLayer(hosts=[server.url], prefix="drill", lease=1)
        await _round(layer, 0, at_once)
        await asyncio.sleep(0.6)  # until the leaves have been announced
        gc.collect()
        keys_before = server.keys()
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        tracemalloc.start()
        held_before = tracemalloc.get_traced_memory()[0]
        begun = time.monotonic()
        for start in range(at_once, total + at_once, at_once):
            await _round(layer, start, at_once)
        seconds = time.monotonic() - begun
        await asyncio.sleep(0.6)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] - held_before
        tracemalloc.stop()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident
        new = server.keys() - keys_before
        lasting = {key for key in server.keys() if server.call("TTL", key) < 0}  # noqa: SIM118
        await layer.close()
        left = server.keys()
        print(
            f"    {total:,} joins and leaves in {seconds:.0f} s; {len(layer.groups)} groups"
            f" and {len(layer.channels)} channels here, {held / 1024:.0f} KiB more held, "
            f"{grown} KiB more at the peak"
        )
        print(
            f"    {len(new)} new keys in Redis, {len(lasting)} without a time to live, "
            f"{len(left)} after closing: {', '.join(sorted(left)) or 'none'}"
        )
        return not (new or lasting or layer.groups or layer.channels) and held < 1 << 20


async def _round(layer: RedisChannelLayer, start: int, count: int) -> None:
    """Let ``count`` channels join one of ten groups and leave it."""

    async def one(number: int) -> None:
        group = f"group-{number % 10}"
        name = await layer.new_channel()
        mailbox = layer.attach(name)
        await layer.group_add(group, name)
        await layer.group_discard(group, name)
        await layer.detach(mailbox)

    await asyncio.gather(*(one(number) for number in range(start, start + count)))
