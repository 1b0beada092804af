"""The faults behind the buttons, in the process that serves the visitor.

The faults have a delay, so that the page gets the reply to its call before.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tiderace.layers import InMemoryChannelLayer, get_channel_layer

STALL = 3.0  # seconds
_DELAY = 0.2
WORKERS = "TIDERACE_DEMO_WORKERS"


async def stall() -> None:
    """Send and read nothing for three seconds, with any client of this process."""
    asyncio.get_running_loop().call_later(_DELAY, time.sleep, STALL)


async def cut_broker() -> None:
    """Close the connections of this process to the broker."""
    layer: Any = get_channel_layer()
    await layer.interrupt()


async def kill_worker() -> None:
    """Kill this process; uvicorn starts another one."""
    _signal_later(os.getpid(), signal.SIGKILL)


async def roll() -> None:
    """Restart every process, one after the other, as a deploy does."""
    _signal_later(os.getppid(), signal.SIGHUP)


def _signal_later(pid: int, number: signal.Signals) -> None:
    asyncio.get_running_loop().call_later(_DELAY, os.kill, pid, number)


FAULTS: dict[str, Callable[[], Awaitable[None]]] = {
    "stall": stall,
    "cut-broker": cut_broker,
    "kill-worker": kill_worker,
    "roll": roll,
}


def available() -> set[str]:
    """Return the faults that this server survives."""
    names = {"stall"}
    if not isinstance(get_channel_layer(), InMemoryChannelLayer):
        names.add("cut-broker")
    if int(os.environ.get(WORKERS, "1")) > 1:
        names |= {"kill-worker", "roll"}
    return names
