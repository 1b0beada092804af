"""A process that sends numbers to groups, channels and topics until its input ends.

``python -m benchmarks.drills.sender '{"groups": [], "channels": [], "topics": [], "rate": 1}'``
prints, for each stream, the total and the numbers whose sending raised an error. With
``"keyed"`` publications have an idempotency key and are repeated until one is accepted;
with ``"clock"`` the wall clock of the process jumps; ``"base"`` is added to the numbers,
and ``"size"`` is the length of the text beside them.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time

from benchmarks.drills import site  # noqa: F401 (sets Django up)

from channels.layers import get_channel_layer  # isort: skip

SPEC = json.loads(sys.argv[1])
STREAMS = [*SPEC["groups"], *SPEC["channels"], *SPEC["topics"]]
SENT = {name: {"total": 0, "raised": [], "times": []} for name in STREAMS}
SLOWEST = 0.0
PADDING = "x" * SPEC.get("size", 0)


def randomize_clock():
    """Let the wall clock of this process jump by up to a day in both directions."""
    real = time.time
    rng = random.Random(7)
    state = {"until": 0.0, "off": 0.0}

    def time_now():
        now = real()
        if now > state["until"]:
            state.update(until=now + 0.2, off=rng.uniform(-86400, 86400))
        return now + state["off"]

    time.time = time_now


async def send(stream, number):
    """Send one number."""
    if stream not in SPEC["topics"]:
        text = json.dumps({"n": number, "text": PADDING})
        event = {"type": "drill.number", "text": text}
        layer = get_channel_layer()
        grouped = stream in SPEC["groups"]
        return await (layer.group_send if grouped else layer.send)(stream, event)
    from tiderace.exceptions import LayerUnavailable
    from tiderace.topics import apublish

    data = {"n": number, "text": PADDING}
    if not SPEC.get("keyed"):
        return await apublish(stream, data)
    while True:
        try:
            return await apublish(stream, data, key=f"{stream} {number}")
        except LayerUnavailable:
            await asyncio.sleep(0.05)


async def feed(stream, pause, stopped):
    """Send the numbers of one stream, one after the other."""
    global SLOWEST
    sent = SENT[stream]
    due = time.monotonic()
    while not stopped.is_set():
        begun = time.monotonic()
        sent["times"].append(begun)
        # What an interruption delayed is not made up for.
        due = max(due + pause, begun)
        try:
            await send(stream, SPEC.get("base", 0) + sent["total"])
        except Exception:
            sent["raised"].append(sent["total"])
        sent["total"] += 1
        SLOWEST = max(SLOWEST, time.monotonic() - begun)
        await asyncio.sleep(max(due - time.monotonic(), 0.001))


async def main():
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stopped.set)
    pause = len(SENT) / SPEC["rate"]
    await asyncio.gather(*(feed(stream, pause, stopped) for stream in SENT))
    print(json.dumps({"sent": SENT, "slowest": SLOWEST}))


if __name__ == "__main__":
    if SPEC.get("clock"):
        randomize_clock()
    asyncio.run(main())
