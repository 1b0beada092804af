"""Work that two connections ask for at the same time and that is to be done once.

It knows keys and coroutines, and nothing of what is done; what was done before is for
others to remember.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable

__all__ = ["SingleFlight"]


class SingleFlight:
    """What is under way in this event loop, by key."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Future[bool]] = {}

    async def do(self, key: Hashable, work: Callable[[], Awaitable[None]]) -> None:
        """Do ``work``, or wait until another one has done its work under this key.

        One whose work fails or is cancelled has not done it: who waits does it then.

        Raises:
            Exception: what ``work`` raises, to the one whose work it was.
        """
        while (running := self._running.get(key)) is not None:
            # Being cancelled must not cancel it for the others.
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
