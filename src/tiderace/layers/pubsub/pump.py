"""The tasks that receive from the brokers and do periodic work."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Callable, Sequence

from tiderace.exceptions import LayerUnavailable
from tiderace.layers.broker import QueueReady, Reconnected, StreamMessage
from tiderace.layers.pubsub.brokers import Brokers
from tiderace.layers.pubsub.delivery import LossLog
from tiderace.layers.pubsub.gap_filler import START
from tiderace.layers.pubsub.inbox import ProcessInbox
from tiderace.layers.pubsub.loop_tasks import LoopTasks
from tiderace.layers.pubsub.reporter import Reporter
from tiderace.layers.pubsub.subscriptions import GroupSubscriptions

logger = logging.getLogger("tiderace.layers")

_TICK = 0.25  # seconds between two runs of the periodic work
_RETRY = 1.0  # seconds between attempts after an error

# The size of a burst between two chances for others to run: 32 messages, since mailboxes
# of consumers must not fill and many listeners take long, or 128 publications to groups
# with few listeners alone.
# A publication that comes in the same iteration of the loop as the reply to its publisher
# is written with it: longer bursts took a tenth of the time of one in a small room
# (November 2026, Python 3.11, 200 clients over Redis).
_BURST = 128
_MESSAGE_SIZE = 4
_FEW_LISTENERS = 32
_MAX_LEFTOVERS = 100  # in a process that does not receive


class Pump:
    """Two tasks for each broker, in one event loop of the process: the home loop.

    The first loop in which ``ensure_running`` is called becomes the home, and another
    one when the home has stopped.

    Args:
        brokers: the brokers.
        subscriptions: the streams and queues that are received, and the memberships.
        inbox: the stream of messages to channels of this process.
        reporter: reports to the inbox's broker.
        loss_log: logs lost messages.
        tasks: the tasks that ``stop`` ends as well.
        on_reconnect: called in the home loop when a broker is connected again.
    """

    def __init__(
        self,
        brokers: Brokers,
        subscriptions: GroupSubscriptions,
        inbox: ProcessInbox,
        *,
        reporter: Reporter,
        loss_log: LossLog,
        tasks: LoopTasks,
        on_reconnect: Callable[[], None],
    ) -> None:
        self.home: asyncio.AbstractEventLoop | None = None
        """The loop that receives, or the last that did; None before the first one."""
        self._brokers = brokers
        self._subscriptions = subscriptions
        self._cursors = subscriptions.cursors
        self._queues = subscriptions.queues
        self._memberships = subscriptions.memberships
        self._lock = subscriptions.lock
        self._inbox = inbox
        self._reporter = reporter
        self._loss_log = loss_log
        self._tasks = tasks
        self._on_reconnect = on_reconnect
        self._standing: list[asyncio.Task[None]] = []
        self._burst = 0

    @property
    def is_running(self) -> bool:
        """Whether a loop of this process receives."""
        home = self.home
        return (
            home is not None
            and home.is_running()
            and bool(self._standing)
            and not any(task.done() for task in self._standing)
        )

    @property
    def is_ready(self) -> bool:
        """Whether this process receives from all brokers, or does not receive at all."""
        return not self.is_running or all(each.is_connected for each in self._brokers)

    def ensure_running(self) -> None:
        """Receive in the running loop, unless a loop of this process receives already."""
        if self.is_running:
            return
        with self._lock:
            if self.is_running:
                return
            home = self.home = asyncio.get_running_loop()
            for task in self._standing:
                # Tasks of another loop, which has stopped, end by themselves if it resumes.
                if task.get_loop() is home:
                    task.cancel()
            self._cursors.start()
            if self._inbox.name not in self._cursors:
                broker = self._brokers.broker_of(self._inbox.name)
                self._cursors.add(self._inbox.name, broker, self._inbox, START)
            # A copy of the context would keep the request or socket that came first.
            context = contextvars.Context()
            self._standing = [
                home.create_task(work, context=context)
                for index in range(len(self._brokers))
                for work in (
                    self._receive(index, home),
                    self._work_regularly(index, home),
                )
            ]
        for task in self._standing:
            task.add_done_callback(_log_failure)

    async def stop(self) -> bool:
        """End the tasks of the running loop; return whether no loop receives any more.

        False when another loop receives, which continues.
        """
        here = asyncio.get_running_loop()
        with self._lock:
            is_elsewhere = self.is_running and self.home is not here
            standing = [] if is_elsewhere else self._standing
            if not is_elsewhere:
                self.home, self._standing = None, []
                self._cursors.stop()
        mine = [task for task in standing if task.get_loop() is here]
        for task in mine:
            task.cancel()
        await asyncio.gather(*mine, return_exceptions=True)
        await self._tasks.cancel()
        return not is_elsewhere

    def disown(self) -> None:
        """End the tasks of a forked parent in this process."""
        self.home = None

    async def clean_up_if_stopped(self) -> None:
        """Do the periodic work in a process that does not receive, once much has gathered.

        Raises:
            LayerUnavailable: when a broker could not be reached.
        """
        leftovers = self._subscriptions.released + self._memberships.pending
        if leftovers > _MAX_LEFTOVERS and not self.is_running:
            for index in range(len(self._brokers)):
                await self._memberships.announce(index)
                await self._subscriptions.unsubscribe_idle(index)

    async def _receive(self, index: int, home: asyncio.AbstractEventLoop) -> None:
        """Receive from one broker while this is the home loop."""
        while self.home is home:
            try:
                if self._has_inbox(index):
                    await self._brokers[index].subscribe(
                        [self._inbox.name], [self._inbox.process]
                    )
                batches = self._brokers[index].messages()
                async with contextlib.aclosing(batches):
                    async for batch in batches:
                        if self.home is not home:
                            return
                        await self._handle(index, batch)
            except Exception:
                if home.is_closed():
                    return  # the loop was closed with this task in it
                logger.exception("receiving from a broker failed; starting again")
                await asyncio.sleep(_RETRY)

    async def _handle(
        self, index: int, batch: Sequence[StreamMessage | QueueReady | Reconnected]
    ) -> None:
        """Deliver messages, wake readers, and catch up after an interruption."""
        for item in batch:
            size = _MESSAGE_SIZE
            if isinstance(item, StreamMessage):
                if (
                    0
                    < self._subscriptions.listeners_alone(item.subject)
                    <= _FEW_LISTENERS
                ):
                    size = 1
                delivery = self._cursors.on_message(item)
                if delivery is not None:
                    await delivery
            elif isinstance(item, Reconnected):
                self._cursors.on_reconnect(self._brokers[index])
                self._memberships.renew_soon(index)
                self._queues.wake_all()
                self._on_reconnect()
            elif item.queue == self._inbox.process:
                self._reporter.on_report()
            else:
                self._queues.wake(item.queue)
            self._burst += size
            if self._burst >= _BURST:
                self._burst = 0
                await asyncio.sleep(0)

    def _has_inbox(self, index: int) -> bool:
        return self._brokers.index_of(self._inbox.name) == index

    async def _work_regularly(
        self, index: int, home: asyncio.AbstractEventLoop
    ) -> None:
        """Do the periodic work for one broker while this is the home loop."""
        is_failing = False
        while self.home is home:
            await asyncio.sleep(_TICK)
            try:
                await self._work(index)
                is_failing = False
            except Exception as error:
                if not is_failing:
                    is_failing = True
                    logger.warning(
                        "memberships cannot be announced for the time being: %s",
                        error,
                        exc_info=not isinstance(error, LayerUnavailable),
                    )
                await asyncio.sleep(_RETRY)

    async def _work(self, index: int) -> None:
        if index == 0:
            self._subscriptions.expire()
            self._loss_log.log_rest()
        await self._memberships.announce(index)
        await self._subscriptions.unsubscribe_idle(index)
        await self._subscriptions.check_positions(index)
        await self._memberships.renew(index)
        if self._has_inbox(index):
            broker = self._brokers[index]
            await self._reporter.report_if_due(broker, ready=self.is_ready)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("a task of the layer failed", exc_info=error)
