"""The channel of one consumer: where the layer's messages for it arrive.

In a layer of ours that is a mailbox to be attached; a layer of another project is read
message by message. It knows no handler, and nothing of the client.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any

from tiderace.connection.inbox import Inbox
from tiderace.connection.log import ConnectionLog
from tiderace.connection.served import ConsumerProtocol
from tiderace.delivery.mailbox import Mailbox
from tiderace.layers.base import LocalDelivery

__all__ = ["Channel"]


class Channel:
    """A consumer's channel in its layer, and the mailbox that belongs to it.

    Args:
        consumer: is told its channel's name when that is there.
        layer: None for a consumer without one; then the mailbox takes events alone.
        report: says what could not be left in the end.

    Attributes:
        mailbox: where everything arrives; there from ``open`` on.
    """

    __slots__ = ("_consumer", "_feed", "_layer", "_report", "mailbox")

    mailbox: Mailbox[Any]

    def __init__(
        self, consumer: ConsumerProtocol, layer: Any, report: ConnectionLog
    ) -> None:
        self._consumer = consumer
        self._layer = layer
        self._report = report
        self._feed: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Give the consumer its channel."""
        consumer, layer = self._consumer, self._layer
        consumer.channel_layer = layer
        if layer is None:
            self.mailbox = Mailbox("", 0)
            return
        name = await layer.new_channel()
        consumer.channel_name = name
        consumer.channel_receive = functools.partial(layer.receive, name)
        if isinstance(layer, LocalDelivery):
            self.mailbox = layer.attach(name)
        else:
            self.mailbox = Mailbox(name, 0)

    def read(self, idle: asyncio.Event | None) -> None:
        """Where the layer is of another project, begin to read it; see ``Inbox``."""
        if self._layer is not None and not isinstance(self._layer, LocalDelivery):
            reader = Inbox(self._consumer.channel_receive, self.mailbox, idle=idle)
            self._feed = asyncio.get_running_loop().create_task(reader.read())

    async def close(self) -> None:
        """Give the channel back: it leaves its groups, and nothing more comes."""
        if self._feed is not None:
            self._feed.cancel()
        if isinstance(self._layer, LocalDelivery):
            await self._layer.detach(self.mailbox)
        elif self._layer is not None:
            await self._leave_declared_groups()
        if self._feed is not None:
            await asyncio.wait([self._feed])

    async def _leave_declared_groups(self) -> None:
        """For a layer of another project: the groups that the consumer names itself."""
        for group in getattr(self._consumer, "groups", None) or ():
            try:
                await self._layer.group_discard(group, self._consumer.channel_name)
            except Exception as error:
                self._report.group_not_left(group, error)
