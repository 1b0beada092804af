"""Garbage collection in a server's process."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

SCRIPT = """
import asyncio, gc
import tiderace.server.protocol
from tiderace.runtime.lifespan import process_lifespan

class Cycle:
    freed = 0
    def __init__(self):
        self.own = self
    def __del__(self):
        Cycle.freed += 1

async def serve():
    events = asyncio.Queue()
    for kind in ("startup", "shutdown"):
        events.put_nowait({"type": f"lifespan.{kind}"})
    Cycle()
    async def send(event):
        if event["type"] == "lifespan.startup.complete":
            print(Cycle.freed, gc.get_freeze_count() > 10_000)
            Cycle()
            gc.collect()
            print(Cycle.freed)
    await process_lifespan({"type": "lifespan"}, events.get, send)

gc.disable()
asyncio.run(serve())
"""


THRESHOLD = """
import asyncio, gc, sys
from tiderace.server.collector import freeze

if len(sys.argv) > 1:
    gc.set_threshold(*map(int, sys.argv[1:]))
asyncio.run(freeze())
print(*gc.get_threshold()[:2])
"""
# Python 3.14 has one old generation and another default for it, which is left alone.
DEFAULT = "2500 0" if gc.get_threshold()[1:] == (10, 10) else "5000 10"


@pytest.mark.parametrize(
    ("own", "used"),
    [([], DEFAULT), (["300"], "300 10"), (["700", "5"], "5000 5")],
    ids=["none", "first", "second"],
)
def test_a_server_collects_less_often_unless_the_project_has_set_a_threshold(own, used):
    run = subprocess.run(
        [sys.executable, "-c", THRESHOLD, *own],
        capture_output=True,
        text=True,
        check=True,
    )

    assert run.stdout.strip() == used


def test_objects_of_the_start_are_frozen_and_later_garbage_is_freed():
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )

    assert run.stdout.split("\n") == ["1 True", "2", ""]
