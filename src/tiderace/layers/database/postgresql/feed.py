"""Reads new rows of the database, by LISTEN and by polling, on one connection.

Most rows arrive as notifications with their data. Each entry has an id from a sequence, so
a poll of the sequence shows which ids were not announced: these holes are read as soon as
their rows are committed. A poll without a reply within five seconds ends the connection,
so a half-open one is replaced.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from psycopg.pq import ExecStatus, Format

from tiderace.layers.database.postgresql.autocommit import load_rows
from tiderace.layers.database.postgresql.breaking import (
    break_connection,
    open_connections,
)
from tiderace.layers.database.postgresql.errors import (
    TimedOut,
    advise_connection,
    advise_statement,
    require_version,
)
from tiderace.layers.database.postgresql.holes import Holes
from tiderace.layers.database.postgresql.notifications import (
    CHANNEL,
    Announcement,
    decode,
)
from tiderace.layers.database.postgresql.parameters import connection_parameters
from tiderace.layers.database.vendor import FeedRow, Wanted

logger = logging.getLogger("tiderace.layers")

# Seconds between two polls while notifications arrive, and while none do.
_INTERVAL = 0.1
_INTERVAL_ALONE = 0.05

# Seconds after which a server that does not reply counts as gone.
_REPLY_TIMEOUT = 5.0

# Polls in a row that find a missed entry, after which notifications count as lost.
_MAX_MISSED = 3

# The last ids of the table at the start, among which some may be committed later.
_IN_FLIGHT = 1000

# Seconds within which an item of a queue is committed after it got its id.
_QUEUE_OVERLAP = 2.0

# It also reads when the server was started, since a pooler keeps the connection when the
# server restarts or another one takes over.
_ENDS = (
    "SELECT e.last_value, q.last_value, "
    "(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint "
    "FROM tiderace_layer_entry_id_seq e, tiderace_layer_queue_id_seq q"
)
_ENTRY = "id, subject, epoch, number, previous, data, published_ms"


class PostgresFeed:
    """A ``Feed`` on a connection of its own.

    Args:
        using: the alias of the database.
        dsn: connection string to use instead of Django's parameters; empty for those.
        wanted: the streams and queues to return rows of.
    """

    def __init__(self, using: str, dsn: str, wanted: Wanted) -> None:
        self._using = using
        self._dsn = dsn
        self._wanted = wanted
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        # The descriptor that the loop watches.
        self._socket: int | None = None
        self._readable = asyncio.Event()
        self._failure: Exception | None = None
        # When the server was started, in microseconds since the epoch.
        self._started = 0
        self._holes = Holes(0)
        self._queue_ends: list[tuple[float, int]] = []
        self._next_poll = 0.0
        self._is_notified = False
        self._missed = 0

    async def open(self) -> None:
        try:
            await self._connect()
            await self._listen()
            await self._find_end()
        except BaseException:
            await self.close()
            raise

    async def _connect(self) -> None:
        parameters: dict[str, Any] = {}
        if not self._dsn:
            parameters = connection_parameters(
                self._using, _REPLY_TIMEOUT, application="tiderace listen"
            )
        try:
            self._connection = await psycopg.AsyncConnection.connect(
                self._dsn, autocommit=True, **parameters
            )
        except psycopg.Error as error:
            raise advise_connection(error, self._using) from error
        require_version(self._connection.info.server_version)
        self._loop = asyncio.get_running_loop()
        self._socket = self._connection.pgconn.socket
        self._loop.add_reader(self._socket, self._receive)
        open_connections.add(self)

    async def _find_end(self) -> None:
        """Note the last ids, and which of them are not committed yet."""
        ((entry_end, queue_end, self._started),) = await self._query(_ENDS)
        visible = await self._query(
            "SELECT id FROM tiderace_layer_entry "
            f"WHERE id > {entry_end - _IN_FLIGHT} AND id <= {entry_end}"
        )
        now = time.monotonic()
        self._holes = Holes(max(0, entry_end - _IN_FLIGHT))
        self._holes.extend(entry_end, now)
        for (each,) in visible:
            self._holes.discard(each)
        self._queue_ends = [(now, queue_end)]

    async def read(self) -> Sequence[FeedRow]:
        while True:
            announced = self._take_notifications()
            if time.monotonic() >= self._next_poll:
                announced += await self._poll()
            if rows := await self._rows(announced):
                return rows
            await self._wait(self._next_poll)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._stop_receiving()
        connection.pgconn.finish()

    def drop(self) -> None:
        connection = self._connection
        if connection is not None:
            break_connection(connection.pgconn)

    # Notifications

    async def _listen(self) -> None:
        await self._query(f"LISTEN {CHANNEL}")

    def _take_notifications(self) -> list[Announcement]:
        """Return the announcements in the notifications that have arrived."""
        found: list[Announcement] = []
        while notification := self._pgconn.notifies():
            try:
                found += decode(notification.extra)
            except ValueError:
                logger.error(
                    "a notification on the channel %s was not sent by a layer of this "
                    "version and is dropped; let other programs use other channels",
                    CHANNEL,
                )
        if found:
            self._is_notified = True
            self._missed = 0
            now = time.monotonic()
            for each in found:
                if each.id:
                    self._holes.add(each.id, now)
        return found

    async def _rows(self, announced: Iterable[Announcement]) -> list[FeedRow]:
        """Return the wanted rows; read the data that did not fit in a notification."""
        subjects, queues = self._wanted.subjects, self._wanted.queues
        wanted = [
            each
            for each in announced
            if each.subject in (queues if each.offset is None else subjects)
        ]
        large = [each.id for each in wanted if each.data is None]
        if not large:
            return [each.as_row() for each in wanted]
        data = {each.id: each for each in await self._entries(large)}
        complete = [
            each if each.data is not None else data.get(each.id) for each in wanted
        ]
        return [each.as_row() for each in complete if each is not None]

    # Polling

    async def _poll(self) -> list[Announcement]:
        """Return the rows that were committed and not announced."""
        now = time.monotonic()
        self._next_poll = now + (_INTERVAL if self._is_notified else _INTERVAL_ALONE)
        ((entry_end, queue_end, started),) = await self._query(_ENDS)
        if started != self._started:
            raise psycopg.OperationalError("the server was started again")
        found = await self._missed_entries(entry_end, now)
        if found and self._is_notified:
            self._missed += 1
            if self._missed >= _MAX_MISSED:
                self._is_notified = False
                await self._listen()
        return found + await self._ready_queues(queue_end, now)

    async def _missed_entries(self, end: int, now: float) -> list[Announcement]:
        self._holes.extend(end, now)
        # Rows that were committed just now are about to be announced.
        due = self._holes.due(now, delay=_INTERVAL / 2 if self._is_notified else 0.0)
        if not due:
            return []
        listed = ", ".join(map(str, due))
        rows = await self._query(
            f"SELECT id, subject FROM tiderace_layer_entry WHERE id IN ({listed})"
        )
        wanted = []
        for entry_id, subject in rows:
            self._holes.discard(entry_id)
            if subject in self._wanted.subjects:
                wanted.append(entry_id)
        return await self._entries(wanted) if wanted else []

    async def _entries(self, ids: Iterable[int]) -> list[Announcement]:
        listed = ", ".join(map(str, ids))
        rows = await self._query(
            f"SELECT {_ENTRY} FROM tiderace_layer_entry "
            f"WHERE id IN ({listed}) ORDER BY id"
        )
        return [Announcement(*row) for row in rows]

    async def _ready_queues(self, end: int, now: float) -> list[Announcement]:
        """Return the queues with items of the last seconds, announced or not."""
        ends = self._queue_ends
        if end != ends[-1][1]:
            ends.append((now, end))
        while len(ends) > 1 and ends[1][0] < now - _QUEUE_OVERLAP:
            del ends[0]
        if len(ends) == 1 or not self._wanted.queues:
            return []
        rows = await self._query(
            f"SELECT DISTINCT queue FROM tiderace_layer_queue WHERE id > {ends[0][1]}"
        )
        return [Announcement(0, queue) for (queue,) in rows]

    # The connection

    @property
    def _pgconn(self) -> psycopg.pq.abc.PGconn:
        if self._failure is not None:
            raise self._failure
        if self._connection is None:
            raise psycopg.OperationalError("the feed is closed")
        return self._connection.pgconn

    def _receive(self) -> None:
        """Read what the server has sent."""
        connection = self._connection
        if connection is None:
            return
        try:
            connection.pgconn.consume_input()
        except psycopg.Error as error:
            self._failure = error
            self._stop_receiving()
        self._readable.set()

    def _stop_receiving(self) -> None:
        """Remove the socket from the event loop; libpq may have closed it."""
        watched, self._socket = self._socket, None
        loop = self._loop
        if watched is not None and loop is not None and not loop.is_closed():
            loop.remove_reader(watched)

    async def _wait(self, until: float) -> None:
        """Wait until the server has sent something, or until a time of the clock."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(max(0.0, until - time.monotonic()), self._readable.set)
        try:
            await self._readable.wait()
        finally:
            timer.cancel()
        self._readable.clear()

    async def _query(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a statement, within the reply timeout.

        Notifications wait meanwhile.
        """
        deadline = time.monotonic() + _REPLY_TIMEOUT
        self._pgconn.send_query_params(sql.encode(), None, result_format=Format.BINARY)
        while self._pgconn.flush():
            await asyncio.sleep(0.005)
            _require_time(deadline)
        found: psycopg.pq.abc.PGresult | None = None
        while True:
            while self._pgconn.is_busy():
                _require_time(deadline)
                await self._wait(deadline)
            result = self._pgconn.get_result()
            if result is None:
                break
            found = result
        assert found is not None  # noqa: S101 (a statement has a result)
        if found.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            error = psycopg.errors.error_from_result(found)
            raise advise_statement(error, self._using) from error
        return load_rows(self._connection, found)


def _require_time(deadline: float) -> None:
    if time.monotonic() >= deadline:
        raise TimedOut("the server did not reply in time")
