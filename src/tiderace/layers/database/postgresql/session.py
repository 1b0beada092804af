"""A psycopg connection whose every wait has a deadline."""

from __future__ import annotations

import selectors
import time
from collections.abc import Generator
from typing import Any, Self, TypeVar

import psycopg
from psycopg.waiting import Ready

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

T = TypeVar("T")

# The fastest for a single descriptor.
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


class Session(psycopg.Connection[tuple[Any, ...]]):
    """A connection in autocommit mode, without prepared statements.

    psycopg waits without a limit for a server that does not reply, as a stopped one or
    one behind a cut network. Here every wait ends at ``deadline``, and closes the
    connection.
    """

    deadline = float("inf")
    """When the current wait ends, in seconds of the monotonic clock."""

    @classmethod
    def open(cls, using: str, timeout: float) -> Self:
        """Connect with the parameters of Django's connection ``using``.

        Raises:
            DatabaseRefused: when waiting does not help, with what to do.
            psycopg.OperationalError: when the server cannot be reached.
        """
        parameters = connection_parameters(using, timeout, application="tiderace")
        try:
            session = cls.connect(autocommit=True, prepare_threshold=None, **parameters)
        except psycopg.Error as error:
            raise advise_connection(error, using) from error
        try:
            require_version(session.info.server_version)
        except BaseException:
            session.close()
            raise
        open_connections.add(session)
        return session

    def drop(self) -> None:
        """Break the connection: the next statement fails. Any thread may call it."""
        break_connection(self.pgconn)

    def wait(self, gen: Generator[Any, Any, T], *arguments: Any, **options: Any) -> T:
        """Run one of psycopg's generators until it returns or the deadline passes."""
        try:
            wants = next(gen)
            while True:
                with _Selector() as selector:
                    selector.register(self.pgconn.socket, wants)
                    left = self.deadline - time.monotonic()
                    # A selector takes no longer time; it is asked again.
                    events = selector.select(min(max(left, 0.0), 3600.0))
                if events:
                    wants = gen.send(Ready(events[0][1]))
                elif left <= 0:
                    raise TimedOut("the server did not reply in time")
        except StopIteration as returned:
            result: T = returned.value
            return result
        except BaseException:
            # The state of the protocol is unknown now.
            if self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                self.pgconn.finish()
            raise
