"""Small work that is begun in passing, and done by a few tasks in the order it comes.

It knows what is to be done with each piece, and not what that is for.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar, cast

__all__ = ["WorkerPool"]

logger = logging.getLogger("tiderace.topics")

T = TypeVar("T")


class WorkerPool(Generic[T]):
    """Work that waits in a line, and the tasks that do it; they end when none is left.

    It belongs to one event loop.

    Args:
        do: does one piece of work. What it raises is logged, and the next one is begun.
        hands: how many are done at once; with 1, each after the one before it.
    """

    def __init__(self, do: Callable[[T], Awaitable[None]], hands: int) -> None:
        self._do = do
        self._hands = hands
        self._waiting: deque[T] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        """Whether anything waits or is being done."""
        return bool(self._tasks)

    def put(self, work: T) -> None:
        """Have it done."""
        self._waiting.append(work)
        if len(self._tasks) < self._hands:
            # A copy of the context would keep the request or socket that came first.
            task = asyncio.get_running_loop().create_task(
                self._work(), context=contextvars.Context()
            )
            self._tasks.add(task)

    async def _work(self) -> None:
        try:
            while self._waiting:
                work = self._waiting.popleft()
                try:
                    await self._do(work)
                except Exception:
                    logger.exception("%r could not be done and is given up", work)
        finally:
            # Not when the task is done: what is put in before that would lie there.
            self._tasks.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def finished(self) -> None:
        """Wait until nothing is left to do."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def stop(self) -> None:
        """Give up what is left, and wait for what is being done to end."""
        self._waiting.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
