"""The layer between processes, written once over a broker and the process's own hub.

Each process hears the groups that have a member in it. A publication carries its
offset, so a process knows when it has missed some and fetches them before it goes on.
Here is what is sent and asked; how it is heard is in ``tiderace.layers.pubsub.receiver``. It
knows no technology, only the broker's verbs, and no consumer.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from tiderace import metrics
from tiderace.delivery.outbox import PreparedMessage
from tiderace.exceptions import ChannelFull
from tiderace.history import Position, Publication
from tiderace.layers import stream_records
from tiderace.layers.base import Message
from tiderace.layers.broker import Retention
from tiderace.layers.local import ENVELOPE, TO
from tiderace.layers.pubsub.receiver import HearingLayer
from tiderace.layers.stats import LayerStats, ProcessStats
from tiderace.presence.store import PresenceStore, ShardedPresence
from tiderace.ratelimit import Rate

__all__ = ["PubSubLayer"]

logger = logging.getLogger("tiderace.layers")


class _Place(NamedTuple):
    """Where a specific channel lives."""

    process: str
    ours: bool


class PubSubLayer(HearingLayer):
    """A channel layer between processes; see also ``LocalChannelLayer``.

    Guaranteed, besides ``BaseChannelLayer``: all members of a group, wherever they
    are, get its messages in one order; what was sent while a process was cut off from
    the broker, for less than ``expiry`` seconds and ``group_capacity`` messages, is
    delivered when it is back; what could not be delivered is told to the members by
    ``{"type": "layer.gap", "group": ...}``, which a consumer may handle. A named queue
    keeps a message until a reader has it or it expires: at least once, when a reader
    dies between taking and confirming it.

    Args:
        brokers: one or more; groups and queues are spread over them by name.
        expiry, group_expiry, capacity, channel_capacity: see ``LocalChannelLayer``.
        group_capacity: messages of a group kept for processes that are cut off.
        lease: seconds after which a process that died no longer counts.
        clock: seconds that never run backwards; for tests.
    """

    # Channels

    async def send(self, channel: str, message: Message) -> None:
        """Put ``message`` into ``channel``.

        Raises:
            TypeError: for an illegal name or a message that cannot be encoded.
            ChannelFull: when a named queue, or a channel of this process, is at its
                capacity. A channel of another process that is full drops the message
                there, counted and logged.
            LayerUnavailable: when the broker could not be reached in time.
        """
        self._require_sendable(message)
        self.require_valid_channel_name(channel)
        self._check_fork()
        metrics.MESSAGES_SENT.add()
        place = self._place(channel)
        if place is None:
            await self._queues.push(channel, self.serialize(message))
        elif place.ours:
            # Through bytes all the same: no sender keeps a hand on what was sent.
            copy = self.deserialize(self.serialize(message))
            self._expire(self._clock())
            if not self._put(channel, copy):
                raise ChannelFull(channel)
        else:
            await self._to_process(place.process, {**message, TO: channel})

    async def receive(self, channel: str | list[str]) -> Message:
        """The next message of ``channel``; waits for one, without a limit.

        Raises:
            AssertionError: for a channel of another process or layer object.
        """
        name = self._one_channel(channel)
        self._check_fork()
        place = self._place(name)
        if place is None:
            message: Message = self.deserialize(await self._queues.take(name))
            return message
        if not place.ours:
            raise AssertionError(
                f"Wrong client prefix: channel {name} belongs to another process or "
                "layer; read channels where new_channel() made them"
            )
        self._service.ensure_running()
        return await self._read(name)

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Put ``channel`` into ``group``; again is the same as once.

        A message sent to the group after this has returned reaches the channel.

        Raises:
            LayerUnavailable: when the broker could not be reached in time.
        """
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        self._check_fork()
        place = self._place(channel)
        if place is None:
            await self._broker(group).memberships.join(
                group, channel, seconds=self.group_expiry
            )
        elif place.ours:
            await self._join_here(group, channel)
        else:
            await self._to_process(
                place.process, {ENVELOPE: "join", "group": group, TO: channel}
            )

    async def group_discard(self, group: str, channel: str) -> None:
        """Take ``channel`` out of ``group``, if it is in it."""
        self.require_valid_channel_name(channel)
        self.require_valid_group_name(group)
        self._check_fork()
        place = self._place(channel)
        if place is None:
            await self._broker(group).memberships.leave(group, channel)
        elif place.ours:
            self._leave(group, channel)
            await self._tidy_up()
        else:
            await self._to_process(
                place.process, {ENVELOPE: "leave", "group": group, TO: channel}
            )

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
            TypeError: for an illegal name or a message that cannot be encoded.
            LayerUnavailable: when the broker could not be reached in time.
        """
        self._require_sendable(message)
        groups = self._groups(group)
        excluded = self._names(exclude)
        if excluded or len(groups) > 1:
            data = self.serialize(
                {**message, ENVELOPE: {"groups": groups, "exclude": list(excluded)}}
            )
        else:
            data = self.serialize(message)
        queues = await self._publish(groups, data)
        if queues:
            await self._send_to_queues(
                [queue for queue in queues if queue not in excluded], groups, message
            )

    async def group_broadcast(
        self,
        group: str | Collection[str],
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        *,
        exclude: Collection[str] = (),
    ) -> None:
        """See ``BaseChannelLayer.group_broadcast``; it returns like ``group_send``.

        Raises:
            LayerUnavailable: when the broker could not be reached in time.
        """
        groups = self._groups(group)
        ready = PreparedMessage(text_data, bytes_data).event
        envelope = {
            "groups": groups,
            "exclude": list(self._names(exclude)),
            "ready": True,
        }
        await self._publish(groups, self.serialize({**ready, ENVELOPE: envelope}))

    async def _publish(self, groups: Collection[str], data: bytes) -> Collection[str]:
        """Publish to every one of ``groups``; the named queues that are in them."""
        self._check_fork()
        metrics.MESSAGES_SENT.add()
        queues: dict[str, None] = {}
        for name in groups:
            begun = time.perf_counter()
            published = await self._broker(name).streams.publish(
                name, data, keep=self._keep, members_age=self.group_expiry
            )
            self._published_in(time.perf_counter() - begun)
            queues.update(dict.fromkeys(published.members))
        return queues

    def _published_in(self, seconds: float) -> None:
        self._round_trip = seconds
        metrics.PUBLISH_DURATION.observe(seconds)

    async def group_channels(self, group: str) -> list[str]:
        """The channels in ``group``, of all processes, in no order.

        Those that joined in the last quarter of a second in other processes may be
        missing, and those of a process that was killed stay until its lease ends.
        """
        self.require_valid_group_name(group)
        self._check_fork()
        await self._announcements.make(self._index(group))
        return await self._broker(group).memberships.members(group)

    async def group_count(self, group: str) -> int:
        """How many channels are in ``group``; as exact as ``group_channels``."""
        self.require_valid_group_name(group)
        self._check_fork()
        await self._announcements.make(self._index(group))
        return await self._broker(group).memberships.count(group)

    # Streams

    async def stream_publish(
        self, group: str, record: Mapping[str, Any], *, keep: Retention, key: str = ""
    ) -> Position:
        """See ``BaseChannelLayer.stream_publish``; it returns like ``group_send``."""
        self.require_valid_group_name(group)
        data = self.serialize(stream_records.stored(record))
        self._check_fork()
        metrics.MESSAGES_SENT.add()
        begun = time.perf_counter()
        published = await self._broker(group).streams.publish(
            group,
            data,
            keep=self._keep,
            members_age=self.group_expiry,
            history=keep,
            key=key,
        )
        self._published_in(time.perf_counter() - begun)
        if published.members:
            publication = Publication.of_record(published.position, record)
            await self._send_to_queues(
                published.members, [group], publication.as_event()
            )
        return published.position

    async def stream_find_published(self, group: str, key: str) -> Position | None:
        """See ``BaseChannelLayer.stream_find_published``."""
        self.require_valid_group_name(group)
        self._check_fork()
        return await self._broker(group).streams.find_published(group, key)

    async def take_token(self, key: str, rate: Rate) -> float:
        """See ``BaseChannelLayer.take_token``."""
        self._check_fork()
        return await self._broker(key).take_token(key, rate)

    async def stream_read(
        self,
        group: str,
        *,
        keep: Retention,
        since: Position | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> tuple[Position, list[Publication]]:
        """See ``BaseChannelLayer.stream_read``."""
        self.require_valid_group_name(group)
        self._check_fork()
        top, entries = await self._broker(group).streams.read(
            group,
            history=keep,
            keep=self._keep,
            since=since,
            limit=limit,
            reverse=reverse,
        )
        found = []
        now = time.time()
        for entry in entries:
            position = Position(top.epoch, entry.offset)
            try:
                found.append(
                    stream_records.of_stored(
                        position, self.deserialize(entry.data), time=now - entry.age
                    )
                )
            except Exception:
                # Who asked what was missed sees that this one is.
                logger.exception("a message to %s cannot be read", group)
        return top, found

    async def stream_delete(self, group: str) -> None:
        """See ``BaseChannelLayer.stream_delete``."""
        self.require_valid_group_name(group)
        self._check_fork()
        await self._broker(group).streams.delete_history(group)

    # Asking

    async def stats(self, *, fleet: bool = False, top: int = 10) -> LayerStats:
        """See ``BaseChannelLayer.stats``."""
        self._check_fork()
        here = self.stats_here(top)
        if not fleet:
            return LayerStats((here,))
        processes = {}
        for broker in self._brokers:
            for data in await broker.memberships.reports():
                with contextlib.suppress(msgspec.DecodeError):  # of another release
                    report = msgspec.json.decode(data, type=ProcessStats)
                    processes[report.process] = report
        if self._service.serving:
            # What it knows of itself is newer than what it has told.
            processes[self._process] = here
        order = sorted(processes.values(), key=lambda each: (each.host, each.started))
        return LayerStats(tuple(order))

    @cached_property
    def presence(self) -> PresenceStore:
        """Who is present in which group, fleet-wide."""
        return ShardedPresence(
            [broker.presence for broker in self._brokers], self._index
        )

    # Sending

    def _place(self, channel: str) -> _Place | None:
        """Where a channel lives; None for a named queue, which lives in the broker."""
        head, mark, _ = channel.partition("!")
        if not mark:
            return None
        process = head.rpartition(".")[2]
        return _Place(process, process == self._process)

    async def _to_process(self, process: str, message: Message) -> None:
        inbox = self._inbox(process)
        await self._broker(inbox).streams.publish(
            inbox, self.serialize(message), keep=self._keep, members_age=0
        )

    async def _send_to_queues(
        self, queues: Collection[str], groups: Collection[str], message: Message
    ) -> None:
        full = await self._queues.push_to_each(queues, self.serialize(message))
        if full:
            metrics.MESSAGES_DROPPED_FULL.add(full)
            self._log_full_queues(full, len(queues), groups)

    def _log_full_queues(self, full: int, of: int, groups: Collection[str]) -> None:
        logger.warning(
            "%d of %d named channels in %s are full and did not get a message; start "
            "more workers, or raise the layer's capacity",
            full,
            of,
            ", ".join(groups),
            extra={"reason": "channel_full", "dropped": full},
        )
