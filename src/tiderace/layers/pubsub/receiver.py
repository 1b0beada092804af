"""What arrives from the brokers, handed to the streams and queues of this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from tiderace.layers.broker import QueueReady, Reconnected, StreamMessage
from tiderace.layers.pubsub.brokers import Brokers
from tiderace.layers.pubsub.cursors import StreamCursors
from tiderace.layers.pubsub.gap_filler import START
from tiderace.layers.pubsub.inbox import ProcessInbox
from tiderace.layers.pubsub.memberships import Memberships
from tiderace.layers.pubsub.queues import Queues
from tiderace.layers.pubsub.reporter import Reporter

__all__ = ["BrokerReceiver"]

_YIELD_EVERY = 32  # items between two chances for consumers to run


class BrokerReceiver:
    """Receives in one event loop.

    Args:
        brokers: the brokers.
        inbox: takes the messages to channels of this process.
        cursors: take the messages of streams.
        queues: have the readers of named queues.
        memberships: are renewed after an interruption.
        reporter: measures how long a report takes to arrive.
    """

    def __init__(
        self,
        brokers: Brokers,
        *,
        inbox: ProcessInbox,
        cursors: StreamCursors,
        queues: Queues,
        memberships: Memberships,
        reporter: Reporter,
        on_reconnect: Callable[[], None],
    ) -> None:
        # The name of the queue that reports wake.
        self._process = inbox.process
        self._brokers = brokers
        self._inbox = inbox
        self._cursors = cursors
        self._queues = queues
        self._memberships = memberships
        self._reporter = reporter
        self._on_reconnect = on_reconnect
        self._handled = 0

    def start(self) -> None:
        """Receive in the running loop from now on."""
        self._cursors.start()
        name = self._inbox.name
        if name not in self._cursors:
            broker = self._brokers.broker_of(name)
            self._cursors.add(name, broker, self._inbox, START)

    def stop(self) -> None:
        """Begin nothing more in the loop that has received so far."""
        self._cursors.stop()

    async def batches(
        self, index: int
    ) -> AsyncGenerator[Sequence[StreamMessage | QueueReady | Reconnected], None]:
        """Return what arrives from one broker, for ``handle``."""
        broker = self._brokers[index]
        if self._brokers.index_of(self._inbox.name) == index:
            await broker.subscribe([self._inbox.name], [self._process])
        return broker.messages()

    async def handle(
        self, index: int, batch: Sequence[StreamMessage | QueueReady | Reconnected]
    ) -> None:
        """Deliver messages, wake readers, and catch up after an interruption."""
        for item in batch:
            if isinstance(item, StreamMessage):
                await self._cursors.on_message(item)
            elif isinstance(item, Reconnected):
                self._cursors.on_reconnect(self._brokers[index])
                self._memberships.renew_soon(index)
                self._queues.wake_all()
                self._on_reconnect()
            elif item.queue == self._process:
                self._reporter.on_report()
            else:
                self._queues.wake(item.queue)
            self._handled += 1
            if self._handled % _YIELD_EVERY == 0:
                # A burst must not fill mailboxes whose readers are ready.
                await asyncio.sleep(0)
