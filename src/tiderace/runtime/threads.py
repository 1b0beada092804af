"""The threads in which the sync code of connections runs: a bounded pool, in order.

asgiref sends all thread-sensitive sync code of a process through one thread, so one
slow query freezes every socket. Inside ``isolated()`` the sync code of a connection
runs on this pool instead: different connections side by side, one connection's calls
one after the other, and all calls of one handler in the same thread, so that they
share a database connection.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from asgiref.sync import AsyncToSync, SyncToAsync, ThreadSensitiveContext

from tiderace.runtime.forks import after_fork

__all__ = [
    "ConnectionThread",
    "ThreadPool",
    "background_context",
    "below_a_sync_caller",
    "current",
    "default_pool",
    "isolated",
]

T = TypeVar("T")

# What a thread does next: a job, or None when the pool closes.
_Job = Callable[[], None]


class _Worker(threading.Thread):
    """One thread of a pool, with the jobs that only it may run.

    Args:
        take: waits for the thread's next job; None ends the thread.
        number: the thread's number, for its name.
    """

    def __init__(self, take: Callable[[_Worker], _Job | None], number: int) -> None:
        super().__init__(name=f"tiderace-sync-{number}", daemon=True)
        self.jobs: deque[_Job] = deque()
        self._take = take

    def run(self) -> None:
        while (job := self._take(self)) is not None:
            job()
            # Do not keep the last job's connection alive while idle.
            del job


class ThreadPool:
    """At most ``size`` threads, started when needed, for the sync code of connections.

    A job either may run in any thread (``submit``) or must run in the thread that
    ran an earlier one (``submit_to``). Threads are daemons, waited for at exit for a
    few seconds only, so a handler that never returns cannot keep the process alive.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a thread pool needs at least one thread, not {size}")
        self.size = size
        self._condition = threading.Condition()
        self._shared: deque[_Job] = deque()
        self._workers: list[_Worker] = []
        self._idle = 0
        self._closed = False

    @property
    def waiting(self) -> int:
        """The number of jobs that no thread has taken yet."""
        return len(self._shared) + sum(len(worker.jobs) for worker in self._workers)

    def submit(self, job: _Job) -> None:
        """Run ``job`` in whichever thread is free first."""
        with self._condition:
            self._refuse_when_closed()
            self._shared.append(job)
            # A thread counts as idle until it has woken up, so it is not enough
            # that one is idle: there must be one for every waiting job.
            if self.waiting > self._idle and len(self._workers) < self.size:
                worker = _Worker(self.take, len(self._workers))
                self._workers.append(worker)
                worker.start()
            else:
                self._condition.notify()

    def submit_to(self, worker: _Worker, job: _Job) -> None:
        """Run ``job`` in ``worker``, after the jobs already waiting for it."""
        with self._condition:
            self._refuse_when_closed()
            worker.jobs.append(job)
            # Only that thread can take it, and which one a condition wakes is
            # not ours to choose.
            self._condition.notify_all()

    def take(self, worker: _Worker) -> _Job | None:
        """Wait for the next job of ``worker``; None when the pool has closed."""
        with self._condition:
            while True:
                if worker.jobs:
                    return worker.jobs.popleft()
                if self._shared:
                    return self._shared.popleft()
                if self._closed:
                    return None
                self._idle += 1
                try:
                    self._condition.wait()
                finally:
                    self._idle -= 1

    def close(self, timeout: float = 5.0) -> None:
        """Let the threads finish what waits, for ``timeout`` seconds at most."""
        deadline = time.monotonic() + timeout
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        for worker in self._workers:
            worker.join(max(deadline - time.monotonic(), 0))

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise RuntimeError(
                "the pool for sync code is closed, since the process is exiting; "
                "start no new work after that"
            )


