"""Drains a process before it stops: closes its sockets one by one, over a window.

Thousands of clients that are closed in the same instant reconnect in the same instant.
So on SIGTERM a process refuses new WebSockets, closes its own over a window, and only
then stops its server.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any, TypeAlias

from django.conf import settings

from tiderace import conf, metrics
from tiderace.asgi import (
    Receive,
    Scope,
    Send,
    refuse,
)
from tiderace.runtime.connections import (
    ConnectionRegistry,
    DrainNotice,
    LiveConnection,
    process_connections,
)
from tiderace.runtime.lifespan import on_shutdown, on_startup
from tiderace.runtime.readiness import ready_check

__all__ = [
    "Drain",
    "SigtermWatch",
    "drain_seconds",
    "process_drain",
    "refuse_websocket",
]

logger = logging.getLogger("tiderace.drain")

# Seconds for closing all sockets, unless a setting says otherwise.
_WINDOW = 20.0
# The longest pause between two sockets, in seconds: ten reconnects a second are no load,
# so a process with few clients need not use the whole window.
_LONGEST_PAUSE = 0.1
# Seconds that a cut connection has for its disconnect handler.
_CUT_TIMEOUT = 1.0
# A second SIGTERM ends the drain at once, but not within these seconds: systemd signals
# every process of a service, and uvicorn's parent then signals its children again.
_REPEATED_SIGNAL = 2.0

_SignalHandler: TypeAlias = Callable[[int, FrameType | None], Any]


class Drain:
    """Ends the connections of a registry one after the other.

    Args:
        connections: the registry; connections that are added during a drain are asked
            to end as well.
        clock: seconds, from any start.
        sleep: waits for a number of seconds.
        chance: returns a random number from 0 to 1.
    """

    def __init__(
        self,
        connections: ConnectionRegistry,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._connections = connections
        self._clock = clock
        self._sleep = sleep
        self._chance = chance
        # The connections still to be asked; None while there is no drain.
        self._waiting: list[LiveConnection] | None = None
        self._hurried = False
        self._sleeping: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        connections.on_add(self._added)
        connections.on_discard(self._discarded)

    @property
    def draining(self) -> bool:
        """Whether a drain has begun; it lasts until the process stops."""
        return self._waiting is not None

    @property
    def open(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    def why_not_ready(self) -> str | None:
        """Return the reason for a readiness check; None until a drain has begun."""
        return f"draining, {self.open} connections left" if self.draining else None

    def begin(self, window: float, grace: float) -> asyncio.Task[None]:
        """Start to end all connections; the task ends when none is left.

        They are asked to end one by one in random order, at random moments within
        ``window`` seconds, on average at most a tenth of a second apart. They then have
        ``grace`` seconds to finish, after which they are cut. A second call returns the
        same task.
        """
        if self._task is None:
            logger.info(
                "draining: %d connections are asked to come back elsewhere within "
                "%g s, and have %g s more to finish",
                self.open,
                window,
                grace,
            )
            self._waiting = [each.connection for each in self._connections]
            self._hurried = False
            self._task = asyncio.get_running_loop().create_task(
                self._run(window, grace)
            )
        return self._task

    def hurry(self) -> None:
        """Ask the remaining connections to end at once."""
        self._hurried = True
        self._wake()

    def reset(self) -> None:
        """Reset the drain: the server has stopped or starts again."""
        if self._task is not None:
            self._task.cancel()
        self._task = self._waiting = None

    async def _run(self, window: float, grace: float) -> None:
        await self._ask_all(window)
        await self._wait_for_end(grace)
        if self._connections:
            logger.warning(
                "draining: %d connections are cut, since they had not ended %g s after "
                "they were asked to; a handler of theirs may be stuck",
                self.open,
                grace,
            )
            for each in self._connections:
                each.connection.cut()
            await self._wait_for_end(_CUT_TIMEOUT)
        logger.info("drained: %d connections are left", self.open)

    async def _ask_all(self, window: float) -> None:
        due = self._clock()
        end = due + window
        while waiting := self._waiting:
            # Picked at random each time, since connections are added meanwhile.
            index = min(int(self._chance() * len(waiting)), len(waiting) - 1)
            waiting[index], waiting[-1] = waiting[-1], waiting[index]
            connection = waiting.pop()
            if connection not in self._connections:
                continue
            # The pauses are, on average, equal shares of the remaining time.
            share = min((end - due) / (len(waiting) + 1), _LONGEST_PAUSE)
            due = min(due + 2 * share * self._chance(), end)
            while (pause := due - self._clock()) > 0 and not self._hurried:
                await self._pause(pause)
            self._ask(connection)

    async def _wait_for_end(self, seconds: float) -> None:
        deadline = self._clock() + seconds
        while self._connections and (left := deadline - self._clock()) > 0:
            while self._waiting:
                self._ask(self._waiting.pop())
            await self._pause(left)

    def _ask(self, connection: LiveConnection) -> None:
        if connection not in self._connections:
            return
        metrics.CONNECTIONS_DRAINED.add()
        # The window spreads clients of this process; retry_after those of several.
        notice = DrainNotice(retry_after=0.1 + 0.9 * self._chance())
        try:
            connection.drain(notice)
        except Exception:
            logger.exception("draining: %r could not be asked to end", connection)

    async def _pause(self, seconds: float) -> None:
        """Sleep, or return when woken."""
        self._sleeping = asyncio.ensure_future(self._sleep(seconds))
        try:
            await asyncio.wait([self._sleeping])
        finally:
            self._sleeping.cancel()

    def _added(self, connection: LiveConnection) -> None:
        if self._waiting is not None:
            self._waiting.append(connection)
            self._wake()

    def _discarded(self, connection: LiveConnection) -> None:
        if self.draining and not self._connections:
            self._wake()

    def _wake(self) -> None:
        if self._sleeping is not None:
            self._sleeping.cancel()


process_drain = Drain(process_connections)
"""The drain of this process."""
ready_check(process_drain.why_not_ready)


async def refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a WebSocket with 503, or with 1012 where the server has no such response."""
    notice = DrainNotice(retry_after=1.0)
    if await refuse(
        scope,
        receive,
        send,
        503,
        "The server is stopping, come back.",
        headers=[(b"retry-after", b"1")],
        close=(notice.code, notice.reason),
    ):
        metrics.DRAIN_REFUSALS.add()


