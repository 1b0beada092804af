"""The threads in which the sync code of connections runs.

asgiref sends all thread-sensitive sync code of a process through one thread, so one
slow query freezes every socket. Inside ``isolated()`` the sync code of a connection
runs on this pool instead: different connections side by side, one connection's calls
one after the other. A consumer's handler has one thread to itself until it ends, as a
request has in Django. The database connections belong to the socket and not to the
thread, so what is set on them (a tenant, a transaction) never applies to another socket.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from asgiref.sync import AsyncToSync, SyncToAsync, ThreadSensitiveContext

from tiderace import conf
from tiderace.runtime.forks import after_fork
from tiderace.runtime.futures import fulfil
from tiderace.runtime.socket_databases import SocketDatabases

T = TypeVar("T")

_Job = Callable[[], None]

# The most threads of a pool, held ones included, as a multiple of its size.
_MAX_FACTOR = 10


class _Worker(threading.Thread):
    """One thread of a pool, with a queue of jobs; None in it ends the thread.

    Args:
        job_done: called after each job.
        number: the thread's number, for its name.

    Attributes:
        holder: the ``ConnectionThread`` that holds the thread; None for none.
        waiting: how many jobs are queued or running.
    """

    def __init__(self, job_done: Callable[[_Worker], None], number: int) -> None:
        super().__init__(name=f"tiderace-sync-{number}", daemon=True)
        self.jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self.holder: object = None
        self.waiting = 0
        self._job_done = job_done

    def run(self) -> None:
        while (job := self.jobs.get()) is not None:
            job()
            # Do not keep the last job's connection alive while idle.
            del job
            self._job_done(self)


class ThreadPool:
    """Threads for the sync code of connections, started when needed.

    At most ``size`` threads run new jobs at once. A thread that a handler holds while it
    awaits delays nothing: others take its place, up to ten times ``size`` threads.
    Beyond that, jobs run in threads that handlers hold.
    Threads are daemons, waited for at exit for a few seconds only, so a handler that
    never returns cannot keep the process alive.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a thread pool needs at least one thread, not {size}")
        self.size = size
        self._lock = threading.Lock()
        self._waiting: deque[_Job] = deque()
        self._workers: list[_Worker] = []
        self._free: list[_Worker] = []
        # How many threads have a job.
        self._busy = 0
        self._closed = False

    def __len__(self) -> int:
        """Return how many threads there are."""
        return len(self._workers)

    def submit(self, job: _Job) -> None:
        """Run ``job`` in whichever thread is free first."""
        with self._lock:
            self._refuse_when_closed()
            self._waiting.append(job)
            self._assign()

    def submit_to(self, worker: _Worker, job: _Job) -> None:
        """Run ``job`` in a held ``worker``, after the jobs already waiting for it."""
        with self._lock:
            self._refuse_when_closed()
            self._give(worker, job)

    def release(self, worker: _Worker) -> None:
        """Make a held ``worker`` free for all jobs."""
        with self._lock:
            worker.holder = None
            if not worker.waiting:
                self._settle(worker)

    def close(self, timeout: float = 5.0) -> None:
        """Let the threads finish what waits, for ``timeout`` seconds at most."""
        deadline = time.monotonic() + timeout
        with self._lock:
            self._closed = True
            workers = list(self._workers)
            for worker in workers:
                if not worker.waiting:
                    worker.jobs.put(None)
        for worker in workers:
            worker.join(max(deadline - time.monotonic(), 0))

    def _assign(self) -> None:
        """Give the waiting jobs to free, new or, when there are too many, held threads."""
        while self._waiting and self._busy < self.size:
            if self._free:
                worker = self._free.pop()
            elif len(self._workers) < self.size * _MAX_FACTOR:
                worker = _Worker(self._job_done, len(self._workers))
                self._workers.append(worker)
                worker.start()
            else:
                worker = next(each for each in self._workers if not each.waiting)
            self._give(worker, self._waiting.popleft())

    def _give(self, worker: _Worker, job: _Job) -> None:
        if not worker.waiting:
            self._busy += 1
        worker.waiting += 1
        worker.jobs.put(job)

    def _job_done(self, worker: _Worker) -> None:
        with self._lock:
            worker.waiting -= 1
            if not worker.waiting:
                self._busy -= 1
                self._settle(worker)

    def _settle(self, worker: _Worker) -> None:
        """Keep a thread without a job for its holder or for others, or end it."""
        if worker.holder is None:
            self._free.append(worker)
        self._assign()
        if self._closed and not worker.waiting:
            worker.jobs.put(None)

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise RuntimeError(
                "the pool for sync code is closed, since the process is exiting; "
                "start no new work after that"
            )


