"""A process that publishes numbers to topics at a rate until its input ends.

``python -m benchmarks.drills.publisher '{"topics": [...], "rate": 100}'`` prints the
number of publications of each topic as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys

from . import topics_site  # noqa: F401 (which sets Django up)

from tiderace.exceptions import LayerUnavailable  # isort: skip
from tiderace.topics import apublish  # isort: skip


async def main() -> None:
    """Publish to the topics in turn."""
    spec = json.loads(sys.argv[1])
    published = dict.fromkeys(spec["topics"], 0)
    loop = asyncio.get_running_loop()
    ended = loop.run_in_executor(None, sys.stdin.readline)
    due = loop.time()
    while not ended.done():
        for topic, number in published.items():
            due += 1 / spec["rate"]
            await asyncio.sleep(max(due - loop.time(), 0))
            try:
                await apublish(topic, {"n": number}, key=f"{topic} {number}")
            except LayerUnavailable:
                continue  # retried in the next round; the key prevents a duplicate
            published[topic] = number + 1
    print(json.dumps(published))


if __name__ == "__main__":
    asyncio.run(main())
