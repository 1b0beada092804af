"""The channel layer between processes.

Each process reads the streams of the groups that have a channel or listener in it, and
its own inbox, through which other processes reach its channels. A message carries its
offset, so that a process detects missed messages and fetches them first.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

from tiderace import metrics
from tiderace.delivery.loop_iterations import let_woken_tasks_run
from tiderace.delivery.outbox import PreparedMessage
from tiderace.delivery.stream_hub import Listener
from tiderace.exceptions import ChannelFull, LayerUnavailable
from tiderace.history import Position, Publication
from tiderace.layers.base import SENDING_METHODS, BaseChannelLayer, LocalDelivery
from tiderace.layers.broker import KEY_TTL, Broker, Retention
from tiderace.layers.local import DropLog, LocalChannels
from tiderace.layers.messages import (
    ChannelMailbox,
    Message,
    Serializer,
    require_dict,
    require_unreserved,
)
from tiderace.layers.pubsub import envelope
from tiderace.layers.pubsub.brokers import Brokers
from tiderace.layers.pubsub.cursors import StreamCursors
from tiderace.layers.pubsub.delivery import GroupDelivery, LossLog
from tiderace.layers.pubsub.inbox import ProcessInbox, inbox_name
from tiderace.layers.pubsub.loop_tasks import LoopTasks
from tiderace.layers.pubsub.memberships import Memberships
from tiderace.layers.pubsub.publisher import Publisher
from tiderace.layers.pubsub.pump import Pump
from tiderace.layers.pubsub.queues import Queues
from tiderace.layers.pubsub.reporter import Reporter, read_reports
from tiderace.layers.pubsub.subscriptions import GroupSubscriptions
from tiderace.layers.serializers import reading_history
from tiderace.layers.stats import LayerStats, ProcessStats
from tiderace.presence.store import PresenceStore, ShardedPresence
from tiderace.ratelimit import Rate
from tiderace.runtime.forks import after_fork, keep_alive


class PubSubLayer(BaseChannelLayer, LocalDelivery):
    """A channel layer between processes.

    Guaranteed, besides ``BaseChannelLayer``: all members of a group, in all processes,
    get its messages in one order; messages sent while a process was disconnected from
    the broker, for less than ``expiry`` seconds and ``group_capacity`` messages, are
    delivered when it has reconnected; for messages that could not be delivered the members get
    ``{"type": "layer.gap", "group": ...}``, which a consumer may handle, and for messages
    to channels all consumers of the process, with None as the group. A named queue
    keeps a message until a reader has it or it expires: at least once, when a reader
    dies between taking and acknowledging it.

    Args:
        brokers: one or more; groups and queues are spread over them by name.
        index_of: returns the number of the broker that serves a name.
        serializer: turns messages into bytes and back.
        keep: what is kept of each group for processes that are disconnected; its
            seconds are those a message waits for its reader.
        group_expiry: seconds a membership without a consumer lasts.
        capacity: unread messages per channel.
        channel_capacity: capacities by glob pattern of the full channel name.
        lease: seconds after which a process that died no longer counts.
        drop_log: logs messages to full channels.
        clock: seconds that never run backwards; for tests.
    """

    extensions = ["groups", "flush", "streams"]
    _direct_calls = SENDING_METHODS

    after_reconnect: Callable[[], object] | None = None
    """Called, in any event loop, when a broker is connected again after a loss."""

    def __init__(
        self,
        brokers: Sequence[Broker],
        *,
        index_of: Callable[[str], int],
        serializer: Serializer,
        keep: Retention,
        group_expiry: float,
        capacity: int,
        channel_capacity: Mapping[Any, int] | None,
        lease: float,
        drop_log: DropLog,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(keep.seconds, capacity)
        self.channel_capacity = self.compile_capacities(channel_capacity or {})
        self.group_expiry = group_expiry
        self._serializer = serializer
        # Serializers that are registered by others may be of any format.
        self._carries_bytes = getattr(serializer, "carries_bytes", False)
        self._keep = keep
        self._lease = lease
        self._drop_log = drop_log
        self._clock = clock
        self._brokers = Brokers(brokers, index_of)
        self._start()
        after_fork(self._start_in_child)

    def _start(self) -> None:
        """Create the parts of the layer, under a new process name."""
        clock, brokers = self._clock, self._brokers
        local = self._local = LocalChannels(
            expiry=self.expiry,
            group_expiry=self.group_expiry,
            capacity_of=self.get_capacity,
            clock=clock,
            drop_log=self._drop_log,
        )
        tasks = LoopTasks()
        loss_log = self._loss_log = LossLog(clock)
        self._cursors = StreamCursors(
            expiry=self.expiry, max_buffered=self._keep.size, clock=clock, tasks=tasks
        )
        self._queues = Queues(
            brokers, capacity_of=self.get_capacity, expiry=self.expiry
        )
        self._memberships = Memberships(brokers, local, lease=self._lease)
        self._subscriptions = GroupSubscriptions(
            brokers,
            local,
            delivery=GroupDelivery(
                local, deserialize=self.deserialize, loss_log=loss_log
            ),
            cursors=self._cursors,
            queues=self._queues,
            memberships=self._memberships,
        )
        self._reporter = Reporter(local, lease=self._lease)
        self._publisher = Publisher(
            brokers,
            self._cursors,
            self._queues,
            self._reporter,
            keep=self._keep,
            members_age=self.group_expiry,
            drop_log=self._drop_log,
        )
        inbox = ProcessInbox(
            local,
            self._subscriptions,
            deserialize=self.deserialize,
            loss_log=loss_log,
            tasks=tasks,
        )
        self._pump = Pump(
            brokers,
            self._subscriptions,
            inbox,
            reporter=self._reporter,
            loss_log=loss_log,
            tasks=tasks,
            on_reconnect=self._reconnected,
        )

    def _reconnected(self) -> None:
        if self.after_reconnect is not None:
            self.after_reconnect()

    def _start_in_child(self) -> None:
        self._pump.disown()
        keep_alive(self._pump)
        self._start()

    def serialize(self, message: Any) -> bytes:
        """Return ``message`` as bytes; may be overridden together with ``deserialize``."""
        return self._serializer.serialize(message)

    def deserialize(self, message: bytes) -> Any:
        """Return the message that was serialized."""
        return self._serializer.deserialize(message)

    def _require_message(self, message: object) -> None:
        """Raise AssertionError for a message that must not be sent."""
        require_dict(message)
        require_unreserved(message)

    # Channels

    @property
    def channels(self) -> dict[str, ChannelMailbox]:
        """The channels of this process with unread messages, a reader or a consumer."""
        return self._local.channels

    async def new_channel(self, prefix: str = "specific") -> str:
        return self._local.new_name(prefix)

    def attach(self, channel: str) -> ChannelMailbox:
        self._pump.ensure_running()
        return self._local.attach(channel)

    async def detach(self, mailbox: ChannelMailbox) -> None:
        self._subscriptions.detach(mailbox)

    async def send(self, channel: str, message: Message) -> None:
        """Put ``message`` into ``channel``.

        Raises:
            ChannelFull: when a named queue, or a channel of this process, is at its
                capacity. A channel of another process that is full drops the message
                there, counted and logged.
            LayerUnavailable: when the broker could not be reached in time.
        """
        self._require_message(message)
        self.require_valid_channel_name(channel)
        metrics.MESSAGES_SENT.add()
        process = _process_of(channel)
        if process is None:
            await self._queues.push(channel, self.serialize(message))
        elif process == self._local.process:
            # Encoded and decoded all the same: the sender may change its object later.
            copy = self.deserialize(self.serialize(message))
            self._subscriptions.expire()
            if not self._local.put(channel, copy):
                raise ChannelFull(channel)
            await let_woken_tasks_run()
        else:
            data = self.serialize(envelope.wrap_for_channel(message, channel))
            await self._publisher.send_to_process(process, data)

    async def receive(self, channel: str | list[str]) -> Message:
        """Wait for the next message of ``channel``, without a limit.

        Raises:
            AssertionError: for a channel of another process or layer object.
        """
        name = self._single_channel(channel)
        process = _process_of(name)
        if process is None:
            data = await self._queues.take(name)
            if data is None:
                self._pump.ensure_running()
                data = await self._queues.wait(name)
            message: Message = self.deserialize(data)
            return message
        if process != self._local.process:
            raise AssertionError(
                f"Wrong client prefix: channel {name} belongs to another process or "
                "layer; read channels where new_channel() made them"
            )
        self._pump.ensure_running()
        self._subscriptions.expire()
        return await self._local.read(name)

    # Groups

    @property
    def groups(self) -> dict[str, dict[str, ChannelMailbox]]:
        """The groups with a member in this process, and these by channel name."""
        return self._local.hub.groups

    async def group_add(self, group: str, channel: str) -> None:
        """Put ``channel`` into ``group``, if it is not in it.

        Raises:
            LayerUnavailable: when the broker could not be reached in time.
        """
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        process = _process_of(channel)
        if process is None:
            broker = self._brokers.broker_of(group)
            await broker.memberships.join(group, channel, seconds=self.group_expiry)
        elif process == self._local.process:
            await self._subscriptions.join(group, channel)
        else:
            request = envelope.group_request("join", group, channel)
            await self._publisher.send_to_process(process, self.serialize(request))

    async def group_discard(self, group: str, channel: str) -> None:
        self.require_valid_channel_name(channel)
        self.require_valid_group_name(group)
        process = _process_of(channel)
        if process is None:
            await self._brokers.broker_of(group).memberships.leave(group, channel)
        elif process == self._local.process:
            self._subscriptions.leave(group, channel)
            await self._pump.clean_up_if_stopped()
        else:
            request = envelope.group_request("leave", group, channel)
            await self._publisher.send_to_process(process, self.serialize(request))

    async def group_channels(self, group: str) -> list[str]:
        """Return the channels in ``group``, of all processes, in no order.

        Those that joined in the last quarter of a second in other processes may be
        missing, and those of a process that was killed stay until its lease ends.
        """
        self.require_valid_group_name(group)
        await self._memberships.announce(self._brokers.index_of(group))
        return await self._brokers.broker_of(group).memberships.members(group)

    async def group_count(self, group: str) -> int:
        """Return how many channels are in ``group``; as exact as ``group_channels``."""
        self.require_valid_group_name(group)
        await self._memberships.announce(self._brokers.index_of(group))
        return await self._brokers.broker_of(group).memberships.count(group)

    async def group_send(
        self,
        group: str | Collection[str],
        message: Message,
        *,
        exclude: Collection[str] = (),
    ) -> None:
        """Put ``message`` into every channel of ``group``; see ``BaseChannelLayer``.

        It returns when the broker has the message, not when the members do.

        Raises:
            LayerUnavailable: when the broker could not be reached in time.
        """
        self._require_message(message)
        groups = self._group_names(group)
        excluded = self._channel_names(exclude)
        if excluded or len(groups) > 1:
            data = self.serialize(envelope.wrap_for_groups(message, groups, excluded))
        else:
            data = self.serialize(message)
        metrics.MESSAGES_SENT.add()
        queues: list[str] = []
        for name in groups:
            queues += (await self._publisher.publish(name, data)).members
        if queues:
            queues = [each for each in dict.fromkeys(queues) if each not in excluded]
            await self._publisher.send_to_queues(
                queues, groups, self.serialize(message)
            )

    async def group_broadcast(
        self,
        group: str | Collection[str],
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        *,
        exclude: Collection[str] = (),
    ) -> None:
        """Send one WebSocket message to every client; see ``BaseChannelLayer``.

        It returns and raises like ``group_send``.
        """
        groups = self._group_names(group)
        message = envelope.wrap_broadcast(
            PreparedMessage(text_data, bytes_data), groups, self._channel_names(exclude)
        )
        metrics.MESSAGES_SENT.add()
        data = self.serialize(message)
        for name in groups:
            await self._publisher.publish(name, data)

    # Streams

    async def stream_publish(
        self,
        group: str,
        record: Mapping[str, Any],
        *,
        keep: Retention,
        key: str = "",
        key_ttl: float = KEY_TTL,
        limit: tuple[str, Rate] | None = None,
    ) -> Position:
        """Append a publication to the group's stream, like ``group_send``."""
        self.require_valid_group_name(group)
        data = self.serialize(
            envelope.wrap_record(record, carries_bytes=self._carries_bytes)
        )
        metrics.MESSAGES_SENT.add()
        published = await self._publisher.publish(
            group, data, keep, key, key_ttl, limit
        )
        if published.members:
            publication = Publication.of_record(published.position, record)
            data = self.serialize(publication.as_event())
            await self._publisher.send_to_queues(published.members, [group], data)
        return published.position

    async def stream_find_published(self, group: str, key: str) -> Position | None:
        self.require_valid_group_name(group)
        return await self._brokers.broker_of(group).streams.find_published(group, key)

    async def stream_expire_keys(self, group: str, keys: Sequence[str]) -> None:
        self.require_valid_group_name(group)
        await self._brokers.broker_of(group).streams.expire_keys(group, keys)

    async def stream_read(
        self,
        group: str,
        *,
        keep: Retention,
        since: Position | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> tuple[Position, list[Publication]]:
        self.require_valid_group_name(group)
        top, messages = await self._brokers.broker_of(group).streams.read(
            group,
            history=keep,
            keep=self._keep,
            since=since,
            limit=limit,
            reverse=reverse,
        )
        found = []
        with reading_history(keep.seconds):
            for each in messages:
                try:
                    message = self.deserialize(each.data)
                    found.append(envelope.publication_from(each, message))
                except Exception as error:
                    # A reader detects by the offsets that this one is missing.
                    self._loss_log.unreadable(group, error)
        return top, found

    async def stream_delete(self, group: str) -> None:
        self.require_valid_group_name(group)
        await self._brokers.broker_of(group).streams.delete_history(group)

    async def stream_subscribe(self, group: str, listener: Listener) -> None:
        self.require_valid_group_name(group)
        self._pump.ensure_running()
        await self._subscriptions.add_listener(group, listener)

    def stream_unsubscribe(self, group: str, listener: Listener) -> None:
        self._subscriptions.discard_listener(group, listener)

    async def take_token(self, key: str, rate: Rate) -> float:
        return await self._brokers.broker_of(key).take_token(key, rate)

    @cached_property
    def presence(self) -> PresenceStore:
        """The presence in groups, of all processes."""
        return ShardedPresence(
            [broker.presence for broker in self._brokers], self._brokers.index_of
        )

    # The layer as a whole

    @property
    def ready(self) -> bool:
        return self._pump.is_ready

    async def stats(self, *, fleet: bool = False, top: int = 10) -> LayerStats:
        here = self.stats_here(top)
        if not fleet:
            return LayerStats((here,))
        processes = await read_reports(self._brokers)
        if self._pump.is_running:
            # Newer than its report.
            processes[here.process] = here
        order = sorted(processes.values(), key=lambda each: (each.host, each.started))
        return LayerStats(tuple(order))

    def stats_here(self, top: int = 10) -> ProcessStats:
        """Return the numbers of this process, for code that cannot await."""
        return self._reporter.stats(ready=self.ready, top=top)

    async def flush(self) -> None:
        """Remove all messages, groups, streams and listeners; for tests.

        Consumers keep their channels.
        """
        self._local.clear()
        subjects = list(self._cursors)
        for index, broker in enumerate(self._brokers):
            await broker.flush()
            await broker.unsubscribe(self._brokers.select(index, subjects))
        await self.close()
        self._subscriptions.clear()
        if any(mailbox.attached for mailbox in self.channels.values()):
            self._pump.ensure_running()

    async def close(self) -> None:
        """Withdraw this process's memberships and close the running loop's connections.

        When another loop of this process receives, that goes on, and only the
        connections are closed. The layer may be used again afterwards.
        """
        has_stopped = await self._pump.stop()
        await self._queues.finish_returns()
        for index, broker in enumerate(self._brokers):
            if has_stopped:
                with contextlib.suppress(LayerUnavailable):
                    await self._memberships.withdraw(index)
            await broker.close()

    async def report(self) -> None:
        """Send the statistics of this process now, and not within two seconds.

        Raises:
            LayerUnavailable: when the broker could not be reached in time.
        """
        broker = self._brokers.broker_of(inbox_name(self._local.process))
        await self._reporter.report(broker, ready=self.ready)

    async def interrupt(self) -> None:
        """Break the running loop's connections, as a network would; for drills.

        They are opened again, and messages sent meanwhile are fetched.
        """
        for broker in self._brokers:
            await broker.drop_connections()


def _process_of(channel: str) -> str | None:
    """Return the process of a channel; None for a named queue, kept by the broker."""
    head, mark, _ = channel.partition("!")
    return head.rpartition(".")[2] if mark else None
