"""Named queues, as this process fills them and waits for what is in them.

It knows the broker's verbs for queues, and no group, no mailbox and no message: bytes in,
bytes out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import Any

from tiderace.exceptions import ChannelFull, LayerUnavailable
from tiderace.layers.broker import Broker, Delivery

__all__ = ["Queues"]

logger = logging.getLogger("tiderace.layers")

_POLL = 5.0  # seconds a reader of a queue waits before it looks by itself
_TAKE_LEASE = 10.0  # seconds in which a taken message must be confirmed
_RETRY = 1.0  # seconds until what a broker has refused is tried again

_Taker = tuple[asyncio.AbstractEventLoop, asyncio.Event]


class Queues:
    """The queues in the brokers, and who waits for one here.

    May be used in any thread and event loop.

    Args:
        broker_of: who serves a queue.
        capacity_of: how many messages it holds.
        expiry: seconds a message waits for its reader.
        lock: held while somebody begins or ends to wait.
        ensure_heard: has this process hear its brokers, so that readers are woken.
        start: lets a small piece of work in the running loop end by itself.
    """

    def __init__(
        self,
        *,
        broker_of: Callable[[str], Broker],
        capacity_of: Callable[[str], int],
        expiry: float,
        lock: threading.RLock,
        ensure_heard: Callable[[], None],
        start: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._broker_of = broker_of
        self._capacity_of = capacity_of
        self._expiry = expiry
        self._lock = lock
        self._ensure_heard = ensure_heard
        self._start = start
        # Readers, to be woken in their loops; and the queues that are subscribed to.
        self._takers: dict[str, set[_Taker]] = {}
        self._heard: set[str] = set()

    # Filling

    async def push(self, queue: str, data: bytes) -> None:
        """Put ``data`` into a queue.

        Raises:
            ChannelFull: when it is at its capacity.
            LayerUnavailable: when the broker could not be reached in time.
        """
        if not await self._broker_of(queue).queues.push(
            queue, data, size=self._capacity_of(queue), seconds=self._expiry
        ):
            raise ChannelFull(queue)

    async def push_to_each(self, queues: Iterable[str], data: bytes) -> int:
        """Put ``data`` into every one of ``queues``; how many are full and did not get it.

        Raises:
            LayerUnavailable: when a broker could not be reached in time.
        """
        full = 0
        for queue in queues:
            try:
                await self.push(queue, data)
            except ChannelFull:
                full += 1
        return full

    # Reading

    async def take(self, queue: str) -> bytes:
        """The next message of a queue; waits for one, and for its broker."""
        away = False
        while True:
            try:
                return (await self._taken(queue)).data
            except LayerUnavailable as error:
                # Who waits for a message waits for the broker, too.
                if not away:
                    away = True
                    logger.warning("nothing can be taken from %s: %s", queue, error)
                await asyncio.sleep(_RETRY)

    async def _taken(self, queue: str) -> Delivery:
        broker = self._broker_of(queue)
        taken = await self._take_once(broker, queue)
        if taken is not None:
            return taken
        self._ensure_heard()
        taker = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._takers.setdefault(queue, set()).add(taker)
            self._heard.add(queue)
        try:
            await broker.subscribe((), [queue])
            while (taken := await self._take_once(broker, queue)) is None:
                # By itself, too: for a message whose taker died.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_POLL):
                        await taker[1].wait()
                taker[1].clear()
            return taken
        finally:
            with self._lock:
                takers = self._takers[queue]
                takers.discard(taker)
                if not takers:
                    del self._takers[queue]

    async def _take_once(self, broker: Broker, queue: str) -> Delivery | None:
        """Take and confirm one message; a cancelled reader leaves it to the next."""
        taking = asyncio.ensure_future(broker.queues.take(queue, lease=_TAKE_LEASE))
        try:
            taken = await asyncio.shield(taking)
        except asyncio.CancelledError:
            self._start(_undo(broker, taking))
            raise
        if taken is None:
            return None
        confirming = asyncio.ensure_future(broker.queues.ack(taken))
        try:
            await asyncio.shield(confirming)
        except asyncio.CancelledError:
            self._start(_redo(broker, taken, confirming))
            raise
        return taken

    # What is heard of them

    def wake(self, queue: str) -> None:
        """Have those who wait for a queue here look into it."""
        here = asyncio.get_running_loop()
        for loop, event in list(self._takers.get(queue, ())):
            if loop is here:
                event.set()
            else:
                with contextlib.suppress(RuntimeError):  # that loop is closed
                    loop.call_soon_threadsafe(event.set)

    def wake_all(self) -> None:
        """Have everybody who waits here look: something may have been missed."""
        for queue in list(self._takers):
            self.wake(queue)

    def let_go(self, mine: Callable[[str], bool]) -> list[str]:
        """Those of ``mine`` that nobody waits for any more; they are to be heard no more."""
        with self._lock:
            idle = [
                queue
                for queue in self._heard
                if queue not in self._takers and mine(queue)
            ]
            self._heard.difference_update(idle)
        return idle

    def keep(self, queues: Iterable[str]) -> None:
        """Those were let go, but are heard still."""
        with self._lock:
            self._heard.update(queues)

    def awaited(self, queues: Collection[str]) -> list[str]:
        """Those of ``queues`` that somebody waits for now."""
        return [queue for queue in queues if queue in self._takers]


async def _undo(broker: Broker, taking: asyncio.Future[Delivery | None]) -> None:
    # When the broker is away the message comes back at the end of its lease.
    with contextlib.suppress(LayerUnavailable):
        if (taken := await taking) is not None:
            await broker.queues.nack(taken)


async def _redo(
    broker: Broker, taken: Delivery, confirming: asyncio.Future[None]
) -> None:
    with contextlib.suppress(LayerUnavailable):
        await confirming
        await broker.queues.nack(taken, acked=True)
