"""The half of a layer between processes that hears.

What its brokers carry to this process reaches the mailboxes and listeners here, in order
and, after every interruption, without a gap. It knows the brokers' verbs, and neither a
technology nor how something is sent (``tiderace.layers.pubsub.layer``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from tiderace import metrics
from tiderace.delivery.outbox import PreparedMessage
from tiderace.delivery.stream_hub import Listener
from tiderace.exceptions import LayerUnavailable
from tiderace.history import Position, Publication
from tiderace.layers import stream_records
from tiderace.layers.base import Message
from tiderace.layers.broker import Broker, QueueReady, Retention, StreamMessage
from tiderace.layers.local import ENVELOPE, TO, Box, LocalChannelLayer
from tiderace.layers.pubsub.cursors import StreamCursors
from tiderace.layers.pubsub.memberships import Memberships
from tiderace.layers.pubsub.pump import Pump
from tiderace.layers.pubsub.queues import Queues
from tiderace.layers.pubsub.subscriptions import Subscriptions

__all__ = ["HearingLayer"]

logger = logging.getLogger("tiderace.layers")

_YIELD_EVERY = 32  # messages, after which the consumers get their turn
_UNTIDY = 100  # things left behind, in a process that hears no broker
_REPORT = 2.0  # seconds between two reports of a process about itself
_REPORT_SHARE = 200  # times as long as making a report took, at least, lie between two
_TOP = 20  # groups whose members are in a report


class HearingLayer(LocalChannelLayer):
    """What a layer between processes is before it can send; see ``PubSubLayer``.

    Each process hears the groups that have a member or a listener in it, and its own
    inbox, through which other processes reach its channels.
    """

    def __init__(
        self,
        brokers: Sequence[Broker],
        *,
        expiry: float,
        group_expiry: float,
        capacity: int,
        channel_capacity: Mapping[Any, int] | None,
        group_capacity: int = 10_000,
        lease: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            expiry=expiry,
            group_expiry=group_expiry,
            capacity=capacity,
            channel_capacity=channel_capacity,
            clock=clock,
        )
        self._brokers = brokers
        self._keep = Retention(group_capacity, expiry)
        self._lease = lease
        self._pid = os.getpid()
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._inbox_here = self._inbox(self._process)
        self._service = Pump(
            len(self._brokers),
            lock=self._lock,
            prepare=self._prepare,
            hear=self._hear,
            tend=self._tend,
        )
        self._streams = StreamCursors(
            expiry=self.expiry,
            at_most=self._keep.size,
            clock=self._clock,
            deliver=self._deliver,
            report_gap=self._report_gap,
            start=self._service.start_fetching,
            at_home=self._service.at_home,
        )
        self._queues = Queues(
            broker_of=self._broker,
            capacity_of=self.get_capacity,
            expiry=self.expiry,
            lock=self._lock,
            ensure_heard=self._service.ensure_running,
            start=self._service.start,
        )
        self._subscriptions = Subscriptions(
            self._brokers,
            index_of=self._index,
            streams=self._streams,
            queues=self._queues,
            wanted=self._is_wanted,
            expiry=self.expiry,
            clock=self._clock,
            lock=self._lock,
        )
        self._announcements = Memberships(
            self._process,
            self._brokers,
            index_of=self._index,
            hub=self._hub,
            lease=self._lease,
            clock=self._clock,
            lock=self._lock,
        )
        self._gap_logged_at = float("-inf")
        self._gaps_not_logged = 0
        # When this process last told about itself, and when it may again.
        self._reported = float("-inf")
        self._report_due = float("-inf")

    # To be answered by the layer for a technology

    def _index(self, name: str) -> int:
        """Which of the brokers serves the group, queue or process ``name``."""
        return 0

    def serialize(self, message: Any) -> bytes:
        """``message`` as bytes; may be overridden together with ``deserialize``."""
        raise NotImplementedError

    def deserialize(self, message: bytes) -> Any:
        """The inverse of ``serialize``."""
        raise NotImplementedError

    def _broker(self, name: str) -> Broker:
        return self._brokers[self._index(name)]

    def _inbox(self, process: str) -> str:
        return f"process!{process}"

    # Who hears here

    async def new_channel(self, prefix: str = "specific") -> str:
        """A channel name that nobody else has: ``specific.<process>!<socket>``."""
        self._check_fork()
        return await super().new_channel(prefix)

    def attach(self, channel: str) -> Box:
        """The mailbox of ``channel``; see ``LocalDelivery.attach``."""
        self._check_fork()
        self._service.ensure_running()
        return super().attach(channel)

    async def stream_subscribe(self, group: str, listener: Listener) -> None:
        """See ``BaseChannelLayer.stream_subscribe``."""
        self.require_valid_group_name(group)
        self._check_fork()
        self._service.ensure_running()
        try:
            await self._subscriptions.hear(
                group, lambda: self._listeners.add(group, listener)
            )
        except BaseException:
            self.stream_unsubscribe(group, listener)
            raise

    def stream_unsubscribe(self, group: str, listener: Listener) -> None:
        """See ``BaseChannelLayer.stream_unsubscribe``."""
        self._check_fork()
        super().stream_unsubscribe(group, listener)

    def _unheard(self, group: str) -> None:
        self._subscriptions.vacate(group)

    async def _join_here(self, group: str, channel: str) -> None:
        """Put a channel of this process into a group, and wait until that is heard."""

        def join() -> None:
            self._join(group, channel)
            self._announcements.note(group, channel, joined=True)

        try:
            await self._subscriptions.hear(group, join)
        except BaseException:
            self._leave(group, channel)
            raise

    def _left(self, group: str, channel: str, last: bool) -> None:
        # Said in any case: it may have been announced before it left and came back.
        self._announcements.note(group, channel, joined=False)
        if last:
            self._subscriptions.vacate(group)

    def _is_wanted(self, group: str) -> bool:
        return group in self.groups or group in self._listeners

    # The standing work

    def _prepare(self) -> None:
        self._streams.reset()
        if self._inbox_here not in self._streams:
            self._streams.add(
                self._inbox_here,
                self._broker(self._inbox_here),
                from_the_beginning=True,
            )

    async def _hear(self, index: int, still: Callable[[], bool]) -> None:
        """Hand what arrives to the mailboxes of this process."""
        broker = self._brokers[index]
        if self._index(self._inbox_here) == index:
            await broker.subscribe([self._inbox_here], [self._process])
        handled = 0
        async with contextlib.aclosing(broker.messages()) as batches:
            async for batch in batches:
                if not still():
                    return  # another loop has taken over
                for item in batch:
                    if isinstance(item, StreamMessage):
                        await self._streams.heard(item)
                    elif isinstance(item, QueueReady):
                        if item.queue == self._process:
                            self._lag = self._clock() - self._reported
                        else:
                            self._queues.wake(item.queue)
                    else:
                        self._streams.interrupted(broker)
                        self._announcements.doubt(index)
                        self._queues.wake_all()
                    handled += 1
                    if handled % _YIELD_EVERY == 0:
                        # A burst must not fill mailboxes whose readers are ready.
                        await asyncio.sleep(0)

    async def _tend(self, index: int) -> None:
        """Announce, renew and tidy up for one broker."""
        if index == 0:
            self._expire(self._clock())
            self._log_more_gaps()
        await self._announcements.make(index)
        await self._subscriptions.tidy(index)
        await self._subscriptions.check(index, self._listeners)
        await self._announcements.renew(index)
        if self._index(self._inbox_here) == index and self._clock() >= self._report_due:
            await self._report(self._brokers[index])

    async def _tidy_up(self) -> None:
        """What ``_tend`` does, once it is much, in a process that hears no broker."""
        untidy = self._subscriptions.vacated + self._announcements.pending
        if untidy > _UNTIDY and not self._service.serving:
            for index in range(len(self._brokers)):
                await self._announcements.make(index)
                await self._subscriptions.tidy(index)

    async def _report(self, broker: Broker) -> None:
        """Tell the broker how this process is."""
        begun = time.perf_counter()
        report = msgspec.json.encode(self.stats_here(_TOP))
        took = time.perf_counter() - begun
        self._reported = self._clock()
        self._report_due = self._reported + max(_REPORT, took * _REPORT_SHARE)
        await broker.memberships.report(self._process, report, lease=self._lease)
        self._round_trip = self._clock() - self._reported

    # What arrives

    async def _deliver(
        self, subject: str, data: bytes, age: float, position: Position
    ) -> None:
        try:
            message = self.deserialize(data)
            if subject == self._inbox_here:
                self._deliver_to_channel(message)
                return
            publication = None
            if subject in self._listeners or stream_records.is_record(message):
                publication = stream_records.of_stored(
                    position, message, time=time.time() - age
                )
                await self._tell(subject, self._listeners.put(subject, publication))
            if subject in self.groups:
                await self._deliver_to_group(subject, message, age, publication)
        except Exception:
            # Whatever one sender sent, the others' messages must go on arriving.
            logger.exception("a message to %s cannot be read and is dropped", subject)
            self._listeners.put(subject, None).start()

    async def _deliver_to_group(
        self, group: str, message: Any, age: float, publication: Publication | None
    ) -> None:
        deadline = self._clock() + self.expiry - age
        envelope = message.pop(ENVELOPE, None) if isinstance(message, dict) else None
        excluded: set[str] = set()
        if publication is not None and stream_records.RECORD in (envelope or ()):
            message = publication.as_event()
        elif envelope is not None:
            excluded.update(envelope["exclude"])
            # Who is in several of the groups gets it through the first of them.
            for each in envelope["groups"]:
                if each == group:
                    break
                excluded.update(box.name for box in self._hub.members(each))
            if envelope.get("ready"):
                message = PreparedMessage(message.get("text"), message.get("bytes"))
        await self._fan_out(group, message, deadline, excluded)

    def _deliver_to_channel(self, message: Message) -> None:
        channel = message.pop(TO)
        request = message.pop(ENVELOPE, None)
        if request == "join":
            if channel in self._mailboxes:
                self._service.start(self._join_here(message["group"], channel))
        elif request == "leave":
            self._leave(message["group"], channel)
        elif not self._put(channel, message):
            self._report_drop("(sent to the channel itself)", self._box(channel))

    def _report_gap(self, subject: str, missed: int | None) -> None:
        metrics.GAPS_LOST.add()
        now = self._clock()
        if now - self._gap_logged_at < 1.0:
            # A server that comes back empty is a gap in every group.
            self._gaps_not_logged += 1
        else:
            self._gap_logged_at = now
            logger.error(
                "messages to %s were lost: %s; the broker was away for longer than the "
                "layer's expiry, or has lost its memory",
                subject,
                "an unknown number" if missed is None else missed,
                extra={"reason": "messages_lost", "group": subject, "missed": missed},
            )
        self._listeners.put(subject, None).start()
        if subject != self._inbox_here:
            message = {"type": "layer.gap", "group": subject, "missed": missed}
            deadline = self._clock() + self.expiry
            for box in self._hub.members(subject):
                # Who reads with receive() waits for what the application sends.
                if box.attached:
                    box.push(message, deadline)

    def _log_more_gaps(self) -> None:
        more, self._gaps_not_logged = self._gaps_not_logged, 0
        if more:
            logger.error("messages to %d more groups or processes were lost", more)

    # Its end

    async def flush(self) -> None:
        """Forget all messages, groups and streams; for tests.

        Consumers keep their channels. Nobody listens to anything any more.
        """
        self._check_fork()
        self._forget_everything()
        heard = list(self._streams)
        for index, broker in enumerate(self._brokers):
            await broker.flush()
            await broker.unsubscribe([s for s in heard if self._index(s) == index])
        await self.close()
        with self._lock:
            self._announcements.clear()
            self._subscriptions.clear()
        if any(box.attached for box in list(self._mailboxes.values())):
            self._service.ensure_running()

    async def close(self) -> None:
        """Withdraw this process's memberships and close the running loop's connections.

        When another loop of this process hears the brokers, that goes on, and only the
        connections are closed. The layer may be used again afterwards.
        """
        self._check_fork()
        over = await self._service.stop()
        for index, broker in enumerate(self._brokers):
            if over:
                with contextlib.suppress(LayerUnavailable):
                    await self._announcements.withdraw(index)
            await broker.close()

    async def interrupt(self) -> None:
        """Break the running loop's connections, as a network would; for drills.

        Everything goes on by itself, and what is sent meanwhile is fetched.
        """
        for broker in self._brokers:
            await broker.drop_connections()

    @property
    def ready(self) -> bool:
        """Whether this process hears its brokers; see ``BaseChannelLayer.ready``.

        True as well while nothing in this process listens.
        """
        self._check_fork()
        return not self._service.serving or all(
            broker.is_connected for broker in self._brokers
        )

    def _check_fork(self) -> None:
        if os.getpid() == self._pid:
            return
        # A child of a fork is another process: nothing it inherited is its own, and
        # nothing of it may be finalized here; see ``redis_connections``.
        self._service.disown()
        _inherited.append(
            (
                self._service,
                self._streams,
                self._queues,
                self._subscriptions,
                self._announcements,
            )
        )
        self._pid = os.getpid()
        self._become_a_process()
        self._start_afresh()


# What belongs to the parent of this process, kept so that nothing of it is finalized.
_inherited: list[object] = []
