"""A connection of a lane, and its transactions."""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Sequence
from typing import Any

import psycopg

from tiderace.layers.database.postgresql.errors import TimedOut, advise_statement
from tiderace.layers.database.postgresql.notifications import CHANNEL, encode
from tiderace.layers.database.postgresql.parameters import quote_role, role_of
from tiderace.layers.database.postgresql.schema import column_type
from tiderace.layers.database.postgresql.session import Session
from tiderace.layers.database.vendor import OutcomeUnknown, Row

# Of advisory locks, whose space a database shares among all applications.
_LOCK_CLASS = zlib.crc32(b"tiderace") - 2**31

# Seconds that a transaction may wait for its process: one that is stopped in the middle
# of it keeps the locks of its topics no longer.
_MAX_PAUSE = 3

_NOTIFY = (
    "SELECT set_config('synchronous_commit', 'off', true), "
    f"(SELECT count(pg_notify('{CHANNEL}', payload)) FROM unnest(%s::text[]) payload)"
)

# A server that takes over has another timeline, and the connection may go through a
# pooler: so it is read each time. One that does not wait for its disk may lose commits
# when it restarts.
_TIMELINE = (
    "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || CASE WHEN 'off' IN "
    "(current_setting('synchronous_commit'), current_setting('fsync')) "
    "THEN ':' || extract(epoch FROM pg_postmaster_start_time())::text ELSE '' END"
)
_NOW = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"


class PostgresCursor:
    """One transaction; its first statement begins it, in the same round trip.

    Args:
        session: runs it.
        using: the alias of the database.
        write: whether it changes something.
        timeout: seconds until it is given up.
    """

    def __init__(
        self, session: Session, using: str, *, write: bool, timeout: float
    ) -> None:
        self.announced: list[Row] = []
        self.ids: dict[tuple[str, int], int] = {}
        """The ids of the new entries, by stream and offset."""
        self.transaction = ""
        """Identifies it for ``PostgresVendor.was_committed``."""
        self.is_open = False
        self._session = session
        self._using = using
        self._write = write
        self._timeout = timeout
        self._now_ms = 0
        self._timeline = ""

    @property
    def now_ms(self) -> int:
        self._begin()
        return self._now_ms

    @property
    def timeline(self) -> str:
        self._begin()
        return self._timeline

    def lock(self, names: Sequence[str]) -> None:
        self._begin(sorted({zlib.crc32(name.encode()) - 2**31 for name in names}))

    def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        self._begin()
        return self._run(sql, parameters).fetchall()

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        self._begin()
        return self._run(sql, parameters).rowcount

    def insert(
        self,
        table: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        conflict: str = "",
    ) -> None:
        if not rows:
            return
        self._begin()
        names = ", ".join(f'"{name}"' for name in columns)
        arrays = ", ".join(f"%s::{column_type(name)}[]" for name in columns)
        sql = (
            f"INSERT INTO tiderace_layer_{table} ({names}) "
            f"SELECT * FROM unnest({arrays}) {conflict}"
        )
        values = [list(column) for column in zip(*rows, strict=True)]
        if table != "entry":
            self._run(sql, values)
            return
        found = self._run(f"{sql} RETURNING id, subject, number", values)
        self.ids.update({(row[1], row[2]): row[0] for row in found})

    def _begin(self, locks: Sequence[int] = ()) -> None:
        """Begin the transaction unless it was, with locks in the order of ``locks``."""
        if self.is_open:
            return
        seconds = max(1, int(self._timeout * 1000))
        role = role_of(self._using)
        statements = [
            "BEGIN ISOLATION LEVEL READ COMMITTED"
            if self._write
            else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            *([f"SET LOCAL ROLE {quote_role(role)}"] if role else []),
            f"SET LOCAL statement_timeout = {seconds}",
            f"SET LOCAL idle_in_transaction_session_timeout = '{_MAX_PAUSE}s'",
        ]
        if locks:
            keys = ", ".join(map(str, locks))
            statements.append(
                f"SELECT pg_advisory_xact_lock({_LOCK_CLASS}, key) "
                f"FROM unnest(ARRAY[{keys}]) key"
            )
        statements.append(
            f"SELECT {_NOW}, pg_current_xact_id()::text, {_TIMELINE}"
            if self._write
            else f"SELECT {_NOW}, '', ''"
        )
        self._session.deadline = time.monotonic() + self._timeout
        cursor = self._run("; ".join(statements))
        self.is_open = True
        while cursor.nextset():
            pass
        self._now_ms, transaction, self._timeline = cursor.fetchall()[0]
        self.transaction = f"{transaction} {self._timeline}"

    def _run(
        self, sql: str, parameters: Sequence[Any] = ()
    ) -> psycopg.Cursor[tuple[Any, ...]]:
        """Run a statement, in the binary format unless there are several."""
        try:
            return self._session.execute(
                sql, parameters or None, binary=bool(parameters)
            )
        except psycopg.Error as error:
            raise advise_statement(error, self._using) from error


class PostgresConnection:
    """The connection of one lane; opened again by the next transaction when it breaks.

    Args:
        using: the alias of the database.
        timeout: seconds to connect, and for a statement outside of a transaction.
    """

    def __init__(self, using: str, timeout: float) -> None:
        self._using = using
        self._timeout = timeout
        self._session = Session.open(using, timeout)
        self._cursor: PostgresCursor | None = None
        self._ids: dict[tuple[str, int], int] = {}

    def begin(self, *, write: bool, timeout: float) -> PostgresCursor:
        if self._session.closed:
            self._session = Session.open(self._using, timeout)
        self._cursor = PostgresCursor(
            self._session, self._using, write=write, timeout=timeout
        )
        return self._cursor

    def commit(self) -> None:
        cursor, self._cursor = self._cursor, None
        if cursor is None or not cursor.is_open:
            return
        try:
            done = self._session.execute("COMMIT")
        except psycopg.Error as error:
            # Also when an administrator ends a connection that waits for its replica.
            if cursor.transaction and (error.sqlstate is None or self._session.closed):
                self.close()
                raise OutcomeUnknown(cursor.transaction) from error
            raise
        if done.statusmessage != "COMMIT":
            raise psycopg.OperationalError("the transaction was rolled back")
        self._ids = cursor.ids

    def rollback(self) -> None:
        cursor, self._cursor = self._cursor, None
        if cursor is None or self._session.closed:
            return
        try:
            self._session.execute("ROLLBACK")
        except psycopg.Error:
            self.close()

    def announce(self, rows: Sequence[Row]) -> None:
        payloads = encode(rows, self._ids)
        self._ids = {}
        self._session.deadline = time.monotonic() + self._timeout
        with contextlib.suppress(psycopg.Error):  # feeds look for rows, too
            self._session.execute(_NOTIFY, [payloads])

    def was_committed(self, transaction: str) -> bool:
        """Return whether a transaction of a connection that has failed was committed.

        After a failover its number may be that of another one, so it counts as lost:
        rather twice than not at all.
        """
        number, _, timeline = transaction.partition(" ")
        self._session.deadline = time.monotonic() + self._timeout
        while time.monotonic() < self._session.deadline:
            ((status, now_timeline),) = self._session.execute(
                f"SELECT pg_xact_status('{int(number)}'), {_TIMELINE}"
            ).fetchall()
            if status != "in progress":
                return bool(status == "committed" and timeline == now_timeline)
            # The server has not noticed yet that its client is gone.
            time.sleep(0.01)
        raise TimedOut("the server has not ended a transaction whose client is gone")

    def close(self) -> None:
        self._session.close()
