"""Runs the handlers of one connection, one at a time, in the connection's task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Coroutine
from time import perf_counter
from typing import Any

from tiderace.asgi import Event
from tiderace.connection.eager import EagerPath, SuspendedHandler, sampled_time
from tiderace.connection.handlers import HandlerCaller
from tiderace.connection.inbox import DeferredError
from tiderace.delivery.mailbox import Mailbox, Source


class Dispatcher:
    """Takes events and messages out of a mailbox and calls their handlers.

    Args:
        mailbox: the mailbox.
        caller: calls the handlers.
        dispatch: the consumer's, for events of the client.
        eager: the fast path.
        idle: for a worker's connection, an event that is set while nothing is to be
            done, and every event is a message; None for other connections.
    """

    __slots__ = ("_caller", "_dispatch", "_eager", "_idle", "_mailbox")

    def __init__(
        self,
        mailbox: Mailbox[Any],
        caller: HandlerCaller,
        dispatch: Callable[[Event], Awaitable[None]],
        eager: EagerPath,
        idle: asyncio.Event | None,
    ) -> None:
        self._mailbox = mailbox
        self._caller = caller
        self._dispatch = dispatch
        self._eager = eager
        self._idle = idle

    async def run(
        self,
        own_events: Container[str],
        handle_own_event: Callable[[Event], Coroutine[Any, Any, None]],
    ) -> None:
        """Handle events and messages until an exception is raised.

        Args:
            own_events: types of events that do not go straight to the consumer.
            handle_own_event: called for these.
        """
        caller, dispatch, eager = self._caller, self._dispatch, self._eager
        self._mailbox.run_eagerly = eager.run_eagerly
        worker = self._idle is not None
        # Whether the last handler may have started or woken a task.
        woken = True
        try:
            while True:
                source, item = await self._next(woken)
                ready = eager.count_ready()
                if isinstance(item, (SuspendedHandler, DeferredError)):
                    work = caller.call(item, item.began, passing=item.passing)
                elif worker or source is Source.MESSAGE:
                    # A worker's messages are timed like a client's events.
                    began = perf_counter() if worker else sampled_time()
                    work = caller.handle_message(item, began)
                elif item.get("type") in own_events:
                    work = handle_own_event(item)
                else:
                    work = caller.call(dispatch(item), perf_counter())
                # Other tasks may have run in a handler that was suspended: the count of
                # what is ready does not show what it has woken.
                try:
                    waits_for = work.send(None)
                except StopIteration:
                    woken = eager.count_ready() != ready
                else:
                    await SuspendedHandler(work, waits_for)
                    woken = True
                caller.release_thread()
                del item, work  # which would be kept while the connection is idle
        finally:
            self._mailbox.run_eagerly = None

    async def _next(self, woken: bool) -> tuple[Source, Any]:
        eager, idle = self._eager, self._idle
        if idle is not None:
            idle.set()
        if self._mailbox.has_next() and eager.is_any_ready():
            # Let tasks run that the last handler has started or woken, and frames be sent.
            await asyncio.sleep(0)
        eager.wait(woken)
        try:
            return await self._mailbox.next()
        except asyncio.CancelledError as cancelled:
            suspended = self._mailbox.take_first()
            if not isinstance(suspended, SuspendedHandler):
                raise
            # The cancellation is meant for the handler that was started eagerly. If the
            # handler catches it, as asyncio.timeout() does, the connection goes on.
            suspended.interruption = cancelled
            return Source.EVENT, suspended
        finally:
            eager.stop_waiting()
            if idle is not None:
                idle.clear()
