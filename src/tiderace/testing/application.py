"""Runs an ASGI application in the test's event loop and exchanges events with it."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from asgiref.testing import ApplicationCommunicator as _AsgirefCommunicator
from django.db import connections

from tiderace import conf
from tiderace.runtime import threads

if TYPE_CHECKING:
    from tiderace.asgi import ASGIApp, Event, Scope

# RFC 6455: the code by which a consumer closes its socket after an error.
_INTERNAL_ERROR = 1011


class ApplicationCommunicator(_AsgirefCommunicator):
    """Runs ``application`` with ``scope``; the test sends and receives its events.

    The application starts with the first event sent or awaited, as a task of the
    test's event loop with an empty context, without the context variables of the
    test. Its sync code runs where the test's own does: in the
    calling thread below ``async_to_sync`` (Django's ``TestCase``), and so in the same
    transaction; with an in-memory SQLite test database, in the thread of the
    test's own ``sync_to_async``, one call at a time. With other databases the sync
    code of different connections runs concurrently, as on a server.

    With ``cancel_on_timeout`` (the default, as in Channels) the application is
    cancelled when nothing arrives in time, and the connection cannot be used further;
    without, it runs on.

    ``scope`` may be changed until the application starts.
    """

    scope: Scope

    # On the class: __del__ also runs when __init__ raised.
    _future: asyncio.Task[Any] | None = None

    def __init__(
        self, application: ASGIApp, scope: Scope, *, cancel_on_timeout: bool = True
    ) -> None:
        super().__init__(application, scope)  # type: ignore[no-untyped-call]
        self.cancel_on_timeout = cancel_on_timeout
        self._output_queue: _Output | None = None

    @property
    def output_queue(self) -> _Output:
        """The events that the test has not received yet."""
        if self._output_queue is None:
            self._output_queue = _Output()
        return self._output_queue

    @property
    def future(self) -> asyncio.Task[Any]:
        """The application's task, started at the first use of this attribute."""
        if self._future is None:
            self._future = asyncio.get_running_loop().create_task(
                self.application(
                    self.scope, self.input_queue.get, self.output_queue.put
                ),
                context=_application_context(),
            )
            news = self.output_queue.news
            self._future.add_done_callback(lambda _: news.set())
        return self._future

    async def send_input(self, message: Event) -> None:
        """Send one event to the application.

        Raises:
            Exception: what the application raised, if it has ended with an error;
                ``CancelledError`` if a receive timed out and cancelled it.
        """
        await super().send_input(message)  # type: ignore[no-untyped-call]

    async def receive_output(self, timeout: float | None = 1) -> Event:
        """Return the next event of the application; wait ``timeout`` seconds.

        None waits without a limit, here and in all methods with a timeout.

        A consumer closes with code 1011 after an error; the error is raised then
        instead of returning the close.

        Raises:
            TimeoutError: when nothing came; the application is cancelled then,
                unless ``cancel_on_timeout`` is False.
            Exception: what the application raised, if it has ended with an error.
        """
        if self.future.done():
            self.future.result()
        started = asyncio.get_running_loop().time()
        event = await self._take(lambda _: True, timeout)
        if event is None:
            if self.cancel_on_timeout:
                await self._cancel()
            raise TimeoutError(
                f"the application sent nothing within {timeout} s{self._state()}"
            )
        if (
            event.get("type") == "websocket.close"
            and event.get("code") == _INTERNAL_ERROR
        ):
            spent = asyncio.get_running_loop().time() - started
            rest = None if timeout is None else max(timeout - spent, 0)
            await asyncio.wait([self.future], timeout=rest)
            self._raise_failure()
        return event

    async def wait_for(
        self,
        type: str,  # noqa: A002 (the key's name in every ASGI event)
        *,
        where: Callable[[Event], bool] | None = None,
        timeout: float | None = 1,
    ) -> Event:
        """Return the first event of this ``type``; all others can still be received.

        ``where`` is a further condition: ``where=lambda event: "joined" in
        event["text"]``. Earlier events keep their order. A timeout does not cancel the
        application.

        Raises:
            TimeoutError: when no such event came within ``timeout`` seconds.
            Exception: what the application raised, if it ended with an error and
                had not sent such an event.
        """

        def matches(event: Event) -> bool:
            return event.get("type") == type and (where is None or where(event))

        event = await self._take(matches, timeout)
        if event is None:
            waiting = [event.get("type") for event in self.output_queue.events()]
            raise TimeoutError(
                f"no matching event {type!r} within {timeout} s{self._state()}; "
                f"received so far: {waiting}"
            )
        return event

    async def receive_nothing(
        self, timeout: float = 0.1, interval: float = 0.01
    ) -> bool:
        """Return whether the application sends nothing for ``timeout`` seconds.

        Checks every ``interval`` seconds, at least once.
        """
        return bool(
            await super().receive_nothing(timeout, interval)  # type: ignore[no-untyped-call]
        )

    async def wait(self, timeout: float | None = 1) -> None:
        """Wait for the end of the application; cancel it after ``timeout`` seconds.

        Raises:
            TimeoutError: when it had to be cancelled.
            Exception: what the application raised.
        """
        await super().wait(timeout)  # type: ignore[no-untyped-call]

    def stop(self, exceptions: bool = True) -> None:
        """Cancel the application if it runs; else raise its error if ``exceptions``."""
        super().stop(exceptions)  # type: ignore[no-untyped-call]

    async def _take(
        self, matches: Callable[[Event], bool], timeout: float | None
    ) -> Event | None:
        """Return the first event that matches, or None after ``timeout`` seconds."""
        future, output = self.future, self.output_queue
        try:
            async with asyncio.timeout(timeout):
                while (event := output.take(matches)) is None:
                    if future.done():
                        future.result()
                    output.news.clear()
                    await output.news.wait()
                return event
        except TimeoutError:
            # Either the time is over, or the application raised a TimeoutError.
            self._raise_failure()
            return None

    async def _cancel(self) -> None:
        if not self.future.done():
            self.future.cancel()
            await asyncio.wait([self.future])

    def _raise_failure(self) -> None:
        if self.future.done() and not self.future.cancelled():
            self.future.result()

    def _state(self) -> str:
        if not self.future.done():
            return ""
        return ", and it was cancelled" if self.future.cancelled() else ": it has ended"


class _Output(asyncio.Queue["Event"]):
    """The events of an application, which may be taken in any order."""

    _queue: deque[Event]

    def __init__(self) -> None:
        super().__init__()
        self.news = asyncio.Event()

    def _put(self, item: Event) -> None:
        super()._put(item)
        self.news.set()

    def events(self) -> list[Event]:
        return list(self._queue)

    def take(self, matches: Callable[[Event], bool]) -> Event | None:
        for index, event in enumerate(self._queue):
            if matches(event):
                del self._queue[index]
                return event
        return None


def _application_context() -> contextvars.Context:
    """Return an empty context, except for the thread that runs the test's sync code."""
    context = contextvars.Context()
    shared = SyncToAsync.thread_sensitive_context.get(None)
    if (
        shared is None
        and not threads.below_a_sync_caller()
        and _database_is_in_memory()
    ):
        # The thread of the test's own sync_to_async.
        shared = ThreadSensitiveContext()
        SyncToAsync.context_to_thread_executor[shared] = (
            SyncToAsync.single_thread_executor
        )
    if shared is not None:
        context.run(SyncToAsync.thread_sensitive_context.set, shared)
    return context


def _database_is_in_memory() -> bool:
    """Return whether a test database is SQLite in memory, shared between threads.

    Of two threads that use it at the same time one fails at once ("table is locked");
    with any other database it waits.
    """
    return conf.configured() and any(
        "mode=memory" in str(database["NAME"])
        for database in connections.settings.values()
    )
