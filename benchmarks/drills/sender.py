"""A process that sends numbers to rooms at a rate until its input ends.

``python -m benchmarks.drills.sender '{"config": ..., "rooms": [...], "rate": 1000}'``
prints its results as JSON. It resends a message that the layer did not accept in time.
With ``"clock"`` its wall clock jumps.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import Any

from django.conf import settings

settings.configure()

from tiderace.exceptions import LayerUnavailable  # noqa: E402
from tiderace.layers.redis import RedisChannelLayer  # noqa: E402

TICK = 0.01


def randomize_clock() -> None:
    """Let the wall clock of this process jump by up to a day in both directions."""
    real = time.time
    rng = random.Random(7)
    state = {"until": 0.0, "off": 0.0}

    def time_now() -> float:
        now = real()
        if now > state["until"]:
            state.update(until=now + 0.2, off=rng.uniform(-86400, 86400))
        return now + state["off"]

    time.time = time_now


class Sender:
    """Send consecutive numbers to each room."""

    def __init__(self, layer: RedisChannelLayer, rooms: list[str], rate: float) -> None:
        self.layer = layer
        self.rate = rate
        self.last = dict.fromkeys(rooms, -1)
        self.refused = 0
        self.slowest = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Send until ``stop`` is set; never two messages to a room concurrently."""
        rooms = list(self.last)
        due, turn, before = 0.0, 0, time.monotonic()
        while not stop.is_set():
            now = time.monotonic()
            # Messages that an interruption delayed are not made up for.
            due = min(due + (now - before) * self.rate, len(rooms))
            before = now
            batch = [rooms[(turn + i) % len(rooms)] for i in range(int(due))]
            turn += len(batch)
            due -= len(batch)
            await asyncio.gather(*map(self.send, batch))
            await asyncio.sleep(TICK)

    async def send(self, room: str) -> None:
        """Send the next number to a room, with retries until the layer accepts it."""
        number = self.last[room] + 1
        begun = time.monotonic()
        while True:
            try:
                await self.layer.group_send(
                    room, {"type": "drill.number", "number": number}
                )
            except LayerUnavailable:
                self.refused += 1
            else:
                break
        self.last[room] = number
        self.slowest = max(self.slowest, time.monotonic() - begun)


async def main(spec: dict[str, Any]) -> None:
    layer = RedisChannelLayer(**spec["config"])
    sender = Sender(layer, spec["rooms"], spec["rate"])
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), stop.set)
    await sender.run(stop)
    await layer.close()
    print(
        json.dumps(
            {
                "last": sender.last,
                "refused": sender.refused,
                "slowest": sender.slowest,
            }
        )
    )


if __name__ == "__main__":
    spec = json.loads(sys.argv[1])
    if spec.get("clock"):
        randomize_clock()
    asyncio.run(main(spec))
