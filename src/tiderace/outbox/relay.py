"""Hands the rows of an outbox to the layers of their topics."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from operator import attrgetter
from typing import ParamSpec, TypeVar

from django.db import connections

from tiderace import metrics
from tiderace.exceptions import MessageTooLarge
from tiderace.outbox.gauges import report
from tiderace.outbox.lease import CHECK, RENEWAL, Lease
from tiderace.outbox.rows import OutboxRows, Row, Statistics
from tiderace.runtime.tasks import TaskGroup
from tiderace.topics.streams import layer_of
from tiderace.topics.topic import Refuse, UnknownTopic

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("tiderace.outbox")

# Rows of one query, and topics whose rows are being published at once.
_ROWS = 500
_TOPICS = 500

# Seconds between two tries of the database, and between the first two of a topic; the
# pause doubles with each further try of a topic, up to the longest.
_RETRY = 1.0
_LONGEST_RETRY = 10.0

# Errors of a row itself, which no further try can succeed with: its data or tags are no
# JSON, or the topic's code refuses its name; and those by which a layer says that it
# cannot encode or take a message.
_INVALID = (ValueError, Refuse)
_REFUSED_BY_LAYER = (TypeError, MessageTooLarge)

# Seconds between two looks whether the tables have been made.
_MIGRATION = 30.0

# Seconds between two warnings of topics that wait, for the same kind of error.
_WARNINGS = 60.0

# Seconds between two queries for the metrics.
_STATISTICS = 5.0

# Seconds in which the topic of a row may still become known: in a rolling update the relay
# can be a process of the older release.
_UNKNOWN_TOPIC = 300.0

# Rows of topics that are done are awaited so long before the next query.
_GATHERING = 0.05


class Relay:
    """Publishes the rows of one database, in the order of their ids in each topic.

    A row is published once: it is deleted afterwards, and tried again when the relay was
    killed in between, under the same idempotency key, which a layer holds for five
    minutes. When it cannot be published now, whatever the error, the topic waits and is
    tried again after one to ten seconds; no other topic waits for it. A row whose own
    data or topic is at fault is set aside, and the rows after it are published.

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
        # By topic: a task that publishes rows of it. Its other rows wait.
        self._busy: dict[str, asyncio.Task[None]] = {}
        # Failed tries in succession, by topic.
        self._tries: dict[str, int] = {}
        self._published: list[int] = []
        self._failed: list[tuple[int, str]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()
        self._counted = float("-inf")
        self._warned: dict[type[Exception], float] = {}

    def wake(self) -> None:
        """Look for rows now; may be called from any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # that loop is closed
                self._loop.call_soon_threadsafe(self._woken.set)

    async def run(self) -> None:
        """Relay while this process holds the lease, until cancelled."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._wait_for_tables()
            self._tasks.spawn(self._keep_lease())
            await self._keep_relaying()
        finally:
            self._loop = None
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
                report(self.database, Statistics())
                # An idle process keeps no connection.
                await self._in_thread(self._close_connection)
            await asyncio.sleep(RENEWAL if held else CHECK)

    async def _keep_relaying(self) -> None:
        while True:
            full = await self._turn()
            if self._busy:
                await asyncio.wait(self._busy.values(), timeout=_GATHERING)
            elif not full:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._poll):
                        await self._woken.wait()

    async def _turn(self) -> bool:
        """Delete what is published and begin with more; return whether there is more."""
        ended = [topic for topic, task in self._busy.items() if task.done()]
        if not await self._write_results():
            return False
        for topic in ended:
            del self._busy[topic]
        self._woken.clear()
        if not self._lease.held or len(self._busy) >= _TOPICS:
            return False
        await self._count()
        rows: Sequence[Row] = await self._try(
            self._rows.waiting, _ROWS, without=list(self._busy), otherwise=()
        )
        if not rows and not self._busy:
            self._tries.clear()  # of topics whose rows were deleted
        by_topic = sorted(rows, key=attrgetter("topic"))
        for topic, of_topic in groupby(by_topic, attrgetter("topic")):
            work = self._publish_in_order(list(of_topic))
            self._busy[topic] = self._tasks.spawn(work)
        return len(rows) == _ROWS

    # Publishing

    async def _publish_in_order(self, rows: Sequence[Row]) -> None:
        """Publish rows of one topic; at the first that fails, end after a pause.

        The rows that are left are read again, since they may be deleted meanwhile.
        """
        for row in rows:
            if not self._lease.held:
                return
            try:
                await self._publish(row)
            except Exception as error:
                # Whatever it is, later rows of the topic must not overtake this one.
                self._warn(row, error)
                tries = self._tries.get(row.topic, 0)
                self._tries[row.topic] = tries + 1
                await asyncio.sleep(_pause_after(tries))
                return
            self._tries.pop(row.topic, None)

    async def _publish(self, row: Row) -> None:
        """Publish a row, or set it aside.

        Raises:
            Exception: when it has to be tried again.
        """
        try:
            publication = row.prepare()
        except UnknownTopic as error:
            if row.age < _UNKNOWN_TOPIC:
                raise
            return self._set_aside(row, error)
        except _INVALID as error:
            return self._set_aside(row, error)
        # Apart, since a layer with wrong options raises TypeError, too.
        layer_of(publication.topic)
        try:
            await publication.apublish()
        except _REFUSED_BY_LAYER as error:
            return self._set_aside(row, error)
        metrics.OUTBOX_RELAYED.add()
        self._published.append(row.id)
        return None

    def _warn(self, row: Row, error: Exception) -> None:
        now = self._clock()
        kind = type(error)
        if now - self._warned.get(kind, float("-inf")) >= _WARNINGS:
            self._warned[kind] = now
            logger.warning(
                "publications in the outbox of %r wait and are tried again, as one to %r: "
                "%s: %s",
                self.database,
                row.topic,
                kind.__name__,
                error,
            )

    def _set_aside(self, row: Row, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        logger.error(
            "row %d of the outbox of %r, to the topic %r, is set aside, since it cannot "
            "be published: %s",
            row.id,
            self.database,
            row.topic,
            text,
        )
        self._failed.append((row.id, text))

    # The database

    async def _write_results(self) -> bool:
        """Delete published rows and mark failed ones; return whether that succeeded."""
        published, failed = self._published[:], self._failed[:]
        if published or failed:
            if not await self._try(self._write, published, failed, otherwise=False):
                return False
            del self._published[: len(published)]
            del self._failed[: len(failed)]
        return True

    def _write(self, published: list[int], failed: list[tuple[int, str]]) -> bool:
        self._rows.delete(published)
        for row, error in failed:
            self._rows.set_aside(row, error)
        return True

    async def _count(self) -> None:
        now = self._clock()
        if now - self._counted >= _STATISTICS:
            self._counted = now
            found = await self._try(self._rows.statistics, otherwise=None)
            if found is not None:
                report(self.database, found)

    async def _stop(self) -> None:
        report(self.database, Statistics())
        await self._write_results()
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
            # Whatever a backend raises, the relay has to go on.
            logger.warning("the outbox of %r cannot be used: %s", self.database, error)
            await self._in_thread(self._close_connection)
            await asyncio.sleep(_RETRY)
            return otherwise

    async def _in_thread(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await asyncio.wrap_future(self._thread.submit(function, *args, **kwargs))


def _pause_after(tries: int) -> float:
    """Return the seconds before a topic is tried again, after ``tries`` earlier pauses."""
    return min(_RETRY * 2.0 ** min(tries, 10), _LONGEST_RETRY)
