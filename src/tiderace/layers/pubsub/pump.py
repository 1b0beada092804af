"""The standing work of a process for its brokers, in the one event loop that does it.

It knows which loop that is, and whose tasks are to be ended when. What the work is it is
handed, and it knows no broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from tiderace.exceptions import LayerUnavailable

__all__ = ["Pump"]

logger = logging.getLogger("tiderace.layers")

_TICK = 0.25  # seconds between two looks at what is to be announced
_RETRY = 1.0  # seconds until what a broker has refused is tried again


class _Hear(Protocol):
    async def __call__(self, index: int, still: Callable[[], bool]) -> None: ...


class Pump:
    """One task that hears each broker and one that keeps house for it.

    ``ensure_running`` may be called in any loop and thread: the first becomes the home
    of the work, and another follows when that one has stopped.

    Args:
        brokers: how many there are.
        lock: held while a home is chosen.
        prepare: called then, before the tasks begin.
        hear: hears the broker of that number, until it breaks or ``still()`` is false.
        tend: what is to be done for that broker now; called four times a second.
    """

    def __init__(
        self,
        brokers: int,
        *,
        lock: threading.RLock,
        prepare: Callable[[], None],
        hear: _Hear,
        tend: Callable[[int], Coroutine[Any, Any, None]],
    ) -> None:
        self._brokers = brokers
        self._lock = lock
        self._prepare = prepare
        self._hear = hear
        self._tend = tend
        self.home: asyncio.AbstractEventLoop | None = None
        """The loop that does the work, or did; None before there was one."""
        self._standing: list[asyncio.Task[None]] = []
        # Those that fetch what was missed, and other small work that is begun and ends.
        self._fetching: set[asyncio.Task[None]] = set()
        self._small: set[asyncio.Task[None]] = set()

    @property
    def serving(self) -> bool:
        """Whether a loop of this process does the work."""
        home = self.home
        return (
            home is not None
            and home.is_running()
            and bool(self._standing)
            and not any(task.done() for task in self._standing)
        )

    def ensure_running(self) -> None:
        """Have one loop of this process do the work; this one, if there is none."""
        if self.serving:
            return
        with self._lock:
            if self.serving:
                return
            home = self.home = asyncio.get_running_loop()
            for task in self._standing:
                # Those of a loop that has stopped end by themselves if it goes on.
                if task.get_loop() is home:
                    task.cancel()
            self._prepare()
            # A copy of the context would keep the request or socket that came first.
            context = contextvars.Context()
            self._standing = [
                home.create_task(work, context=context)
                for index in range(self._brokers)
                for work in (self._pump(index, home), self._keep_house(index, home))
            ]
        for task in self._standing:
            task.add_done_callback(_log_failure)

    def at_home(self, do: Callable[[], None]) -> None:
        """Call ``do`` in the loop that does the work, soon, if there is one."""
        home = self.home
        if home is not None:
            with contextlib.suppress(RuntimeError):  # that loop is closed
                home.call_soon_threadsafe(do)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Let a small piece of work end by itself; what it raises is logged."""
        self._start(work, self._small)

    def start_fetching(self, work: Coroutine[Any, Any, None]) -> None:
        """The same for what need not end when the service does."""
        self._start(work, self._fetching)

    def _start(
        self, work: Coroutine[Any, Any, None], among: set[asyncio.Task[None]]
    ) -> None:
        # A copy of the context would keep the request or socket that came first.
        task = asyncio.get_running_loop().create_task(
            work, context=contextvars.Context()
        )
        among.add(task)
        task.add_done_callback(among.discard)
        task.add_done_callback(_log_failure)

    async def stop(self) -> bool:
        """End what the running loop does here; whether nobody serves any more.

        False when another loop does the standing work, which goes on.
        """
        here = asyncio.get_running_loop()
        with self._lock:
            elsewhere = self.serving and self.home is not here
            standing = [] if elsewhere else self._standing
            if not elsewhere:
                self.home, self._standing = None, []
        mine = [
            each for each in (*standing, *self._fetching) if each.get_loop() is here
        ]
        for task in mine:
            task.cancel()
        small = [each for each in self._small if each.get_loop() is here]
        await asyncio.gather(*mine, *small, return_exceptions=True)
        return not elsewhere

    def disown(self) -> None:
        """It was a parent's, of whom this process is a fork: nothing of it is done here."""
        self.home = None

    async def _pump(self, index: int, home: asyncio.AbstractEventLoop) -> None:
        """Hear one broker for as long as this is the loop that does."""
        while self.home is home:
            try:
                await self._hear(index, lambda: self.home is home)
            except Exception:
                if home.is_closed():
                    return  # it was abandoned, and what was left in it is finalized
                logger.exception("hearing a broker failed and is begun anew")
                await asyncio.sleep(_RETRY)

    async def _keep_house(self, index: int, home: asyncio.AbstractEventLoop) -> None:
        """Do what is to be done for one broker, for as long as it is heard here."""
        failing = False
        while self.home is home:
            await asyncio.sleep(_TICK)
            try:
                await self._tend(index)
                failing = False
            except Exception as error:
                if not failing:
                    failing = True
                    logger.warning(
                        "memberships cannot be announced for the time being: %s",
                        error,
                        exc_info=not isinstance(error, LayerUnavailable),
                    )
                await asyncio.sleep(_RETRY)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("a task of the layer failed", exc_info=error)
