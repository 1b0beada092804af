"""A connection that sends several statements at once, with a deadline for each reply."""

from __future__ import annotations

import selectors
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import psycopg
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult

from tiderace.layers.database.postgresql.breaking import (
    break_connection,
    open_connections,
)
from tiderace.layers.database.postgresql.errors import (
    TimedOut,
    advise_connection,
    require_version,
)
from tiderace.layers.database.postgresql.parameters import connection_parameters
from tiderace.layers.database.postgresql.values import Value

# The fastest selector for a single descriptor.
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


class Statement(NamedTuple):
    """A statement and its parameters ``$1``, ``$2`` and so on."""

    sql: bytes
    values: Sequence[Value] = ()


def load_rows(
    connection: psycopg.BaseConnection[Any] | None, result: PGresult
) -> list[tuple[Any, ...]]:
    """Return the rows of a result, as psycopg converts them."""
    transformer = Transformer(connection)
    transformer.set_pgresult(result)
    return transformer.load_rows(0, result.ntuples, tuple)


class AutocommitConnection:
    """A connection in autocommit mode, without prepared statements.

    psycopg waits without a limit for a server that does not reply because it is stopped,
    or because the network is cut. Here every wait ends at ``deadline``, and the connection
    is closed then.

    Args:
        connection: an open one.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.deadline = float("inf")
        """When the current wait ends, in seconds of the monotonic clock."""
        self._connection = connection
        self._pgconn = connection.pgconn
        open_connections.add(self)

    @classmethod
    def open(cls, using: str, timeout: float) -> Self:
        """Connect with the parameters of Django's connection ``using``.

        Raises:
            DatabaseRefused: when another attempt cannot succeed, with advice.
            psycopg.OperationalError: when the server cannot be reached.
        """
        parameters = connection_parameters(using, timeout, application="tiderace")
        try:
            connection = psycopg.connect(autocommit=True, **parameters)
        except psycopg.Error as error:
            raise advise_connection(error, using) from error
        try:
            require_version(connection.info.server_version)
        except BaseException:
            connection.close()
            raise
        return cls(connection)

    @property
    def closed(self) -> bool:
        """Whether it is closed or broken."""
        return self._connection.closed

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def drop(self) -> None:
        """Break the connection: the next statement fails. Any thread may call it."""
        break_connection(self._pgconn)

    def run(self, statements: Sequence[Statement]) -> list[PGresult]:
        """Run statements in one round trip; after one that fails the others do not run.

        Returns:
            Their results, with values in the binary format.

        Raises:
            psycopg.Error: of the first that failed, or when the connection has.
            TimedOut: at the deadline.
        """
        if self._connection.closed:
            raise psycopg.OperationalError("the connection is closed")
        try:
            self._send(statements)
            found = [self._receive() for _ in statements]
            self._end_pipeline()
        except BaseException:
            # The state of the protocol is unknown now.
            self._pgconn.finish()
            raise
        for result in found:
            if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
                raise psycopg.errors.error_from_result(result, encoding="utf-8")
        return found

    def rows(self, result: PGresult) -> list[tuple[Any, ...]]:
        """Return the rows of a result, as psycopg converts them."""
        return load_rows(self._connection, result)

    def _send(self, statements: Sequence[Statement]) -> None:
        pgconn = self._pgconn
        pgconn.enter_pipeline_mode()
        for sql, values in statements:
            pgconn.send_query_params(
                sql,
                [value.data for value in values],
                [value.type for value in values],
                [Format.BINARY] * len(values),
                Format.BINARY,
            )
        pgconn.pipeline_sync()
        while pgconn.flush():
            # The server may wait until its replies are read.
            if self._wait(selectors.EVENT_READ | selectors.EVENT_WRITE) & (
                selectors.EVENT_READ
            ):
                pgconn.consume_input()

    def _receive(self) -> PGresult:
        """Return the result of the next statement."""
        result = self._next_result()
        if result is None:
            raise psycopg.OperationalError("the server closed the connection")
        # The end of the statement; when the server ends the connection, its reason was
        # the result, and nothing follows.
        if self._next_result() is not None or self._pgconn.status != 0:
            raise psycopg.errors.error_from_result(result, encoding="utf-8")
        return result

    def _end_pipeline(self) -> None:
        result = self._next_result()
        if result is None or result.status != ExecStatus.PIPELINE_SYNC:
            raise psycopg.OperationalError("the server closed the connection")
        self._pgconn.exit_pipeline_mode()

    def _next_result(self) -> PGresult | None:
        pgconn = self._pgconn
        while pgconn.is_busy():
            self._wait(selectors.EVENT_READ)
            pgconn.consume_input()
        return pgconn.get_result()

    def _wait(self, wanted: int) -> int:
        """Wait until the socket is ready; return the events that are ready."""
        with _Selector() as selector:
            selector.register(self._pgconn.socket, wanted)
            while True:
                left = self.deadline - time.monotonic()
                # Selectors refuse much longer timeouts; the loop repeats them.
                if events := selector.select(min(max(left, 0.0), 3600.0)):
                    ready: int = events[0][1]
                    return ready
                if left <= 0:
                    raise TimedOut("the server did not reply in time")
