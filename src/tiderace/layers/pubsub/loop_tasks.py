"""Background tasks of an object that is used from several event loops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any
from weakref import WeakKeyDictionary

from tiderace.runtime.tasks import TaskGroup

logger = logging.getLogger("tiderace.layers")


class LoopTasks:
    """A task group for each event loop; every method uses that of the running loop."""

    def __init__(self) -> None:
        self._groups: WeakKeyDictionary[asyncio.AbstractEventLoop, TaskGroup] = (
            WeakKeyDictionary()
        )

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` in a task; an error is logged."""
        self._group().spawn(work)

    async def wait(self) -> None:
        """Wait until no task is running."""
        await self._group().wait()

    async def cancel(self) -> None:
        """Cancel the tasks and wait until they have ended."""
        await self._group().cancel()

    def _group(self) -> TaskGroup:
        loop = asyncio.get_running_loop()
        group = self._groups.get(loop)
        if group is None:
            group = self._groups[loop] = TaskGroup(logger)
        return group
