"""Runs the handlers of one connection, one at a time, in the connection's task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any

from tiderace.asgi import Event
from tiderace.connection.eager import EagerPath, SuspendedHandler, begin, sampled
from tiderace.connection.handlers import HandlerCaller
from tiderace.connection.inbox import DeferredError
from tiderace.delivery.mailbox import Mailbox, Source


class Dispatcher:
    """Takes events and messages out of a mailbox and calls their handlers.

    Args:
        mailbox: the mailbox.
        caller: calls the handlers.
        eager: the fast path.
        idle: for a worker's connection, an event that is set while nothing is to be
            done, and every event is a message; None for other connections.
    """

    __slots__ = ("_caller", "_eager", "_idle", "_mailbox")

    def __init__(
        self,
        mailbox: Mailbox[Any],
        caller: HandlerCaller,
        eager: EagerPath,
        idle: asyncio.Event | None,
    ) -> None:
        self._mailbox = mailbox
        self._caller = caller
        self._eager = eager
        self._idle = idle

    async def run(
        self, handle_event: Callable[[Event], Coroutine[Any, Any, None]]
    ) -> None:
        """Handle messages, and events by ``handle_event``, until an exception is raised."""
        caller, eager = self._caller, self._eager
        mailbox, idle = self._mailbox, self._idle
        mailbox.run_eagerly = eager.run_eagerly
        worker = idle is not None
        # Whether the last handler may have started or woken a task that has not run since.
        woken = True
        # Whether the loop has run an iteration since the last handler began.
        has_waited = False
        try:
            while True:
                if idle is not None:
                    idle.set()
                taken = None
                if mailbox.has_next():
                    if woken or (not has_waited and eager.is_any_ready()):
                        # Let such tasks run, and frames be sent.
                        await asyncio.sleep(0)
                        woken = False
                    taken = mailbox.take()
                if taken is None:
                    eager.wait(woken)
                    try:
                        while taken is None:
                            await mailbox.wait()
                            if eager.has_woken():
                                # Between the event and this, a message was handled
                                # eagerly: the tasks that its handler has woken run now.
                                eager.stop_waiting()
                                await asyncio.sleep(0)
                            taken = mailbox.take()
                    except asyncio.CancelledError as cancelled:
                        taken = self._interrupt(cancelled)
                        if taken is None:
                            raise
                    finally:
                        eager.stop_waiting()
                if idle is not None:
                    idle.clear()
                source, item = taken
                ready = eager.count_ready()
                if isinstance(item, (SuspendedHandler, DeferredError)):
                    work = caller.call(item, item.began, passing=item.passing)
                elif worker or source is Source.MESSAGE:
                    # A worker's messages are timed like a client's events.
                    is_timed = worker or next(sampled)
                    began = perf_counter() if is_timed else 0.0
                    work = caller.handle_message(item, began)
                else:
                    work = handle_event(item)
                suspended = begin(work, eager.count_ready)
                if suspended is None:
                    woken = eager.count_ready() != ready
                    has_waited = False
                else:
                    await suspended
                    woken, has_waited = suspended.woken, True
                caller.release_thread()
                # Else they would be kept while the connection is idle.
                del taken, item, work, suspended
        finally:
            mailbox.run_eagerly = None

    def _interrupt(
        self, cancelled: asyncio.CancelledError
    ) -> tuple[Source, SuspendedHandler] | None:
        """Return the handler that was started eagerly and for which a cancellation is meant.

        If the handler catches it, as asyncio.timeout() does, the connection goes on.
        """
        suspended = self._mailbox.take_first()
        if not isinstance(suspended, SuspendedHandler):
            return None
        suspended.interruption = cancelled
        return Source.EVENT, suspended
