"""What may wait in a mailbox beside events and messages: a begun handler, an error.

The connection's task settles either in its turn. It knows nothing of how they came
there, nor what the error means.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from time import perf_counter
from typing import Any

from tiderace import metrics
from tiderace.connection.log import ConnectionLog
from tiderace.exceptions import StopConsumer

__all__ = ["DeferredError", "SuspendedHandler"]


class DeferredError:
    """Something failed elsewhere: awaited, it raises what that raised.

    Args:
        error: what was raised.
        report: asks ``on_error``, which may let it pass; None if it is not to be asked.
    """

    __slots__ = ("_error", "_report")

    def __init__(
        self, error: BaseException, report: ConnectionLog | None = None
    ) -> None:
        self._error = error
        self._report = report

    def __await__(self) -> Generator[Any, Any, None]:
        error, report = self._error, self._report
        if (
            report is None
            or not isinstance(error, Exception)
            or isinstance(error, StopConsumer)
        ):
            raise error
        yield from report.consult(error).__await__()


class SuspendedHandler:
    """A handler that was begun where its message was delivered; awaited, it goes on.

    Args:
        work: the handler's coroutine.
        waits_for: what it has yielded: a future, as a task is given it.
        report: asks ``on_error`` about what it raises; None if it does so itself.
        since: when it was begun, if it is one of those that are timed; else 0.
    """

    __slots__ = ("_report", "_since", "_waits_for", "_work", "interruption")

    def __init__(
        self,
        work: Coroutine[Any, Any, None],
        waits_for: Any,
        report: ConnectionLog | None,
        since: float,
    ) -> None:
        self._work = work
        self._waits_for = waits_for
        self._report = report
        self._since = since
        # To be raised in it instead of waiting.
        self.interruption: BaseException | None = None

    def __await__(self) -> Generator[Any, Any, None]:
        work, waits_for, error = self._work, self._waits_for, self.interruption
        value = None
        try:
            while True:
                if error is None:
                    try:
                        value = yield waits_for
                    except BaseException as raised:
                        error = raised
                try:
                    if error is None:
                        waits_for = work.send(value)
                    else:
                        thrown, error = error, None
                        waits_for = work.throw(thrown)
                except StopIteration:
                    break
        except StopConsumer:
            raise
        except Exception as failed:
            if self._report is None:
                raise
            yield from self._report.consult(failed).__await__()
        if self._since:
            metrics.HANDLER_DURATION.observe(perf_counter() - self._since)
