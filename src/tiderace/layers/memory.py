"""The layer for one process: mailboxes and groups in memory, no broker.

The default for development and tests, and right for a site that runs as one process.
It takes exactly the messages that the layers between processes take. It knows no
consumer; other processes cannot see it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from tiderace import metrics
from tiderace.delivery.outbox import PreparedMessage
from tiderace.delivery.stream_hub import Listener
from tiderace.exceptions import ChannelFull
from tiderace.history import Position, Publication
from tiderace.layers import encoding, stream_records
from tiderace.layers.base import Message
from tiderace.layers.broker import Retention
from tiderace.layers.local import Box, LocalChannelLayer, refuse_unknown
from tiderace.layers.memory_streams import MemoryStreams
from tiderace.presence.memory import MemoryPresenceStore
from tiderace.presence.store import PresenceConfig
from tiderace.ratelimit import Buckets, Rate

__all__ = ["InMemoryChannelLayer"]


class InMemoryChannelLayer(LocalChannelLayer):
    """A channel layer inside this process; see also ``LocalChannelLayer``.

    A group message is encoded and decoded once and handed to all members as the same
    object. A channel without a consumer of ours also loses its memberships when a
    message has waited in it for ``expiry`` seconds, since nobody seems to read it.

    Args:
        expiry: seconds a message waits for its reader.
        group_expiry: seconds a membership without a consumer lasts; one day.
        capacity: unread messages per channel.
        channel_capacity: capacities by glob pattern of the full channel name.
        clock: seconds that never run backwards; for tests.

    Raises:
        TypeError: for any other option.
    """

    def __init__(
        self,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        **unknown: Any,
    ) -> None:
        refuse_unknown(
            type(self).__name__,
            unknown,
            ("expiry", "group_expiry", "capacity", "channel_capacity"),
        )
        super().__init__(
            expiry=expiry,
            group_expiry=group_expiry,
            capacity=capacity,
            channel_capacity=channel_capacity,
            clock=clock,
        )
        self.presence = MemoryPresenceStore(PresenceConfig.from_settings(), clock=clock)
        self._buckets = Buckets(clock=clock)
        self._kept = MemoryStreams(expiry)

    async def send(self, channel: str, message: Message) -> None:
        """Put ``message`` into ``channel``; see ``BaseChannelLayer.send``."""
        self._require_sendable(message)
        self.require_valid_channel_name(channel)
        copy = encoding.decode(encoding.encode(message))
        self._expire(self._clock())
        metrics.MESSAGES_SENT.add()
        if not self._put(channel, copy):
            raise ChannelFull(channel)

    async def receive(self, channel: str | list[str]) -> Message:
        """The next message of ``channel``; waits for one, without a limit.

        A list that holds one name is taken as that name.
        """
        return await self._read(self._one_channel(channel))

    async def group_add(self, group: str, channel: str) -> None:
        """Put ``channel`` into ``group``; again is the same as once."""
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        self._join(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """Take ``channel`` out of ``group``, if it is in it."""
        self.require_valid_channel_name(channel)
        self.require_valid_group_name(group)
        self._leave(group, channel)

    async def group_send(
        self,
        group: str | Collection[str],
        message: Message,
        *,
        exclude: Collection[str] = (),
    ) -> None:
        """Put ``message`` into every channel of ``group``; see ``BaseChannelLayer``."""
        self._require_sendable(message)
        groups = self._groups(group)
        # Encoded even when nobody listens: a message that cannot be sent must not
        # pass in the test where the room happens to be empty.
        copy = encoding.decode(encoding.encode(message))
        await self._send_to(groups, copy, exclude)

    async def group_broadcast(
        self,
        group: str | Collection[str],
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        *,
        exclude: Collection[str] = (),
    ) -> None:
        """See ``BaseChannelLayer.group_broadcast``."""
        await self._send_to(
            self._groups(group), PreparedMessage(text_data, bytes_data), exclude
        )

    async def _send_to(
        self,
        groups: list[str],
        message: Message | PreparedMessage,
        exclude: Collection[str],
    ) -> None:
        now = self._clock()
        self._expire(now)
        metrics.MESSAGES_SENT.add()
        seen = self._names(exclude)
        for name in groups:
            # Before the next one: who joins meanwhile gets it once all the same.
            members = (
                [box.name for box in self._hub.members(name)] if groups[1:] else ()
            )
            if self._kept.get(name) is not None:
                await self._append_message(name, message)
            await self._fan_out(name, message, now + self.expiry, seen)
            seen.update(members)

    async def stream_publish(
        self, group: str, record: Mapping[str, Any], *, keep: Retention, key: str = ""
    ) -> Position:
        """See ``BaseChannelLayer.stream_publish``."""
        self.require_valid_group_name(group)
        copy = encoding.decode(encoding.encode(dict(record)))
        now = self._clock()
        self._expire(now)
        metrics.MESSAGES_SENT.add()
        with self._kept.lock:
            if key and (first := self._kept.published(group, key, now)) is not None:
                return first
            stream = self._kept.made(group, now)
            stream.keep = keep
            publication = stream.append(
                lambda position: Publication.of_record(position, copy), now
            )
            delivery = self._listeners.put(group, publication)
            if key:
                self._kept.note(group, key, publication.position, now)
        await self._tell(group, delivery)
        if group in self.groups:
            await self._fan_out(group, publication.as_event(), now + self.expiry)
        return publication.position

    async def _append_message(
        self, group: str, message: Message | PreparedMessage
    ) -> None:
        """Make a group message part of the group's stream, and tell who listens."""
        now = self._clock()
        with self._kept.lock:
            publication = self._kept.made(group, now).append(
                lambda position: stream_records.of_message(
                    position, message, time=time.time()
                ),
                now,
            )
            delivery = self._listeners.put(group, publication)
        await self._tell(group, delivery)

    async def stream_find_published(self, group: str, key: str) -> Position | None:
        """See ``BaseChannelLayer.stream_find_published``."""
        self.require_valid_group_name(group)
        with self._kept.lock:
            return self._kept.published(group, key, self._clock())

    async def take_token(self, key: str, rate: Rate) -> float:
        """See ``BaseChannelLayer.take_token``."""
        return self._buckets.take_token(key, rate)

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
        now = self._clock()
        self._expire(now)
        with self._kept.lock:
            stream = self._kept.made(group, now)
            stream.keep = stream.keep or keep
            return stream.position, stream.read(
                keep, since, limit, now, reverse=reverse
            )

    async def stream_delete(self, group: str) -> None:
        """See ``BaseChannelLayer.stream_delete``."""
        self.require_valid_group_name(group)
        with self._kept.lock:
            stream = self._kept.get(group)
            if stream is not None:
                stream.forget()

    async def stream_subscribe(self, group: str, listener: Listener) -> None:
        """See ``BaseChannelLayer.stream_subscribe``."""
        self.require_valid_group_name(group)
        with self._kept.lock:
            self._kept.made(group, self._clock())
            self._listeners.add(group, listener)

    def _unread(self, box: Box) -> None:
        # As Channels' layer in memory does, and its layer over Redis does not.
        for group in list(box.groups):
            self._leave(group, box.name)

    def _expire(self, now: float) -> None:
        super()._expire(now)
        self._kept.expire(now, self._listeners.__contains__)

    async def group_channels(self, group: str) -> list[str]:
        """The channels in ``group``, in the order in which they joined."""
        self.require_valid_group_name(group)
        self._expire(self._clock())
        return [box.name for box in self._hub.members(group)]

    async def group_count(self, group: str) -> int:
        """How many channels are in ``group``."""
        return len(await self.group_channels(group))

    async def flush(self) -> None:
        """Forget all messages, groups and streams; consumers keep their channels.

        Nobody listens to anything any more.
        """
        self._forget_everything()
        self.presence.flush()
        self._buckets.clear()
        self._kept.clear()

    async def close(self) -> None:
        """Nothing to close: there is no connection."""