class ConnectionThread(ThreadSensitiveContext):
    """The thread of one connection, for asgiref, which calls its ``submit``.

    As a context manager, it is the thread of what is awaited inside. It is both asgiref's
    context and the executor of that: two objects would take 0.1 KB more of each socket.

    The first job since ``release()`` goes to any free thread, the following ones to
    that same thread, which nothing else uses: a handler's sync calls share a thread,
    while between handlers none is held. Jobs never overlap. In every thread they find
    the connection's own database connections, which are closed when no thread is held,
    unless a transaction is open.

    Args:
        pool: runs the jobs.
        holds: whether a thread is held until ``release()``, and not for each job alone.

    Attributes:
        used: whether sync code has run (or was submitted) since the last ``release()``.
    """

    __slots__ = (
        "_closed",
        "_databases",
        "_held",
        "_jobs",
        "_lock",
        "_pool",
        "_running",
        "_worker",
        "holds",
        "used",
    )

    def __init__(self, pool: ThreadPool, *, holds: bool = False) -> None:
        super().__init__()
        self.holds = holds
        self.used = False
        self._pool = pool
        self._lock = threading.Lock()
        # Made for the first job: most sockets have none.
        self._databases: SocketDatabases | None = None
        # A list: an empty deque takes 0.7 KB.
        self._jobs: list[_Job] | None = None
        self._worker: _Worker | None = None
        self._held = False
        self._closed = False
        # Whether ``_run`` is queued or running.
        self._running = False

    async def __aenter__(self) -> ConnectionThread:
        SyncToAsync.context_to_thread_executor[self] = self  # type: ignore[assignment]
        # It was None before. The token would be 0.1 KB of each socket.
        SyncToAsync.thread_sensitive_context.set(self)
        return self

    async def __aexit__(self, *error: object) -> None:
        SyncToAsync.thread_sensitive_context.set(None)  # type: ignore[arg-type]
        SyncToAsync.context_to_thread_executor.pop(self, None)
        self.close()

    def submit(
        self, function: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> Future[T]:
        """Run ``function`` in this connection's thread."""
        future: Future[T] = Future()
        job = partial(fulfil, future, function, *args, **kwargs)
        with self._lock:
            if self._jobs is None:
                self._jobs, self._databases = [], SocketDatabases()
            self._jobs.append(job)
            if self.holds and not _in_background.get():
                self.used = self._held = True
            self._start()
        return future

    def release(self) -> None:
        """Hold no thread any more; the next job may run in another one."""
        with self._lock:
            self.used = self._held = False
            databases = self._databases
            if self._running or databases is None:
                return
            if databases.open or (self._closed and databases.in_transaction):
                self._start()
            elif self._worker is not None:
                self._pool.release(self._worker)
                self._worker = None

    def close(self) -> None:
        """Roll back open transactions, and hold no thread any more."""
        # A job that is just ending may have opened a transaction: ``_run`` looks for it.
        self._closed = True
        self.release()

    def _start(self) -> None:
        if self._running:
            return
        if self._worker is None:
            self._pool.submit(self._run)
        else:
            self._pool.submit_to(self._worker, self._run)
        self._running = True

    def _run(self) -> None:
        """Run the jobs, and close the database connections unless the thread is held."""
        jobs, databases = self._jobs, self._databases
        assert jobs is not None  # noqa: S101 (``submit`` has made both)
        assert databases is not None  # noqa: S101
        while True:
            held, closed = self._held, self._closed
            databases.enter()
            try:
                while jobs:
                    jobs.pop(0)()
                if not held:
                    databases.close(transactions=closed)
            finally:
                databases.leave()
            with self._lock:
                if not jobs and (held, closed) == (self._held, self._closed):
                    self._keep(threading.current_thread() if held else None)
                    self._running = False
                    return

    def _keep(self, worker: Any) -> None:
        """Hold ``worker``, the running thread, if it is free; with None hold no thread."""
        if worker is None:
            if self._worker is not None:
                self._pool.release(self._worker)
        elif worker.holder is None:
            worker.holder = self
        elif worker.holder is not self:
            return
        self._worker = worker


# Whether the running task is a background task; nothing would release its thread.
_in_background: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "tiderace_in_background", default=False
)
_pool: ThreadPool | None = None
_pool_lock = threading.Lock()


