"""The contract of a vendor: connections, feed and errors of one kind of database.

The stores run SQL that SQLite and PostgreSQL both take, with ``%s`` for parameters, names
with the layer's prefix, and times in whole milliseconds. What differs is in the vendors.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol


class FeedRow(NamedTuple):
    """News for other processes: a message of a stream, or a queue with a message to take."""

    subject: str
    """The name of the stream, or of the queue."""
    epoch: str = ""
    offset: int | None = None
    """None for a queue, and then the following fields are empty."""
    before: int = 0
    data: bytes = b""
    published_ms: int = 0


def replacing(key: str, *columns: str) -> str:
    """Return the ``ON CONFLICT`` clause that replaces columns of the row with this key."""
    changes = ", ".join(f"{name} = excluded.{name}" for name in columns)
    return f"ON CONFLICT ({key}) DO UPDATE SET {changes}"


class Wanted:
    """The streams and queues that a process subscribes to.

    Any thread may change it: each change is one step under the GIL.
    """

    def __init__(self) -> None:
        self.subjects: set[str] = set()
        self.queues: set[str] = set()

    def add(self, subjects: Collection[str], queues: Collection[str]) -> None:
        """Subscribe to streams and queues."""
        self.subjects.update(subjects)
        self.queues.update(queues)

    def remove(self, subjects: Collection[str], queues: Collection[str]) -> None:
        """Undo ``add``."""
        self.subjects.difference_update(subjects)
        self.queues.difference_update(queues)


class Fault(enum.Enum):
    """The kind of an error of the database: whether the operation is tried again."""

    TRANSIENT = "transient"
    """The database is away or busy; tried again until the operation's timeout."""
    DENIED = "denied"
    """The database refuses the user, or the system access to its file; not tried again."""
    REFUSED = "refused"
    """The database refuses the statement, as with a full disk; not tried again."""
    TOO_LARGE = "too large"
    """The database never takes a value of this size."""
    INVALID = "invalid"
    """The database never takes this value, such as a text with a NUL."""


class OutcomeUnknown(Exception):
    """The connection broke before the reply to a COMMIT.

    Args:
        transaction: identifies the transaction for ``Vendor.was_committed``.
    """

    def __init__(self, transaction: object) -> None:
        super().__init__("the connection broke while a transaction was committed")
        self.transaction = transaction


class Cursor(Protocol):
    """One transaction."""

    announced: list[FeedRow]
    """The rows to announce after the commit; stores append to it."""

    @property
    def now_ms(self) -> int:
        """The database's time; the same throughout the transaction."""

    @property
    def timeline(self) -> str:
        """An id that changes when the database may have lost its last commits.

        It is compared with the timeline of the last write to a stream, so that no offset
        that subscribers have received is used again.
        """

    def lock(self, names: Sequence[str]) -> None:
        """Wait for other transactions that hold one of ``names``, and hold them all.

        Called once, before any statement, with distinct names in ascending order.
        """

    def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""

    def select(
        self,
        table: str,
        columns: Sequence[str],
        key_columns: Sequence[str],
        keys: Sequence[Sequence[Any]],
    ) -> list[tuple[Any, ...]]:
        """Return rows by their keys, in any order, in as few statements as ``insert``.

        Args:
            table: without the prefix of the tables.
            columns: those to return.
            key_columns: the columns of the key.
            keys: the values, in the order of ``key_columns``; may be empty.
        """

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run a statement and return the number of rows that it changed."""

    def insert(
        self,
        table: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        conflict: str = "",
    ) -> None:
        """Insert rows in as few statements as the database takes.

        Args:
            table: without the prefix of the tables.
            columns: their names.
            rows: the values, in the order of ``columns``; may be empty.
            conflict: an ``ON CONFLICT`` clause.
        """


class DatabaseConnection(Protocol):
    """A connection to the database, used by one thread at a time; its calls block."""

    def begin(self, *, write: bool, timeout: float) -> Cursor:
        """Begin a transaction, within ``timeout`` seconds.

        Without ``write`` it is a consistent snapshot that is only read.
        """

    def commit(self) -> None:
        """Commit the transaction.

        Raises:
            OutcomeUnknown: when the reply was lost. Any other error means that nothing
                was committed.
        """

    def rollback(self) -> None:
        """End the transaction without its changes; raises nothing."""

    def announce(self, rows: Sequence[FeedRow]) -> None:
        """Wake the feeds of all processes after a commit, of this one included.

        It may fail, silently: feeds look for new rows by themselves, more slowly.
        """

    def close(self) -> None:
        """Close the connection; raises nothing."""


class Feed(Protocol):
    """Reads new rows of the database, in one event loop."""

    async def open(self) -> None:
        """Connect. ``read`` returns every row that is committed after this has returned."""

    async def read(self) -> Sequence[FeedRow]:
        """Wait for new rows, and return those in ``wanted``; possibly none.

        Rows of one stream come in order. A row may be missing only where ``before`` of
        the next row of its stream shows it. A row that is committed after its stream was
        added to ``wanted`` is returned, even if its transaction began earlier.

        Raises:
            Exception: one that ``Vendor.explain`` explains; the caller then closes the
                feed and opens another one.
        """

    async def close(self) -> None:
        """Close its connections; raises nothing."""

    def drop(self) -> None:
        """Break its connections as a failure would; ``read`` raises then."""


class Vendor(Protocol):
    """One database server or file: makes its connections and feeds.

    It may be used before and after a fork: ``Executor`` and the broker close connections
    and feeds before a fork.
    """

    max_gathered: int
    """The most operations in one transaction."""
    max_locks: float
    """The most names that one transaction locks, unless a single operation has more."""

    @property
    def location(self) -> str:
        """Where the database is, for error messages; without a password."""

    def connect(self, timeout: float) -> DatabaseConnection:
        """Open a connection within ``timeout`` seconds; blocks."""

    def was_committed(
        self, connection: DatabaseConnection, unknown: OutcomeUnknown
    ) -> bool:
        """Return whether a transaction was committed after all, by a new connection."""

    def open_feed(self, wanted: Wanted) -> Feed:
        """Return a new feed, not yet connected, of the rows in ``wanted``."""

    def explain(self, error: Exception) -> Fault | None:
        """Return the kind of an error of the database; None for any other error."""
