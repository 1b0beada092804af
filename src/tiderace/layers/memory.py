"""The channel layer within one process: mailboxes, groups and streams in memory.

The default for development and tests, and enough for a site that runs as one process.
It accepts exactly the messages that the layers between processes accept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from tiderace import metrics
from tiderace.delivery.loop_iterations import let_woken_tasks_run
from tiderace.delivery.outbox import PreparedMessage
from tiderace.delivery.stream_hub import Listener
from tiderace.exceptions import ChannelFull, RateExceeded
from tiderace.history import Position, Publication
from tiderace.layers import encoding
from tiderace.layers.base import (
    SENDING_METHODS,
    BaseChannelLayer,
    LocalDelivery,
)
from tiderace.layers.broker import GROUP_MAX_BYTES, KEY_TTL, Retention
from tiderace.layers.isolation import log_unreceived
from tiderace.layers.local import DropLog, LocalChannels
from tiderace.layers.memory_streams import MemoryStreams
from tiderace.layers.messages import (
    ChannelMailbox,
    Message,
    publication_of,
    require_dict,
    require_unreserved,
)
from tiderace.layers.options import refuse_unknown_options
from tiderace.layers.stats import LayerStats, ProcessStats
from tiderace.presence.memory import MemoryPresenceStore
from tiderace.presence.store import PresenceConfig
from tiderace.ratelimit import Buckets, Rate


class InMemoryChannelLayer(BaseChannelLayer, LocalDelivery):
    """A channel layer within this process.

    A group message is encoded and decoded once, and all members get the same object. A
    channel without a consumer leaves its groups when a message has waited in it for
    ``expiry`` seconds, as in Channels.

    Args:
        expiry: seconds a message waits for its reader.
        group_expiry: seconds a membership without a consumer lasts; one day.
        capacity: unread messages per channel.
        channel_capacity: capacities by glob pattern of the full channel name.
        group_max_bytes: characters of a group's publications that are kept.
        clock: seconds that never run backwards; for tests.

    Raises:
        TypeError: for any other option.
    """

    extensions = ["groups", "flush", "streams"]
    _direct_calls = SENDING_METHODS

    def __init__(
        self,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
        *,
        group_max_bytes: int = GROUP_MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
        **unknown: Any,
    ) -> None:
        refuse_unknown_options(self, unknown)
        super().__init__(expiry, capacity)
        self.channel_capacity = self.compile_capacities(channel_capacity or {})
        self.group_expiry = group_expiry
        self.presence = MemoryPresenceStore(PresenceConfig.from_settings(), clock=clock)
        self._clock = clock
        self._local = LocalChannels(
            expiry=expiry,
            group_expiry=group_expiry,
            capacity_of=self.get_capacity,
            clock=clock,
            drop_log=DropLog(),
            leave_when_unread=True,
        )
        self._buckets = Buckets(clock=clock)
        self._streams = MemoryStreams(expiry, group_max_bytes)

    # Channels

    @property
    def channels(self) -> dict[str, ChannelMailbox]:
        """The channels with unread messages, a waiting reader or a consumer, by name."""
        return self._local.channels

    async def new_channel(self, prefix: str = "specific.") -> str:
        return self._local.new_name(prefix)

    def attach(self, channel: str) -> ChannelMailbox:
        return self._local.attach(channel)

    async def detach(self, mailbox: ChannelMailbox) -> None:
        self._local.detach(mailbox)

    async def send(self, channel: str, message: Message) -> None:
        require_dict(message)
        require_unreserved(message)
        self.require_valid_channel_name(channel)
        copy = encoding.decode(encoding.encode(message))
        self._expire()
        metrics.MESSAGES_SENT.add()
        if not self._local.put(channel, copy):
            raise ChannelFull(channel)
        await let_woken_tasks_run()

    async def receive(self, channel: str | list[str]) -> Message:
        """Wait for the next message of ``channel``, without a limit.

        A list of one name stands for that name.
        """
        name = self._single_channel(channel)
        self._expire()
        return await self._local.read(name)

    # Groups

    @property
    def groups(self) -> dict[str, dict[str, ChannelMailbox]]:
        """The groups and their members by channel name."""
        return self._local.hub.groups

    async def group_add(self, group: str, channel: str) -> None:
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        self._local.join(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        self.require_valid_channel_name(channel)
        self.require_valid_group_name(group)
        self._local.leave(group, channel)

    async def group_channels(self, group: str) -> list[str]:
        """Return the channels in ``group``, in the order in which they joined."""
        self.require_valid_group_name(group)
        self._expire()
        return [mailbox.name for mailbox in self._local.hub.members(group)]

    async def group_count(self, group: str) -> int:
        """Return how many channels are in ``group``."""
        return len(await self.group_channels(group))

    async def group_send(
        self,
        group: str | Collection[str],
        message: Message,
        *,
        exclude: Collection[str] = (),
    ) -> None:
        require_dict(message)
        require_unreserved(message)
        groups = self._group_names(group)
        # Encoded even for an empty group: a message that cannot be sent must not pass
        # in the test where the group happens to be empty.
        copy = encoding.decode(encoding.encode(message))
        await self._send_to(groups, copy, exclude)
        if self._local.is_unused():
            log_unreceived(f"a message to the group {group!r}")

    async def group_broadcast(
        self,
        group: str | Collection[str],
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        *,
        exclude: Collection[str] = (),
    ) -> None:
        await self._send_to(
            self._group_names(group), PreparedMessage(text_data, bytes_data), exclude
        )

    async def _send_to(
        self,
        groups: list[str],
        message: Message | PreparedMessage,
        exclude: Collection[str],
    ) -> None:
        deadline = self._expire() + self.expiry
        metrics.MESSAGES_SENT.add()
        seen = self._channel_names(exclude)
        for name in groups:
            # Read before the fan-out: a channel that joins this group meanwhile
            # does not count as reached.
            members = (
                [mailbox.name for mailbox in self._local.hub.members(name)]
                if groups[1:]
                else ()
            )
            if self._streams.get(name) is not None:
                await self._append_message(name, message)
            await self._local.fan_out(name, message, deadline, seen)
            seen.update(members)

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
        self.require_valid_group_name(group)
        record = _copied(record)
        if limit is not None and (wait := self._buckets.take_token(*limit)):
            raise RateExceeded(wait)
        now = self._expire()
        metrics.MESSAGES_SENT.add()
        with self._streams.lock:
            if key:
                first = self._streams.find_published(group, key, now)
                if first is not None:
                    return first
            stream = self._streams.get_or_create(group, now)
            stream.keep = keep
            publication = stream.append(Publication.of_record, record, now)
            delivery = self._local.listeners.put(group, publication)
            if key:
                self._streams.remember(group, key, publication.position, now, key_ttl)
        if not await delivery.finish():
            self._local.listeners.discard_closed(group)
        if group in self._local.hub.groups:
            deadline = now + self.expiry
            await self._local.fan_out(group, publication.as_event(), deadline)
        if self._local.is_unused():
            log_unreceived(f"a publication to {record.get('topic', group)!r}")
        return publication.position

    async def _append_message(
        self, group: str, message: Message | PreparedMessage
    ) -> None:
        """Append a group message to the group's stream and deliver it to the listeners."""
        now = self._clock()
        with self._streams.lock:
            make = partial(publication_of, time=time.time())
            stream = self._streams.get_or_create(group, now)
            publication = stream.append(make, message, now)
            delivery = self._local.listeners.put(group, publication)
        if not await delivery.finish():
            self._local.listeners.discard_closed(group)

    async def stream_find_published(self, group: str, key: str) -> Position | None:
        self.require_valid_group_name(group)
        with self._streams.lock:
            return self._streams.find_published(group, key, self._clock())

    async def stream_expire_keys(self, group: str, keys: Sequence[str]) -> None:
        self.require_valid_group_name(group)
        with self._streams.lock:
            self._streams.expire_keys(group, keys, self._clock())

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
        now = self._expire()
        with self._streams.lock:
            stream = self._streams.get_or_create(group, now)
            stream.keep = stream.keep or keep
            return stream.position, stream.read(
                keep, since, limit, now, reverse=reverse
            )

    async def stream_delete(self, group: str) -> None:
        self.require_valid_group_name(group)
        with self._streams.lock:
            stream = self._streams.get(group)
            if stream is not None:
                stream.clear()

    async def stream_subscribe(self, group: str, listener: Listener) -> None:
        self.require_valid_group_name(group)
        with self._streams.lock:
            self._streams.get_or_create(group, self._clock())
            self._local.listeners.add(group, listener)

    def stream_unsubscribe(self, group: str, listener: Listener) -> None:
        self._local.listeners.discard(group, listener)

    async def take_token(self, key: str, rate: Rate) -> float:
        return self._buckets.take_token(key, rate)

    # The layer as a whole

    async def stats(self, *, fleet: bool = False, top: int = 10) -> LayerStats:
        return LayerStats((self.stats_here(top),))

    def stats_here(self, top: int = 10) -> ProcessStats:
        """Return the numbers of this process, for code that cannot await."""
        return self._local.stats(top=top)

    async def flush(self) -> None:
        """Remove all messages, groups, streams and listeners, and all presence.

        Consumers keep their channels.
        """
        self._local.clear()
        self.presence.flush()
        self._buckets.clear()
        self._streams.clear()

    async def close(self) -> None:
        """Do nothing: there is no connection."""

    def _expire(self) -> float:
        """Drop what has expired; return the time by the layer's clock."""
        now = self._clock()
        self._local.expire(now)
        self._streams.expire(now, self._local.listeners.__contains__)
        return now


def _copied(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a record as it arrives, which later changes of the sender do not change.

    Raises:
        TypeError: for a value that cannot be encoded, with its place in the record.
    """
    for value in record.values():
        kind = type(value)
        # Encoding does not change these, and a publication has no reference to the rest.
        if kind is not float and (kind is not str or not value.isascii()):
            copy: Mapping[str, Any] = encoding.decode(encoding.encode(dict(record)))
            return copy
    return record
