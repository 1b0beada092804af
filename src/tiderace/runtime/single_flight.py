"""Runs work that several connections request at the same time once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable


class SingleFlight:
    """Runs one piece of work at a time for each key, in one event loop."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Future[bool]] = {}

    async def do(self, key: Hashable, work: Callable[[], Awaitable[None]]) -> None:
        """Do ``work``, or wait until the work of another caller with this key is done.

        When that fails or is cancelled, a waiting caller does its own.

        Raises:
            Exception: what the caller's own ``work`` raises.
        """
        while (running := self._running.get(key)) is not None:
            # A cancelled caller must not cancel it for the others.
            await asyncio.wait([running])
            if running.result():
                return
        mine = self._running[key] = asyncio.get_running_loop().create_future()
        done = False
        try:
            await work()
            done = True
        finally:
            del self._running[key]
            mine.set_result(done)