def default_size() -> int:
    """Return the number of threads without a setting: asyncio's own default."""
    return min(32, (os.cpu_count() or 1) + 4)


def default_pool() -> ThreadPool:
    """Return the pool of this process, of ``TIDERACE["SYNC_THREADS"]`` threads.

    A forked child makes its own, since threads do not survive a fork.
    """
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPool(conf.current().sync_threads or default_size())
            atexit.register(_pool.close)
        return _pool


def _forget_pool() -> None:
    global _pool, _pool_lock
    _pool = None
    _pool_lock = threading.Lock()


after_fork(_forget_pool)


def current() -> ConnectionThread | None:
    """Return the thread of the connection that is being served here, if it is isolated."""
    context = SyncToAsync.thread_sensitive_context.get(None)
    return context if isinstance(context, ConnectionThread) else None


def background_context() -> contextvars.Context:
    """Return a copy of the running context, for a task that outlives the call it starts in.

    Below ``async_to_sync`` the context holds the thread that waits there, in which
    asgiref would run the task's sync code; by then it has gone on. An isolated
    connection's own thread is named instead.
    """
    context = contextvars.copy_context()
    if current() is not None:
        context.run(setattr, AsyncToSync.executors, "current", None)
        context.run(_in_background.set, True)
    return context


def forget_cancelled_call() -> None:
    """Run sync code in the connection's thread again after a sync call was cancelled.

    asgiref copies the context of a cancelled call while its thread goes on. If that is
    in ``async_to_sync``, later sync code would be sent there, where nothing takes it.
    """
    if current() is not None:
        AsyncToSync.executors.current = None


def _executors_variable() -> contextvars.ContextVar[Any] | None:
    """Return the context variable in which asgiref keeps ``AsyncToSync.executors``."""
    context = contextvars.Context()
    context.run(setattr, AsyncToSync.executors, "current", None)
    return next(iter(context), None)


_executors = _executors_variable()


def below_a_sync_caller() -> bool:
    """Return whether a thread waits in ``async_to_sync`` here, and lends itself to sync code."""
    if asyncio.get_running_loop() in AsyncToSync.loop_thread_executors:
        return True
    # Mostly nothing was set here. asgiref raises two exceptions in turn then, which took
    # 2 % of the time in which a client connects.
    if _executors is not None and _executors.get(None) is None:
        return False
    return getattr(AsyncToSync.executors, "current", None) is not None


def isolated(
    pool: ThreadPool | None = None,
) -> AbstractAsyncContextManager[ConnectionThread | None]:
    """Give the connection served inside this block a thread of its own for sync code.

    Its calls share no thread until ``holds`` of the ``ConnectionThread`` is set. The
    block gets the connection's thread, or None where it changes nothing: inside
    another ``isolated()`` or ``ThreadSensitiveContext``, and below a sync caller that
    waits in ``async_to_sync`` (a management command, Django's ``TestCase``), whose own
    thread, and so its open transaction, must be used.

    Tasks started inside must end before the block does.
    """
    if (
        SyncToAsync.thread_sensitive_context.get(None) is not None
        or below_a_sync_caller()
    ):
        return _UNCHANGED
    return ConnectionThread(pool or default_pool())


class _Unchanged:
    """A context that changes nothing, the same for all.

    Middleware, routers and consumers of one connection are each inside the other. Its
    methods are static: each bound one of ``nullcontext`` takes 64 bytes of a socket.
    """

    @staticmethod
    async def __aenter__() -> None:
        pass

    @staticmethod
    async def __aexit__(*error: object) -> None:
        pass


_UNCHANGED = _Unchanged()
