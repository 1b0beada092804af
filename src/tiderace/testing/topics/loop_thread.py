"""An event loop in a thread, for test clients in sync tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any, TypeVar

from asgiref.sync import SyncToAsync, ThreadSensitiveContext

from tiderace.runtime.lifespan import process_lifespan

T = TypeVar("T")


class _CallerExecutor(Executor):
    """Runs sync code in the thread that waits in ``LoopThread.run``."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def submit(
        self, function: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> Future[T]:
        """Queue a call for the thread that waits, or that will wait next."""
        future: Future[T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._jobs.put(job)
        return future

    def run_until(self, done: Future[T]) -> T:
        """Run the queued calls until ``done`` is, and return its result."""
        done.add_done_callback(lambda _: self._jobs.put(None))
        while not done.done():
            if (job := self._jobs.get()) is not None:
                job()
        return done.result()


class LoopThread:
    """An event loop that serves connections while a sync test goes on.

    The sync code of the connections (permissions, hooks, sessions) runs in the thread
    of the test while that waits for a client, and so in the transaction of a
    ``TestCase``.
    """

    def __init__(self) -> None:
        self._executor = _CallerExecutor()
        self._context = ThreadSensitiveContext()
        self._stop = asyncio.Event()
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)),
            name="tiderace-test-clients",
            daemon=True,
        )
        self._thread.start()
        self._loop = started.result()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop, and wait for what it returns.

        Raises:
            RuntimeError: where an event loop runs in this thread, and after ``close``.
        """
        if not self._thread.is_alive():
            coroutine.close()
            raise RuntimeError("the client has disconnected; connect() another one")
        if asyncio._get_running_loop() is not None:  # noqa: SLF001 (None outside)
            coroutine.close()
            raise RuntimeError(
                "a sync client cannot be used in an async test; use the async one, "
                "`await topics.aconnect(...)`"
            )
        future = asyncio.run_coroutine_threadsafe(self._isolated(coroutine), self._loop)
        try:
            return self._executor.run_until(future)
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End what belongs to the loop, as a server does when it stops."""
        self.run(_shut_down())
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        started.set_result(asyncio.get_running_loop())
        await self._stop.wait()

    async def _isolated(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine whose sync code runs in the thread of the test."""
        SyncToAsync.context_to_thread_executor[self._context] = self._executor
        SyncToAsync.thread_sensitive_context.set(self._context)
        return await coroutine


async def _shut_down() -> None:
    for hook in reversed(process_lifespan.shutdown):
        await hook()
