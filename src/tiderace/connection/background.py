"""The background tasks of one connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from tiderace.connection.inbox import DeferredError, Inbox
from tiderace.exceptions import StopConsumer
from tiderace.runtime import threads
from tiderace.runtime.tasks import Contained

logger = logging.getLogger("tiderace.consumer")

T = TypeVar("T")


class BackgroundTasks:
    """The tasks of a connection beside its handlers; to be made in its event loop.

    The exception of a task is raised in the connection's task, in turn with its
    handlers.

    Args:
        inbox: its mailbox takes the errors.
    """

    __slots__ = ("_ending", "_inbox", "_loop", "_tasks")

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._loop = asyncio.get_running_loop()
        # Made when needed: an empty set takes 0.2 KB of each socket.
        self._tasks: set[asyncio.Task[Any]] | None = None
        # Whether the connection has ended, so that errors are only logged.
        self._ending = False

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run ``work`` until it is done or the connection ends; from any thread."""
        if asyncio._get_running_loop() is not self._loop:  # noqa: SLF001
            # A sync handler, in its thread.
            return asyncio.run_coroutine_threadsafe(
                self._spawn_here(work), self._loop
            ).result()
        task = self._loop.create_task(
            Contained(work), context=threads.background_context()
        )
        if self._tasks is None:
            self._tasks = set()
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def end(self, timeout: float) -> None:
        """Cancel all tasks and wait until they have ended; log their exceptions.

        A task that has not ended after ``timeout`` seconds is left behind.
        """
        self._ending = True
        while self._tasks:  # one may start another while it ends
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            _, running = await asyncio.wait(tasks, timeout=timeout)
            for task in running:
                logger.error("%r has not ended and is left behind", task.get_coro())
            self._tasks -= running

    async def _spawn_here(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return self.spawn(work)

    def _done(self, task: asyncio.Task[Any]) -> None:
        if self._tasks is not None:
            self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        if not self._ending:
            self._inbox.mailbox.post(DeferredError(error))
        elif not isinstance(error, StopConsumer):
            logger.error("a background task failed while it ended", exc_info=error)
