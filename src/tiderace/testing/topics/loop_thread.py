"""An event loop in a thread, for test clients in sync tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from asgiref.sync import AsyncToSync

from tiderace.runtime.futures import fulfil
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

        self._jobs.put(partial(fulfil, future, function, *args, **kwargs))
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
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return self._executor.run_until(future)
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End what belongs to the loop, as a server does when it stops."""
        try:
            self.run(_shut_down())
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    async def _serve(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        loop = asyncio.get_running_loop()
        # As async_to_sync does for a caller that waits, but until the loop ends.
        executors: dict[Any, Any] = AsyncToSync.loop_thread_executors
        executors[loop] = self._executor
        try:
            started.set_result(loop)
            await self._stop.wait()
        finally:
            del executors[loop]


async def _shut_down() -> None:
    for hook in reversed(process_lifespan.shutdown):
        # The hooks of the project are left out, since its start hooks have not run either.
        if hook.__module__.partition(".")[0] == "tiderace":
            await hook()
