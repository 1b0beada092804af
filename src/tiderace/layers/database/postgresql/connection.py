"""The connections of ``Executor`` on PostgreSQL, and the transactions on them."""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import psycopg
from psycopg import errors
from psycopg.pq.abc import PGresult

from tiderace.layers.database.postgresql.autocommit import (
    AutocommitConnection,
    Statement,
)
from tiderace.layers.database.postgresql.errors import TimedOut, advise_statement
from tiderace.layers.database.postgresql.notifications import CHANNEL, encode
from tiderace.layers.database.postgresql.parameters import quote_role, role_of
from tiderace.layers.database.postgresql.schema import column_type
from tiderace.layers.database.postgresql.values import Value, as_array, as_value
from tiderace.layers.database.vendor import FeedRow, OutcomeUnknown

# The class of the layer's advisory locks: all applications of a database share their keys.
_LOCK_CLASS = zlib.crc32(b"tiderace") - 2**31

# Seconds that a transaction may wait for its process: a process that is stopped during a
# transaction holds the locks of its topics no longer.
_MAX_PAUSE = 3

_BEGIN_WRITE = b"BEGIN ISOLATION LEVEL READ COMMITTED"
_BEGIN_READ = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_SET_TIMEOUTS = (
    "SELECT set_config('statement_timeout', $1, true), "
    f"set_config('idle_in_transaction_session_timeout', '{_MAX_PAUSE}s', true)"
).encode()
_LOCK = f"SELECT pg_advisory_xact_lock({_LOCK_CLASS}, key) FROM unnest($1) key".encode()
_NOTIFY = (
    "SELECT set_config('synchronous_commit', 'off', true), "
    f"(SELECT count(pg_notify('{CHANNEL}', payload)) FROM unnest($1) payload)"
).encode()

# A server that takes over has another timeline. It is read in each transaction, since the
# connection may go through a pooler. A server that does not wait for its disk may lose
# commits at a restart, so for that one the time of its start is added.
_TIMELINE = (
    "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || CASE WHEN 'off' IN "
    "(current_setting('synchronous_commit'), current_setting('fsync')) "
    "THEN ':' || extract(epoch FROM pg_postmaster_start_time())::text ELSE '' END"
)
_NOW = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_IDENTIFY_WRITE = f"SELECT {_NOW}, pg_current_xact_id()::text, {_TIMELINE}".encode()
_IDENTIFY_READ = f"SELECT {_NOW}, '', ''".encode()

_TakeRows = Callable[[Sequence[tuple[Any, ...]]], None]


class WrittenEntry(NamedTuple):
    """The identity of an entry that a transaction has written.

    After a crash another entry may get the same number, but not the same time.
    """

    subject: str
    epoch: str
    number: int
    published_ms: int


class WriteTransaction(NamedTuple):
    """Identifies a transaction when the reply to its COMMIT was lost."""

    number: str
    """The transaction id of the server; after a crash another transaction may get it."""
    timeline: str
    entry: WrittenEntry | None = None
    """An entry that the transaction has written; None for none."""


