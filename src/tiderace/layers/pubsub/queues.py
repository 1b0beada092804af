"""Named queues: sending to them, and waiting for their messages in this process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import TypeVar

from tiderace.exceptions import ChannelFull, LayerAccessDenied, LayerUnavailable
from tiderace.layers.broker import Broker, Delivery
from tiderace.layers.pubsub.brokers import Brokers
from tiderace.layers.pubsub.loop_tasks import LoopTasks

logger = logging.getLogger("tiderace.layers")

T = TypeVar("T")

_POLL = 5.0  # seconds after which a reader polls its queue without being woken
_TAKE_LEASE = 10.0  # seconds in which a message must be acknowledged
_RETRY = 1.0  # seconds between attempts to reach a broker that is away

_Reader = tuple[asyncio.AbstractEventLoop, asyncio.Event]


class Queues:
    """The queues in the brokers and their readers in this process.

    May be used in any thread and event loop.

    Args:
        brokers: the brokers.
        capacity_of: returns how many messages a queue holds.
        expiry: seconds a message waits for its reader.
    """

    def __init__(
        self, brokers: Brokers, *, capacity_of: Callable[[str], int], expiry: float
    ) -> None:
        self._brokers = brokers
        self._capacity_of = capacity_of
        self._expiry = expiry
        self._lock = threading.Lock()
        # Readers, to be woken in their loops; and the queues that are subscribed to.
        self._readers: dict[str, set[_Reader]] = {}
        self._subscribed: set[str] = set()
        # Tasks that return messages whose readers were cancelled.
        self._returns = LoopTasks()

    # Sending

    async def push(self, queue: str, data: bytes) -> None:
        """Put ``data`` into a queue.

        Raises:
            ChannelFull: when it is at its capacity.
            LayerUnavailable: when the broker could not be reached in time.
        """
        if not await self._brokers.broker_of(queue).queues.push(
            queue, data, size=self._capacity_of(queue), seconds=self._expiry
        ):
            raise ChannelFull(queue)

    async def push_to_each(self, queues: Iterable[str], data: bytes) -> int:
        """Put ``data`` into each of ``queues``; return how many were full.

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

    async def take(self, queue: str) -> bytes | None:
        """Return the next message of a queue, or None; wait for its broker.

        Raises:
            LayerAccessDenied: when the broker refuses the user or password.
        """
        return await self._when_reachable(queue, self._take)

    async def wait(self, queue: str) -> bytes:
        """Wait for the next message of a queue, and for its broker.

        Readers are woken by ``wake`` and ``wake_all``.
        """
        return await self._when_reachable(queue, self._wait)

    async def _when_reachable(
        self, queue: str, attempt: Callable[[Broker, str], Awaitable[T]]
    ) -> T:
        is_away = False
        while True:
            try:
                return await attempt(self._brokers.broker_of(queue), queue)
            except LayerAccessDenied:
                raise
            except LayerUnavailable as error:
                if not is_away:
                    is_away = True
                    logger.warning("nothing can be taken from %s: %s", queue, error)
                await asyncio.sleep(_RETRY)

    async def _wait(self, broker: Broker, queue: str) -> bytes:
        reader = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._readers.setdefault(queue, set()).add(reader)
            self._subscribed.add(queue)
        try:
            await broker.subscribe((), [queue])
            while (data := await self._take(broker, queue)) is None:
                # The timeout is for a message whose reader died.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_POLL):
                        await reader[1].wait()
                reader[1].clear()
            return data
        finally:
            with self._lock:
                readers = self._readers[queue]
                readers.discard(reader)
                if not readers:
                    del self._readers[queue]

    async def _take(self, broker: Broker, queue: str) -> bytes | None:
        """Take and acknowledge one message; return it to the queue when cancelled."""
        taking = asyncio.ensure_future(broker.queues.take(queue, lease=_TAKE_LEASE))
        acking = None
        try:
            if (delivery := await asyncio.shield(taking)) is None:
                return None
            acking = asyncio.ensure_future(broker.queues.ack(delivery))
            await asyncio.shield(acking)
        except asyncio.CancelledError:
            self._returns.spawn(_return(broker, taking, acking))
            raise
        return delivery.data

    async def finish_returns(self) -> None:
        """Wait until the messages of cancelled readers of this loop are returned."""
        await self._returns.wait()

    # GroupSubscriptions

    def wake(self, queue: str) -> None:
        """Wake the readers of a queue."""
        here = asyncio.get_running_loop()
        for loop, event in list(self._readers.get(queue, ())):
            if loop is here:
                event.set()
            else:
                with contextlib.suppress(RuntimeError):  # that loop is closed
                    loop.call_soon_threadsafe(event.set)

    def wake_all(self) -> None:
        """Wake all readers: a wake-up may have been missed."""
        for queue in list(self._readers):
            self.wake(queue)

    def take_idle(self, index: int) -> list[str]:
        """Return the queues of a broker that have no reader any more.

        They no longer count as subscribed to, unless ``keep`` follows.
        """
        with self._lock:
            idle = [each for each in self._subscribed if each not in self._readers]
            idle = self._brokers.select(index, idle)
            self._subscribed.difference_update(idle)
        return idle

    def keep(self, queues: Iterable[str]) -> None:
        """Count ``queues`` as subscribed to again."""
        with self._lock:
            self._subscribed.update(queues)

    def with_readers(self, queues: Collection[str]) -> list[str]:
        """Return those of ``queues`` that have a reader now."""
        return [queue for queue in queues if queue in self._readers]


async def _return(
    broker: Broker,
    taking: asyncio.Future[Delivery | None],
    acking: asyncio.Future[None] | None,
) -> None:
    # When the broker is away the message comes back at the end of its lease.
    with contextlib.suppress(LayerUnavailable):
        if (delivery := await taking) is not None:
            if acking is not None:
                await acking
            await broker.queues.nack(delivery, acked=acking is not None)
