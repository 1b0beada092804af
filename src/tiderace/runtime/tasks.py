"""Background tasks, and application code whose ``sys.exit()`` ends no event loop."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def as_error(raised: BaseException) -> Exception:
    """Return what application code has raised as an ordinary exception.

    ``SystemExit`` would end the event loop, and a ``CancelledError`` without a
    cancellation (of another task that was awaited) would end the task in silence: each
    becomes the cause of a ``RuntimeError``.

    Raises:
        asyncio.CancelledError: when the running task is being cancelled.
    """
    if isinstance(raised, Exception):
        return raised
    if isinstance(raised, SystemExit):
        error = RuntimeError(f"application code called sys.exit({raised.code!r})")
    elif isinstance(raised, asyncio.CancelledError) and not _being_cancelled():
        error = RuntimeError("application code raised CancelledError on its own")
    else:
        raise raised
    error.__cause__ = raised
    return error


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Contained(Coroutine[Any, Any, T]):
    """A coroutine whose exceptions are passed through ``as_error``.

    Unlike a coroutine function around ``work``, it may be cancelled before it starts
    without a warning that ``work`` was never awaited.
    """

    __slots__ = ("_work",)

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work

    def __getattr__(self, name: str) -> Any:
        # Its name, code and frame, for asyncio's messages.
        return getattr(self._work, name)

    def send(self, value: Any) -> Any:
        try:
            return self._work.send(value)
        except (SystemExit, asyncio.CancelledError) as raised:
            raise as_error(raised) from raised

    def throw(self, *raised: Any) -> Any:
        try:
            return self._work.throw(*raised)
        except (SystemExit, asyncio.CancelledError) as error:
            raise as_error(error) from error

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._work.__await__()


# A loop that was blocked runs its late timers before it reads its sockets, where a client's
# message may be. So the last part of a client's time has a timer of its own, which is
# started again when it is late.
READING = 1.0  # seconds of the last part
LATE = 0.25  # seconds by which its timer may be late


async def wait_in_time(work: Awaitable[T], timeout: float) -> T:
    """Return what ``work`` returns, such as a message of the client.

    Raises:
        TimeoutError: when it takes longer than ``timeout`` seconds, and the loop was not
            blocked at their end.
    """
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    last = min(timeout, READING)
    try:
        await asyncio.wait([task], timeout=timeout - last)
        late = True
        while late and not task.done():
            latest = loop.time() + last + LATE
            await asyncio.wait([task], timeout=last)
            late = loop.time() > latest
        if not task.done():
            raise TimeoutError
        return task.result()
    finally:
        task.cancel()


async def cancel_in_time(
    tasks: Collection[asyncio.Task[Any]], limit: float, logger: logging.Logger
) -> None:
    """Cancel tasks that run code of the application, and wait until they have ended.

    Args:
        tasks: those to cancel.
        limit: seconds after which they are cancelled again, which cuts what they do at
            their end; they are left behind if they go on for half of that again.
        logger: gets a record of either.
    """
    for task in tasks:
        if not task.cancelling():  # a second one would cut what it does at its end
            task.cancel()
    late = await _not_done(tasks, limit)
    if late:
        logger.warning(
            "%d hooks or methods go on %g s after their client has left, and are cancelled; "
            "shorten them, or raise TIDERACE['DISCONNECT_TIMEOUT']",
            len(late),
            limit,
        )
        for task in late:
            task.cancel()
        late = await _not_done(late, limit / 2)
    if late:
        logger.error(
            "%d hooks or methods were cancelled and go on, and are left behind; let their "
            "CancelledError pass",
            len(late),
        )


async def _not_done(
    tasks: Collection[asyncio.Task[Any]], timeout: float
) -> Collection[asyncio.Task[Any]]:
    if not tasks:
        return tasks
    _, late = await asyncio.wait(tasks, timeout=timeout)
    return late


class TaskGroup:
    """Tasks of one event loop that end at the latest with their owner.

    The owner awaits ``cancel`` when it ends. Unlike ``asyncio.TaskGroup``, a task that
    fails leaves the others alone: its error is logged.

    Args:
        logger: gets the errors, with their traceback.
    """

    __slots__ = ("_logger", "_tasks")

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        # Made when needed: an empty set takes 0.2 KB of each socket.
        self._tasks: set[asyncio.Task[Any]] | None = None

    def __len__(self) -> int:
        """Return how many tasks are running."""
        return len(self._tasks or ())

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run ``work`` in a task with an empty context.

        A copy of the caller's context would keep its request or socket alive.
        """
        task = asyncio.get_running_loop().create_task(
            work, context=contextvars.Context()
        )
        if self._tasks is None:
            self._tasks = set()
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def wait(self) -> None:
        """Wait until no task is running, those included that are spawned meanwhile."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def cancel(self) -> None:
        """Cancel the tasks and wait until they have ended."""
        tasks = list(self._tasks or ())
        if not tasks:
            return
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def cancel_in_time(self, limit: float) -> None:
        """Cancel the tasks as ``cancel_in_time`` does; those left behind are forgotten."""
        if self._tasks:
            tasks = list(self._tasks)
            await cancel_in_time(tasks, limit, self._logger)
            self._tasks.difference_update(tasks)

    def _done(self, task: asyncio.Task[Any]) -> None:
        if self._tasks is not None:
            self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._logger.error("a background task failed", exc_info=error)


class WorkerPool(Generic[T]):
    """A queue of work, and up to ``concurrency`` tasks that work through it in order.

    The tasks end when the queue is empty. A pool belongs to one event loop.

    Args:
        do: does one piece of work. What it raises is logged, and the next piece begins.
        concurrency: pieces done at once; with 1, each begins after the one before it.
        logger: gets the errors.
    """

    def __init__(
        self,
        do: Callable[[T], Awaitable[None]],
        concurrency: int,
        *,
        logger: logging.Logger,
    ) -> None:
        self._do = do
        self._concurrency = concurrency
        self._logger = logger
        self._queue: deque[T] = deque()
        self._workers = TaskGroup(logger)
        self._running = 0

    @property
    def busy(self) -> bool:
        """Whether any work is queued or being done."""
        return bool(self._running)

    def put(self, work: T) -> None:
        """Queue a piece of work."""
        self._queue.append(work)
        if self._running < self._concurrency:
            self._running += 1
            self._workers.spawn(self._work())

    async def finished(self) -> None:
        """Wait until the queue is empty and nothing is being done."""
        await self._workers.wait()

    async def stop(self) -> None:
        """Drop what is queued, and cancel what is being done."""
        self._queue.clear()
        await self._workers.cancel()

    async def _work(self) -> None:
        try:
            while self._queue:
                work = self._queue.popleft()
                try:
                    await self._do(work)
                except Exception:
                    self._logger.exception("%r could not be done and is given up", work)
        finally:
            # Here and not when the task is done: work that is put in between would wait.
            self._running -= 1