class PostgresCursor:
    """One transaction.

    Statements without a result are not sent at once, but together with the next one that
    has a result, or with the commit.

    Args:
        connection: runs its statements.
        using: the alias of the database.
        write: whether it may change rows.
        timeout: seconds until it is given up.
    """

    def __init__(
        self,
        connection: AutocommitConnection,
        using: str,
        *,
        write: bool,
        timeout: float,
    ) -> None:
        self.announced: list[FeedRow] = []
        self.ids: dict[tuple[str, int], int] = {}
        """The ids of the new entries, by stream and offset."""
        self.transaction: WriteTransaction | None = None
        """Its identity for ``PostgresConnection.was_committed``; None before it begins."""
        self.is_open = False
        self._connection = connection
        self._using = using
        self._write = write
        self._timeout = timeout
        self._now_ms = 0
        self._timeline = ""
        # Statements that are not sent yet, each with the function that takes its rows.
        self._waiting: list[tuple[Statement, _TakeRows | None]] = []
        self._entry: WrittenEntry | None = None

    @property
    def now_ms(self) -> int:
        self._require_begun()
        return self._now_ms

    @property
    def timeline(self) -> str:
        self._require_begun()
        return self._timeline

    def lock(self, names: Sequence[str]) -> None:
        self._begin(sorted({zlib.crc32(name.encode()) - 2**31 for name in names}))

    def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._connection.rows(self._run(_statement(sql, parameters)))

    def select(
        self,
        table: str,
        columns: Sequence[str],
        key_columns: Sequence[str],
        keys: Sequence[Sequence[Any]],
    ) -> list[tuple[Any, ...]]:
        if not keys:
            return []
        sql = _select(table, tuple(columns), tuple(key_columns))
        return self._connection.rows(
            self._run(Statement(sql, _arrays(key_columns, keys)))
        )

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        return self._run(_statement(sql, parameters)).command_tuples or 0

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
        take = None
        if table == "entry":
            take = self._note_ids
            first = dict(zip(columns, rows[0], strict=True))
            self._entry = WrittenEntry(*(first[name] for name in WrittenEntry._fields))
        sql = _insert(table, tuple(columns), conflict)
        self._waiting.append((Statement(sql, _arrays(columns, rows)), take))

    def commit(self) -> str:
        """Commit the transaction; return the server's reply."""
        # The identity of the transaction has to be known before the COMMIT is sent.
        self._require_begun()
        if self.transaction is not None:
            self.transaction = self.transaction._replace(entry=self._entry)
        status = self._run(Statement(b"COMMIT")).command_status
        return (status or b"").decode()

    def _begin(self, locks: Sequence[int] = ()) -> None:
        """Begin the transaction unless it was, with locks in the order of ``locks``."""
        if self.is_open:
            return
        self.is_open = True
        self._connection.deadline = time.monotonic() + self._timeout
        milliseconds = max(1, int(self._timeout * 1000))
        role = role_of(self._using)
        statements = [Statement(_BEGIN_WRITE if self._write else _BEGIN_READ)]
        if role:
            statements.append(Statement(f"SET LOCAL ROLE {quote_role(role)}".encode()))
        statements.append(Statement(_SET_TIMEOUTS, (as_value(str(milliseconds)),)))
        if locks:
            statements.append(Statement(_LOCK, (as_array("integer", locks),)))
        self._waiting = [(each, None) for each in statements]
        identify = Statement(_IDENTIFY_WRITE if self._write else _IDENTIFY_READ)
        self._waiting.append((identify, self._note_begun))

    def _require_begun(self) -> None:
        """Wait until the server has begun the transaction."""
        self._begin()
        if not self._now_ms:
            self._send()

    def _note_begun(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self._now_ms, number, self._timeline = rows[0]
        if self._write:
            self.transaction = WriteTransaction(number, self._timeline)

    def _note_ids(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self.ids.update({(subject, number): row_id for row_id, subject, number in rows})

    def _run(self, statement: Statement) -> PGresult:
        """Run the waiting statements and this one; return its result."""
        self._begin()
        self._waiting.append((statement, None))
        return self._send()

    def _send(self) -> PGresult:
        """Run the waiting statements; return the last result."""
        waiting, self._waiting = self._waiting, []
        try:
            results = self._connection.run([statement for statement, _ in waiting])
        except psycopg.Error as error:
            raise advise_statement(error, self._using) from error
        for (_, take), result in zip(waiting, results, strict=True):
            if take is not None:
                take(self._connection.rows(result))
        return results[-1]


class PostgresConnection:
    """A connection to PostgreSQL; when it breaks, the next transaction opens another.

    Args:
        using: the alias of the database.
        timeout: seconds to connect, and for a statement outside of a transaction.
    """

    def __init__(self, using: str, timeout: float) -> None:
        self._using = using
        self._timeout = timeout
        self._connection = AutocommitConnection.open(using, timeout)
        self._cursor: PostgresCursor | None = None
        self._ids: dict[tuple[str, int], int] = {}

    def begin(self, *, write: bool, timeout: float) -> PostgresCursor:
        if self._connection.closed:
            self._connection = AutocommitConnection.open(self._using, timeout)
        self._cursor = PostgresCursor(
            self._connection, self._using, write=write, timeout=timeout
        )
        return self._cursor

    def commit(self) -> None:
        cursor, self._cursor = self._cursor, None
        if cursor is None or not cursor.is_open:
            return
        try:
            status = cursor.commit()
        except psycopg.Error as error:
            # Closed with a code: an administrator ended it while it waited for a replica.
            if cursor.transaction and (
                error.sqlstate is None or self._connection.closed
            ):
                self.close()
                raise OutcomeUnknown(cursor.transaction) from error
            raise
        if status != "COMMIT":
            raise psycopg.OperationalError("the transaction was rolled back")
        self._ids = cursor.ids

    def rollback(self) -> None:
        cursor, self._cursor = self._cursor, None
        if cursor is None or self._connection.closed:
            return
        try:
            self._connection.run([Statement(b"ROLLBACK")])
        except psycopg.Error:
            self.close()

    def announce(self, rows: Sequence[FeedRow]) -> None:
        payloads = encode(rows, self._ids)
        self._ids = {}
        self._connection.deadline = time.monotonic() + self._timeout
        with contextlib.suppress(psycopg.Error):  # feeds poll, too
            self._connection.run([Statement(_NOTIFY, (as_array("text", payloads),))])

    def was_committed(self, transaction: WriteTransaction) -> bool:
        """Return whether a transaction of a connection that has failed was committed.

        After a failover its number may be that of another transaction. A transaction
        without entries then counts as lost: running it twice is better than not at all.
        """
        seems_committed = self._has_committed(transaction)
        entry = transaction.entry
        if entry is None:
            return seems_committed
        # Read both in one snapshot: between two, the next message may get the number.
        found = self._read(
            "SELECT e.published_ms, s.last_number FROM tiderace_layer_stream s "
            "LEFT JOIN tiderace_layer_entry e "
            "ON e.subject = s.subject AND e.number = %s AND e.epoch = s.epoch "
            "WHERE s.subject = %s AND s.epoch = %s",
            (entry.number, entry.subject, entry.epoch),
        )
        if not found:
            return False
        ((published_ms, last_number),) = found
        if published_ms is None:
            # The entry was deleted since, or never committed.
            return seems_committed and bool(last_number >= entry.number)
        return bool(published_ms == entry.published_ms)

    def _has_committed(self, transaction: WriteTransaction) -> bool:
        """Return whether the transaction with this number has ended with a commit."""
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            try:
                ((status, timeline),) = self._read(
                    f"SELECT pg_xact_status(%s::xid8), {_TIMELINE}",
                    (transaction.number,),
                )
            except errors.InvalidParameterValue:
                # The server has not given this id yet: a crash has undone the transaction.
                return False
            if timeline != transaction.timeline:
                return False
            if status != "in progress":
                return bool(status == "committed")
            # The server has not ended the transaction of the lost connection yet.
            time.sleep(0.01)
        raise TimedOut("the server has not ended a transaction whose client is gone")

    def _read(self, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Return the rows of a statement that is a transaction of its own."""
        try:
            return self.begin(write=False, timeout=self._timeout).fetch(sql, parameters)
        finally:
            self.rollback()

    def close(self) -> None:
        self._connection.close()


def _statement(sql: str, parameters: Sequence[Any]) -> Statement:
    return Statement(_numbered(sql), [as_value(value) for value in parameters])


def _arrays(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[Value]:
    """Return the values of each column as an array."""
    return [
        as_array(column_type(column), values)
        for column, values in zip(columns, zip(*rows, strict=True), strict=True)
    ]


@lru_cache(256)
def _numbered(sql: str) -> bytes:
    """Return a statement with ``$1`` and so on in the place of ``%s``."""
    first, *rest = sql.split("%s")
    parts = (f"${number}{part}" for number, part in enumerate(rest, 1))
    return "".join([first, *parts]).encode()


@lru_cache(64)
def _insert(table: str, columns: tuple[str, ...], conflict: str) -> bytes:
    names = ", ".join(f'"{name}"' for name in columns)
    arrays = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
    returned = "RETURNING id, subject, number" if table == "entry" else ""
    return (
        f"INSERT INTO tiderace_layer_{table} ({names}) "
        f"SELECT * FROM unnest({arrays}) {conflict} {returned}"
    ).encode()


@lru_cache(64)
def _select(
    table: str, columns: tuple[str, ...], key_columns: tuple[str, ...]
) -> bytes:
    names = ", ".join(columns)
    if len(key_columns) == 1:
        condition = f"{key_columns[0]} = ANY($1)"
    else:
        arrays = ", ".join(f"${number}" for number in range(1, len(key_columns) + 1))
        condition = f"({', '.join(key_columns)}) IN (SELECT * FROM unnest({arrays}))"
    return f"SELECT {names} FROM tiderace_layer_{table} WHERE {condition}".encode()
