"""The tasks that run beside a connection's handlers, and end with it.

It knows no layer and no client; what a task raises is reported, and raised where the
handlers run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from tiderace.connection.channel import Channel
from tiderace.connection.log import ConnectionLog
from tiderace.connection.suspended import DeferredError
from tiderace.exceptions import StopConsumer
from tiderace.runtime import threads

__all__ = ["Background"]

logger = logging.getLogger("tiderace.consumer")

T = TypeVar("T")


class Background:
    """The tasks of one connection, in its event loop.

    Args:
        channel: in whose mailbox an error waits that is to end the connection.
        report: tells ``on_error`` what a task has raised.
    """

    __slots__ = ("_channel", "_loop", "_report", "_tasks", "ending")

    def __init__(self, channel: Channel, report: ConnectionLog) -> None:
        self._channel = channel
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        # Whether they are being cancelled, for the connection is over.
        self.ending = False

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run ``work`` until it is done or the connection ends; from any thread."""
        if asyncio._get_running_loop() is not self._loop:  # noqa: SLF001
            # A sync handler, in its thread.
            return asyncio.run_coroutine_threadsafe(
                self._adopt(work), self._loop
            ).result()
        task = self._loop.create_task(work, context=threads.background_context())
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    async def end(self) -> None:
        """Cancel all of them, and wait until they are over."""
        self.ending = True
        while tasks := list(self._tasks):  # one may start another while it ends
            for task in tasks:
                task.cancel()
            await _ended(tasks)

    async def _adopt(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return self.spawn(work)

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None or self.ending:
            return
        report = self._loop.create_task(self._tell(error))
        self._tasks.add(report)
        report.add_done_callback(self._tasks.discard)

    async def _tell(self, error: BaseException) -> None:
        if isinstance(error, Exception) and not isinstance(error, StopConsumer):
            try:
                await self._report.consult(error)
            except Exception as decided:
                error = decided
            else:
                return
        # Raised where handlers run, for there the connection ends.
        await self._channel.mailbox.offer(DeferredError(error))


async def _ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Wait until cancelled tasks are over; what they still raise is logged."""
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception) and not isinstance(result, StopConsumer):
            logger.error("a background task failed while it ended", exc_info=result)