class ConnectionThread(Executor):
    """The thread of one connection, as an executor that asgiref can use.

    The first job since ``release()`` goes to any free thread, the following ones to
    that same thread: a handler's sync calls share a thread (and so Django's database
    connection), while between handlers no thread is held. Jobs never overlap: one
    that is still running when the thread is released (its handler was cancelled, or
    it belongs to a background task) keeps it until it is done.
    """

    def __init__(self, pool: ThreadPool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        # Whether sync code has run (or was submitted) since the last ``release()``.
        self.used = False
        self._released = False
        # Jobs that were submitted and are not over.
        self._pending = 0
        # Those among them that follow a first job which has no thread yet.
        self._starting: list[_Job] = []

    def submit(
        self, function: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> Future[T]:
        """Run ``function`` in this connection's thread."""
        future: Future[T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                self._job_over()
                return
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                self._job_over()
                future.set_exception(error)
            else:
                self._job_over()
                future.set_result(result)

        with self._lock:
            if self._worker is not None:
                self._pool.submit_to(self._worker, job)
            elif self._pending:
                self._starting.append(job)
            else:
                self._pool.submit(lambda: self._first(job))
            self._pending += 1
            self.used = True
            self._released = False
        return future

    def release(self) -> None:
        """Hold no thread any more; the next job may run in another one."""
        with self._lock:
            self.used = False
            self._released = True
            self._let_go()

    def _first(self, job: _Job) -> None:
        worker = threading.current_thread()
        assert isinstance(worker, _Worker)  # noqa: S101 (jobs run in workers only)
        with self._lock:
            self._worker = worker
            # In front of what other connections have pinned to this thread.
            worker.jobs.extendleft(reversed(self._starting))
            self._starting.clear()
        job()

    def _job_over(self) -> None:
        # Before the job's result is set, so that its waiting caller finds the thread
        # free.
        with self._lock:
            self._pending -= 1
            self._let_go()

    def _let_go(self) -> None:
        if self._released and not self._pending:
            self._worker = None


_current: contextvars.ContextVar[ConnectionThread | None] = contextvars.ContextVar(
    "tiderace_connection_thread", default=None
)
_pool: ThreadPool | None = None
_pool_lock = threading.Lock()


def default_size() -> int:
    """Return the number of threads without a setting: asyncio's own default."""
    return min(32, (os.cpu_count() or 1) + 4)


def default_pool(size: int | None = None) -> ThreadPool:
    """The pool of this process, made at first use with ``size`` threads.

    A forked child makes its own, since threads do not survive a fork.
    """
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPool(size or default_size())
            atexit.register(_pool.close)
        return _pool


def _forget_pool() -> None:
    global _pool, _pool_lock
    _pool = None
    _pool_lock = threading.Lock()


after_fork(_forget_pool)


def current() -> ConnectionThread | None:
    """The thread of the connection that is being served here, if it is isolated."""
    return _current.get()


def background_context() -> contextvars.Context:
    """A copy of the running context, for a task that outlives the call it starts in.

    Below ``async_to_sync`` the context holds the thread that waits there, in which
    asgiref would run the task's sync code; by then it has gone on. An isolated
    connection's own thread is named instead.
    """
    context = contextvars.copy_context()
    if _current.get() is not None:
        context.run(setattr, AsyncToSync.executors, "current", None)
    return context


def below_a_sync_caller() -> bool:
    """Whether a thread waits in ``async_to_sync`` here, and lends itself to sync code."""
    return (
        getattr(AsyncToSync.executors, "current", None) is not None
        or asyncio.get_running_loop() in AsyncToSync.loop_thread_executors
    )


@asynccontextmanager
async def isolated(
    pool: ThreadPool | None = None,
) -> AsyncIterator[ConnectionThread | None]:
    """Give the connection served inside this block a thread of its own for sync code.

    Yields the connection's thread, or None where the block changes nothing: inside
    another ``isolated()`` or ``ThreadSensitiveContext``, and below a sync caller that
    waits in ``async_to_sync`` (a management command, Django's ``TestCase``), whose own
    thread, and so its open transaction, must be used.

    Tasks started inside must end before the block does.
    """
    if (
        _current.get() is not None
        or SyncToAsync.thread_sensitive_context.get(None) is not None
        or below_a_sync_caller()
    ):
        yield None
        return
    thread = ConnectionThread(pool or default_pool())
    context = ThreadSensitiveContext()
    SyncToAsync.context_to_thread_executor[context] = thread
    outer = SyncToAsync.thread_sensitive_context.set(context)
    token = _current.set(thread)
    try:
        yield thread
    finally:
        _current.reset(token)
        SyncToAsync.thread_sensitive_context.reset(outer)
        SyncToAsync.context_to_thread_executor.pop(context, None)
        thread.release()
