"""Whose turn it is: a connection's handlers run strictly one after the other.

They run in the connection's task; a message whose consumer has nothing else to do is
handled where it is delivered, and it looks as if it were not. It knows a client's
events as something to be handed on, and not how a connection begins or ends.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Awaitable, Callable, Coroutine
from threading import get_ident
from time import perf_counter
from typing import Any

from tiderace import db as database
from tiderace import metrics
from tiderace.asgi import Event
from tiderace.connection.log import ConnectionLog
from tiderace.connection.messages import Messages
from tiderace.connection.served import ConsumerProtocol
from tiderace.connection.suspended import DeferredError, SuspendedHandler
from tiderace.delivery.mailbox import Mailbox, Source
from tiderace.delivery.outbox import Outbox, PreparedMessage, TooSlow
from tiderace.runtime import threads

__all__ = ["Dispatcher"]

if sys.version_info >= (3, 12):
    from asyncio.tasks import _swap_current_task
else:
    # What asyncio's own _enter_task and _leave_task keep.
    _current_tasks: dict[asyncio.AbstractEventLoop, asyncio.Task[Any]]
    _current_tasks = asyncio.tasks._current_tasks  # type: ignore[attr-defined]  # noqa: SLF001

    def _swap_current_task(
        loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any] | None
    ) -> asyncio.Task[Any] | None:
        outer = _current_tasks.pop(loop, None)
        if task is not None:
            _current_tasks[loop] = task
        return outer


# Whether a handler is being run where its message was delivered.
_stepping = False

# One in so many handlers of group messages is timed: looking at the clock twice is
# little, but so is what most of them do.
_TIMED = 64
_untimed = 0


def _now_and_then() -> float:
    """The time for one handler in so many, else 0."""
    global _untimed
    _untimed += 1
    if _untimed < _TIMED:
        return 0.0
    _untimed = 0
    return perf_counter()


class Dispatcher:
    """Runs the handlers of one connection; made in the task that does so.

    Args:
        consumer: whose handlers they are.
        mailbox: what they have to do.
        outbox: where broadcasts go while there is nothing to do.
        messages: handles a message about which more is to be decided.
        report: tells ``on_error`` what a handler has raised elsewhere.
        context: the one in which the handlers run.
        idle: kept set while there is nothing to do, for a worker; None for the
            connection of a client, whose events are not messages.
    """

    __slots__ = (
        "_consumer",
        "_context",
        "_ident",
        "_idle",
        "_loop",
        "_mailbox",
        "_messages",
        "_outbox",
        "_report",
        "_task",
        "_thread",
        "_waiting",
    )

    def __init__(
        self,
        consumer: ConsumerProtocol,
        mailbox: Mailbox[Any],
        outbox: Outbox,
        *,
        messages: Messages,
        report: ConnectionLog,
        context: contextvars.Context,
        idle: asyncio.Event | None,
    ) -> None:
        self._consumer = consumer
        self._mailbox = mailbox
        self._outbox = outbox
        self._messages = messages
        self._report = report
        self._context = context
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._ident = get_ident()
        # None below a sync caller, whose own thread runs the sync code.
        self._thread = threads.current()
        # Whether the task has nothing to do.
        self._waiting = False

    async def run(self, handle_event: Callable[[Event], Awaitable[None]]) -> None:
        """Run the handlers until something raises; ``handle_event`` those of events."""
        self._mailbox.take_now = self.take_now
        try:
            while True:
                lane, item = await self._next()
                if isinstance(item, (SuspendedHandler, DeferredError)):
                    await item
                elif lane is Source.EVENT and self._idle is None:
                    await handle_event(item)
                else:
                    # What a worker handles is work, like a client's events.
                    begun = _now_and_then() if self._idle is None else perf_counter()
                    await self._messages.handle(item)
                    if begun:
                        metrics.HANDLER_DURATION.observe(perf_counter() - begun)
                self.tidy()
        finally:
            self._mailbox.take_now = None

    def take_now(self, message: Event | PreparedMessage) -> bool:
        """Run the handler of ``message`` here, as the connection's own task would.

        Only while that task waits for something to do. A message that is sent from a
        handler run in this way waits for its own task, so a chain of sends is no chain
        of calls. A handler that has to wait is carried on by its task.
        """
        global _stepping
        if (
            not self._waiting
            or _stepping
            # What asyncio.get_running_loop() would say, without its getpid().
            or get_ident() != self._ident
            or not self._loop.is_running()
        ):
            return False
        work: Coroutine[Any, Any, None]
        # Who asks ``on_error``; what goes the long way does so itself.
        report = None
        if isinstance(message, PreparedMessage):
            try:
                if self._consumer.accepts_broadcasts and self._outbox.put(message):
                    self._clear_way()
                    return True
            except TooSlow as error:
                self._waiting = False
                self._mailbox.writer = None
                self._mailbox.put_first(DeferredError(error))
                return True
            work = self._messages.handle(message)
        elif (handler := self._consumer._route(message)) is None:  # noqa: SLF001
            work = self._messages.handle(message)
        else:
            report = self._report
            # A copy, for the reason given in ``Messages.handle``.
            work = handler(dict(message))
        self._waiting = False
        self._mailbox.writer = None
        _stepping = True
        begun = _now_and_then()
        outer = _swap_current_task(self._loop, self._task)
        try:
            waits_for = self._context.run(work.send, None)
        except StopIteration:
            if begun:
                metrics.HANDLER_DURATION.observe(perf_counter() - begun)
            self._waiting = True
            self._clear_way()
            if self._thread is not None and self._thread.used:
                self.tidy()
        except (Exception, asyncio.CancelledError) as error:
            self._mailbox.put_first(DeferredError(error, report))
        else:
            self._mailbox.put_first(SuspendedHandler(work, waits_for, report, begun))
        finally:
            _swap_current_task(self._loop, outer)
            _stepping = False
        return True

    def tidy(self) -> None:
        """Close what a handler's database work left too old, in the thread it used.

        Only when a handler used a thread, and nobody waits for it: a message that
        touches no database costs no thread hop.
        """
        thread = self._thread
        if thread is not None and thread.used:
            if not self._consumer._sync:  # noqa: SLF001 (sync handlers have done it)
                thread.submit(database.close_old_connections)
            thread.release()

    async def _next(self) -> tuple[Source, Any]:
        if self._idle is not None:
            self._idle.set()
        self._waiting = True
        self._clear_way()
        try:
            return await self._mailbox.next()
        except asyncio.CancelledError as cancelled:
            begun = self._mailbox.take_first()
            if not isinstance(begun, SuspendedHandler):
                raise
            # Meant for the handler that was begun elsewhere; if it copes with it, as
            # asyncio.timeout() does, the connection goes on.
            begun.interruption = cancelled
            return Source.EVENT, begun
        finally:
            self._waiting = False
            self._mailbox.writer = None
            if self._idle is not None:
                self._idle.clear()

    def _clear_way(self) -> None:
        """Let broadcasts pass by the connection while it has nothing to do."""
        if self._consumer.accepts_broadcasts and not self._mailbox.held:
            self._mailbox.writer = self._outbox.writer
