"""Runs operations on the database in two threads per process, for all event loops.

One thread writes, the other reads. The operations that wait when the writing thread is
free are run as one transaction, and operations of one kind by one call, so that a hundred
publications at once cost little more than one.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, TypeVarTuple

from tiderace.exceptions import LayerAccessDenied, LayerUnavailable, MessageTooLarge
from tiderace.layers.backoff import backoff
from tiderace.layers.database.vendor import (
    Cursor,
    DatabaseConnection,
    Fault,
    OutcomeUnknown,
    Vendor,
)
from tiderace.runtime.forks import after_fork, around_fork, keep_alive
from tiderace.runtime.futures import call_soon

A = TypeVar("A")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")

logger = logging.getLogger("tiderace.layers")

# Seconds after which a thread without work ends and closes its connection.
_IDLE = 30.0

# The most bytes of the operations in one transaction, unless it has a single operation.
_MAX_GATHERED_BYTES = 16_000_000

# The most bytes of one operation: the default limit of Redis, and half of the limits of
# PostgreSQL and SQLite.
_MAX_BYTES = 512 * 1024 * 1024

Handler = Callable[[Cursor, list[Any]], Sequence[Any]]


# The exception for a caller, by fault; with the last two no further try can succeed.
_FAILURES: dict[Fault, type[Exception]] = {
    Fault.REFUSED: LayerUnavailable,
    Fault.DENIED: LayerAccessDenied,
    Fault.TOO_LARGE: MessageTooLarge,
    Fault.INVALID: TypeError,
}


class _Operation:
    """One call that waits for its result, in an event loop or in a thread."""

    __slots__ = ("argument", "done", "error", "handler", "lock", "loop", "size")

    def __init__(
        self, handler: Handler, argument: Any, lock: Sequence[str] = (), size: int = 0
    ) -> None:
        self.handler = handler
        self.argument = argument
        self.lock = lock
        self.size = size
        # The error of the last try.
        self.error: Exception | None = None
        self.loop = asyncio._get_running_loop()  # noqa: SLF001 (None in sync code)
        self.done: Any = (
            concurrent.futures.Future()
            if self.loop is None
            else self.loop.create_future()
        )


class Executor:
    """The connections of one process to a database, and the threads that use them.

    Args:
        vendor: opens the connections.
        timeout: seconds that an operation waits for a database that is away or busy.
    """

    def __init__(self, vendor: Vendor, *, timeout: float) -> None:
        self._vendor = vendor
        self._timeout = timeout
        self._start_empty()
        after_fork(self._forget_parent)
        around_fork(self._pause, self._resume)

    def _start_empty(self) -> None:
        self._writes = _OperationThread(self._vendor, write=True, timeout=self._timeout)
        self._reads = _OperationThread(self._vendor, write=False, timeout=self._timeout)

    def _pause(self) -> None:
        for thread in (self._writes, self._reads):
            thread.pause()

    def _resume(self) -> None:
        for thread in (self._reads, self._writes):
            thread.resume()

    def _forget_parent(self) -> None:
        keep_alive((self._writes, self._reads))
        self._start_empty()

    async def write(
        self,
        function: Callable[[Cursor, *Ts], R],
        *arguments: *Ts,
        lock: Sequence[str] = (),
        size: int = 0,
    ) -> R:
        """Run a function in a transaction, together with other operations that wait.

        Args:
            function: called with the transaction and ``arguments``; called again when the
                transaction failed.
            arguments: passed to it.
            lock: names that no two transactions hold at the same time.
            size: bytes that it writes, if they are many.

        Raises:
            LayerUnavailable: when the database could not be reached in time, or refused.
            MessageTooLarge: when the database never takes a value of this size.
            TypeError: when it never takes a value for another reason, such as a NUL in a
                text.
        """
        call: tuple[Callable[..., R], Any] = (function, arguments)
        return await self.write_together(_call_each, call, lock=lock, size=size)

    async def write_together(
        self,
        handler: Callable[[Cursor, list[A]], Sequence[R]],
        argument: A,
        *,
        lock: Sequence[str] = (),
        size: int = 0,
    ) -> R:
        """Run an operation as ``write``, by one call for all operations of its kind.

        Args:
            handler: called with the arguments of all operations of this kind; returns
                their results in the same order.
            argument: that of this operation.
            lock: as in ``write``.
            size: as in ``write``.
        """
        if size > _MAX_BYTES:
            raise MessageTooLarge(
                f"a message has {size} bytes, and the layer takes {_MAX_BYTES}; divide "
                "it, or publish where its data can be fetched"
            )
        operation = _Operation(handler, argument, lock, size)
        result: R = await self._run(self._writes, operation)
        return result

    async def read(self, function: Callable[[Cursor, *Ts], R], *arguments: *Ts) -> R:
        """Run a function that only reads, in a snapshot of the database.

        Raises:
            LayerUnavailable: as ``write``.
        """
        operation = _Operation(_call_each, (function, arguments))
        result: R = await self._run(self._reads, operation)
        return result

    async def close(self) -> None:
        """Close the connections after the waiting operations; later ones open others."""
        for thread in (self._reads, self._writes):
            await self._wait(thread.close())

    def drop_connections(self) -> None:
        """Break the connections as a failure would; for tests."""
        for thread in (self._reads, self._writes):
            thread.drop()

    async def _run(self, thread: _OperationThread, operation: _Operation) -> Any:
        thread.submit(operation)
        return await self._wait(operation)

    async def _wait(self, operation: _Operation) -> Any:
        try:
            if operation.loop is None:
                return operation.done.result(self._timeout)
            async with asyncio.timeout(self._timeout):
                return await operation.done
        except TimeoutError:
            operation.done.cancel()
            reason = f" ({operation.error})" if operation.error else ""
            raise LayerUnavailable(
                f"the layer's database {self._vendor.location} could not be reached or "
                f"was busy for {self._timeout:g} seconds{reason}; check that it runs "
                "and that nothing holds a lock on it, or raise publish_timeout"
            ) from operation.error


class _OperationThread:
    """A thread with a connection, and the operations that wait for it.

    The thread is started by an operation. It closes the connection and ends after 30
    seconds without operations.
    """

    def __init__(self, vendor: Vendor, *, write: bool, timeout: float) -> None:
        self._vendor = vendor
        self._write = write
        self._timeout = timeout
        self._waiting: deque[_Operation] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        # Held while the connection is in use.
        self._using = threading.Lock()
        self._connection: DatabaseConnection | None = None

    def submit(self, operation: _Operation) -> None:
        """Run an operation soon."""
        with self._changed:
            self._waiting.append(operation)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work,
                    name=f"tiderace-database-{'write' if self._write else 'read'}",
                    daemon=True,
                )
                self._thread.start()
            else:
                self._changed.notify()

    def close(self) -> _Operation:
        """Close the connection after the waiting operations; return an operation to await."""
        operation = _Operation(_close, None)
        if self._connection is None and not self._waiting:
            operation.done.set_result(None)
        else:
            self.submit(operation)
        return operation

    def drop(self) -> None:
        """Close the connection now, unless it is in use."""
        with self._using:
            self._disconnect()

    def pause(self) -> None:
        """Close the connection, and open none until ``resume``."""
        self._using.acquire()
        self._disconnect()

    def resume(self) -> None:
        """Undo ``pause``."""
        self._using.release()

    # In the thread

    def _work(self) -> None:
        while batch := self._next_batch():
            self._run(batch)
            # Waiting for the next batch must not keep callers' objects alive.
            del batch
        # A layer that was dropped without close() would leave its connection open; the
        # next thread opens another one.
        self.drop()

    def _next_batch(self) -> list[_Operation]:
        """Wait for operations; return none after 30 seconds without any."""
        with self._changed:
            while not self._waiting:
                if not self._changed.wait(_IDLE) and not self._waiting:
                    self._thread = None
                    return []
            return self._take()

    def _take(self) -> list[_Operation]:
        """Return the operations for one transaction."""
        first = self._waiting.popleft()
        batch = [first]
        if not self._write or first.handler is _close:
            return batch
        locks, size = set(first.lock), first.size
        while self._waiting and len(batch) < self._vendor.max_gathered:
            following = self._waiting[0]
            locks.update(following.lock)
            size += following.size
            if (
                following.handler is _close
                or len(locks) > self._vendor.max_locks
                or size > _MAX_GATHERED_BYTES
            ):
                break
            batch.append(self._waiting.popleft())
        return batch

    def _run(self, batch: list[_Operation]) -> None:
        """Run operations until they have succeeded, failed or been given up."""
        tries = 0
        while True:
            batch = [each for each in batch if not each.done.done()]
            if not batch:
                return
            try:
                with self._using:
                    if batch[0].handler is _close:
                        self._disconnect()
                        results: list[Any] = [None]
                    else:
                        batch, results = self._transact(batch)
            except LayerUnavailable as error:
                # Whether they were committed is not known: they are not run again.
                _finish(batch, [error] * len(batch))
                return
            except Exception as error:
                fault = self._vendor.explain(error)
                if fault is not None:
                    self.drop()
                if fault is Fault.TRANSIENT:
                    tries += 1
                    for each in batch:
                        each.error = error
                    time.sleep(backoff(tries, first=0.005, longest=0.25))
                    continue
                if len(batch) > 1:
                    # One by one: without the one at fault the others may succeed.
                    for each in batch:
                        self._run([each])
                else:
                    _finish(batch, [self._failure(fault, error)])
                return
            _finish(batch, results)
            return

    def _transact(self, batch: list[_Operation]) -> tuple[list[_Operation], list[Any]]:
        """Run operations as one transaction.

        Returns:
            The operations that were not given up before the transaction began, and their
            results.
        """
        connection = self._connection
        if connection is None:
            connection = self._connection = self._vendor.connect(self._timeout)
        try:
            cursor = connection.begin(write=self._write, timeout=self._timeout)
            batch = [each for each in batch if not each.done.done()]
            if names := sorted({name for each in batch for name in each.lock}):
                cursor.lock(names)
            results = _call_handlers(cursor, batch)
            announced = cursor.announced
            try:
                connection.commit()
            except OutcomeUnknown as unknown:
                if not self._was_committed(unknown):
                    return self._transact(batch)
        except BaseException:
            connection.rollback()
            raise
        if announced and self._connection is not None:
            self._connection.announce(announced)
        return batch, results

    def _was_committed(self, unknown: OutcomeUnknown) -> bool:
        """Return whether a transaction was committed, which new connections find out.

        Raises:
            LayerUnavailable: when the database could not be reached in time.
        """
        deadline = time.monotonic() + self._timeout
        tries = 0
        while True:
            self._disconnect()
            try:
                self._connection = self._vendor.connect(self._timeout)
                return self._vendor.was_committed(self._connection, unknown)
            except Exception as error:
                tries += 1
                delay = backoff(tries, first=0.005, longest=0.25)
                if time.monotonic() + delay > deadline:
                    raise LayerUnavailable(
                        f"the connection to the layer's database "
                        f"{self._vendor.location} broke during a commit, and whether it "
                        f"was committed could not be found out ({error}); check that "
                        "the database runs"
                    ) from error
                time.sleep(delay)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _failure(self, fault: Fault | None, error: Exception) -> Exception:
        """Return the exception for the caller of a failed operation."""
        if fault is None:
            return error
        failure = _FAILURES[fault](
            f"the layer's database {self._vendor.location} refused: {error}"
        )
        failure.__cause__ = error
        return failure


def _call_each(cursor: Cursor, calls: list[tuple[Callable[..., R], Any]]) -> list[R]:
    """The handler of operations that are a function and its arguments."""
    return [function(cursor, *arguments) for function, arguments in calls]


def _close(cursor: Cursor, arguments: list[Any]) -> Sequence[Any]:
    """The handler that marks the operation to close a connection; never called."""
    raise AssertionError("the thread closes its connection instead")


def _call_handlers(cursor: Cursor, batch: list[_Operation]) -> list[Any]:
    """Call each handler once, with the arguments of all its operations."""
    if len(batch) == 1:
        return list(batch[0].handler(cursor, [batch[0].argument]))
    kinds: dict[Handler, list[int]] = {}
    for index, each in enumerate(batch):
        kinds.setdefault(each.handler, []).append(index)
    results: list[Any] = [None] * len(batch)
    for handler, indexes in kinds.items():
        found = handler(cursor, [batch[index].argument for index in indexes])
        for index, result in zip(indexes, found, strict=True):
            results[index] = result
    return results


def _finish(batch: list[_Operation], results: list[Any]) -> None:
    """Pass the results to their callers, with one call to each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop | None, list[tuple[Any, Any]]] = {}
    for each, result in zip(batch, results, strict=True):
        by_loop.setdefault(each.loop, []).append((each.done, result))
    for loop, finished in by_loop.items():
        if loop is None:
            _set_results(finished)
        else:
            call_soon(loop, _set_results, finished)


def _set_results(finished: list[tuple[Any, Any]]) -> None:
    for done, result in finished:
        if done.done():
            continue
        if isinstance(result, Exception):
            done.set_exception(result)
        else:
            done.set_result(result)