class SigtermWatch:
    """Handles SIGTERM before the server does: first drains, then calls its handler.

    It works where the server's handler is a Python function, as with uvicorn. A second
    SIGTERM stops the server at once. SIGINT is left to the server, which stops at once.

    Args:
        drain: the drain to begin.
        clock: seconds, from any start.
    """

    def __init__(
        self, drain: Drain, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._drain = drain
        self._clock = clock
        self._server_handler: _SignalHandler | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._first_at: float | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Replace the handler of SIGTERM, where it can be replaced."""
        self._drain.reset()
        self._first_at = None
        if threading.current_thread() is not threading.main_thread():
            return
        self._loop = asyncio.get_running_loop()
        handler = signal.getsignal(signal.SIGTERM)
        if (
            callable(handler)
            and not _is_from_asyncio(handler)
            and handler != self._handle_sigterm
        ):
            self._server_handler = handler
            signal.signal(signal.SIGTERM, self._handle_sigterm)

    async def stop(self) -> None:
        """Restore the server's handler of SIGTERM."""
        self._drain.reset()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        if self._server_handler is not None:
            if signal.getsignal(signal.SIGTERM) == self._handle_sigterm:
                signal.signal(signal.SIGTERM, self._server_handler)
            self._server_handler = None

    def _handle_sigterm(self, number: int, frame: FrameType | None) -> None:
        now = self._clock()
        if self._first_at is None:
            self._first_at = now
            self._call(self._begin)
        elif now - self._first_at >= _REPEATED_SIGNAL and not _under_gunicorn():
            self._call(self._hurry)

    def _call(self, function: Callable[[], None]) -> None:
        # A signal handler runs between two bytecodes of any code of the loop.
        assert self._loop is not None  # noqa: S101 (for the type checker)
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:  # that loop is closed: there is nothing to drain
            self._stop_server()

    def _begin(self) -> None:
        self._task = asyncio.ensure_future(self._drain_and_stop())

    async def _drain_and_stop(self) -> None:
        try:
            await self._drain.begin(drain_seconds(), conf.current().drain_grace)
        except Exception:
            logger.exception("draining failed; stopping the server at once")
        self._stop_server()

    def _hurry(self) -> None:
        logger.info("draining: a second signal to stop; ending everything at once")
        self._drain.hurry()
        self._stop_server()

    def _stop_server(self) -> None:
        if self._server_handler is not None:
            self._server_handler(signal.SIGTERM, None)


def drain_seconds() -> float:
    """Return the window: ``TIDERACE["DRAIN_SECONDS"]``, or its default."""
    seconds = conf.current().drain_seconds
    if seconds is None:
        # In development a window would delay every restart.
        return 0.0 if conf.configured() and settings.DEBUG else _WINDOW
    return seconds


def _is_from_asyncio(handler: object) -> bool:
    """Return whether a loop installed the handler, whose callback is not accessible."""
    return getattr(handler, "__module__", "").partition(".")[0] in ("asyncio", "uvloop")


def _under_gunicorn() -> bool:
    """Return whether a second SIGTERM may mean the same as the first.

    gunicorn before 24 sends one each second to a worker that it replaces.
    """
    return "gunicorn.arbiter" in sys.modules


_watch = SigtermWatch(process_drain)
on_startup(_watch.start)
on_shutdown(_watch.stop)
