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
from tiderace.delivery.outbox import Ready
from tiderace.exceptions import ChannelFull
from tiderace.layers import serializers
from tiderace.layers.base import Message
from tiderace.layers.local import LocalChannelLayer, refuse_unknown

__all__ = ["InMemoryChannelLayer"]


class InMemoryChannelLayer(LocalChannelLayer):
    """A channel layer inside this process; see also ``LocalChannelLayer``.

    A group message is encoded and decoded once and handed to all members as the same
    object.

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

    async def send(self, channel: str, message: Message) -> None:
        """Put ``message`` into ``channel``; see ``BaseChannelLayer.send``."""
        self._require_sendable(message)
        self.require_valid_channel_name(channel)
        copy = serializers.decode(serializers.encode(message))
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
        copy = serializers.decode(serializers.encode(message))
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
        await self._send_to(self._groups(group), Ready(text_data, bytes_data), exclude)

    async def _send_to(
        self, groups: list[str], message: Message | Ready, exclude: Collection[str]
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
            await self._fan_out(name, message, now + self.expiry, seen)
            seen.update(members)

    async def group_channels(self, group: str) -> list[str]:
        """The channels in ``group``, in the order in which they joined."""
        self.require_valid_group_name(group)
        self._expire(self._clock())
        return [box.name for box in self._hub.members(group)]

    async def group_count(self, group: str) -> int:
        """How many channels are in ``group``."""
        return len(await self.group_channels(group))

    async def flush(self) -> None:
        """Forget all messages and groups; consumers keep their channels."""
        self._forget_everything()

    async def close(self) -> None:
        """Nothing to close: there is no connection."""
