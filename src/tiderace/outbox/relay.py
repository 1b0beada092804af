"""The relay of one database: reads the rows of its outbox, and deletes published ones."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from django.db import connections

from tiderace import metrics
from tiderace.outbox.lease import CHECK, RENEWAL, Lease
from tiderace.outbox.publisher import OutboxPublisher, Results
from tiderace.outbox.rows import OutboxRow, OutboxRows, Statistics
from tiderace.runtime.futures import call_soon
from tiderace.runtime.tasks import TaskGroup

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("tiderace.outbox")

# Rows of one query.
_ROWS = 500

# Seconds between two tries of the database.
_RETRY = 1.0

# Seconds between two checks whether the tables exist.
_MIGRATION = 30.0

# Seconds between two queries for the metrics.
_STATISTICS = 5.0

# Seconds to wait for topics that are being published, so that fewer queries are made.
_GATHERING = 0.05


class Relay:
    """Publishes the rows of one database, in the order of their ids in each topic.

    A row is published once and then deleted. If the relay is killed in between, the row
    is published again under the same idempotency key, which a layer keeps for a week or
    until the row is deleted. If a row cannot be published now, its topic waits for one to
    ten seconds, and other topics go on. While a layer is away, its topics try it one
    after the other. A row whose own data or topic is at fault is set aside, and the rows
    after it are published.

    Args:
        database: its alias.
        poll: seconds between two queries while nothing waits.
        clock: seconds that never run backwards.
    """

    def __init__(
        self,
        database: str,
        *,
        poll: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.database = database
        self._poll = poll
        self._clock = clock
        self._rows = OutboxRows(database)
        self._lease = Lease(database, clock=clock)
        # One thread, and so one connection.
        self._thread = ThreadPoolExecutor(1, "tiderace-relay")
        self._tasks = TaskGroup(logger)
        self._woken = asyncio.Event()
        self._publisher = OutboxPublisher(
            database, self._lease, clock=clock, on_end=self._woken.set
        )
        # Results that are not written into the database yet.
        self._results = Results()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._counted = float("-inf")

    def wake(self) -> None:
        """Query the rows now; may be called from any thread."""
        call_soon(self._loop, self._woken.set)

    async def run(self) -> None:
        """Relay while this process holds the lease, until cancelled."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._wait_for_tables()
            self._tasks.spawn(self._keep_lease())
            await self._keep_relaying()
        finally:
            self._loop = None
            await self._publisher.cancel()
            await self._tasks.cancel()
            # Shielded, so that rows that are published are deleted.
            await asyncio.shield(self._stop())

    async def _wait_for_tables(self) -> None:
        while not await self._try(self._rows.exist, otherwise=False):
            logger.info(
                "the database %r has no outbox; run manage.py migrate --database=%s if "
                "publications are made in its transactions",
                self.database,
                self.database,
            )
            await self._in_thread(self._close_connection)
            await asyncio.sleep(_MIGRATION)

    async def _keep_lease(self) -> None:
        while True:
            held = await self._try(self._lease.acquire, otherwise=False)
            if not held:
                _report(self.database, Statistics())
                # An idle process keeps no connection.
                await self._in_thread(self._close_connection)
            await asyncio.sleep(RENEWAL if held else CHECK)

    async def _keep_relaying(self) -> None:
        while True:
            if await self._turn():
                continue
            # Wait for a commit of this process, the end of a topic's rows, or the poll.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll):
                    await self._woken.wait()
            await self._publisher.wait(_GATHERING)

    async def _turn(self) -> bool:
        """Delete published rows and begin with more; return whether there are more."""
        ended = self._publisher.ended
        if not await self._write_results():
            return False
        self._publisher.forget(ended)
        self._woken.clear()
        if not self._lease.held or self._publisher.is_full:
            return False
        await self._count()
        rows: Sequence[OutboxRow] = await self._try(
            self._rows.waiting, _ROWS, without=self._publisher.topics, otherwise=()
        )
        self._publisher.publish(rows)
        return len(rows) == _ROWS

    # The database

    async def _write_results(self) -> bool:
        """Delete published rows and mark failed ones; return whether that succeeded."""
        self._results.extend(self._publisher.take_results())
        if self._results:
            if not await self._try(self._write, self._results, otherwise=False):
                return False
            self._publisher.expire_keys(each for _, each in self._results.published)
            self._results = Results()
        return True

    def _write(self, results: Results) -> bool:
        if results.published:
            self._rows.delete([row for row, _ in results.published])
        for row, error in results.refused:
            self._rows.store_error(row, error)
        for row, error in results.set_aside:
            self._rows.set_aside(row, error)
        return True

    async def _count(self) -> None:
        now = self._clock()
        if now - self._counted >= _STATISTICS:
            self._counted = now
            found = await self._try(self._rows.statistics, otherwise=None)
            if found is not None:
                _report(self.database, found)

    async def _stop(self) -> None:
        _report(self.database, Statistics())
        await self._write_results()
        await self._publisher.cancel()
        await self._try(self._lease.release, otherwise=None)
        await self._in_thread(self._close_connection)
        self._thread.shutdown(wait=False)

    def _close_connection(self) -> None:
        connections[self.database].close()

    async def _try(
        self, query: Callable[..., T], *args: object, otherwise: T, **options: object
    ) -> T:
        """Return what ``query`` returns; after an error, and a pause, ``otherwise``."""
        try:
            return await self._in_thread(query, *args, **options)
        except Exception as error:
            # The relay goes on after any error of a database backend.
            logger.warning("the outbox of %r cannot be used: %s", self.database, error)
            await self._in_thread(self._close_connection)
            await asyncio.sleep(_RETRY)
            return otherwise

    async def _in_thread(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await asyncio.wrap_future(self._thread.submit(function, *args, **kwargs))


# The statistics of the databases whose relay is active in this process.
_statistics: dict[str, Statistics] = {}


def _report(database: str, statistics: Statistics) -> None:
    """Set the gauges; they are 0 in a process whose relay is not active."""
    _statistics[database] = statistics
    found = _statistics.values()
    metrics.OUTBOX_WAITING.value = sum(each.waiting for each in found)
    metrics.OUTBOX_SET_ASIDE.value = sum(each.set_aside for each in found)
    metrics.OUTBOX_AGE.value = int(max(each.oldest for each in found))
