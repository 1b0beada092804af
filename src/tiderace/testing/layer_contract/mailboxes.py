"""What a layer does that puts messages into consumers' mailboxes.

It knows a consumer by its mailbox alone.
"""

from __future__ import annotations

import asyncio
from typing import Any

from asgiref.sync import async_to_sync

from tiderace.delivery.mailbox import Mailbox, Source
from tiderace.testing.layer_contract.base import MakeLayer
from tiderace.testing.layer_contract.layer import LayerContract

__all__ = ["LocalDeliveryContract"]


class LocalDeliveryContract(LayerContract):
    """In addition, what a layer does that puts messages into consumers' mailboxes.

    For layers with ``attach`` and ``detach`` (``tiderace.layers.LocalDelivery``).
    """

    async def attached(self, layer: Any) -> tuple[str, Mailbox[Any]]:
        """A new channel and its mailbox, as a consumer takes them."""
        channel = await layer.new_channel()
        return channel, layer.attach(channel)

    async def read(self, mailbox: Mailbox[Any]) -> Any:
        """The next message of ``mailbox``, as a consumer reads it."""
        lane, message = await self.soon(mailbox.next())
        assert lane is Source.MESSAGE
        return message

    async def test_an_attached_mailbox_gets_what_is_sent_to_its_channel(
        self, layer: Any
    ) -> None:
        channel, mailbox = await self.attached(layer)

        await layer.send(channel, {"type": "greet"})

        assert await self.read(mailbox) == {"type": "greet"}
        await layer.detach(mailbox)

    async def test_an_attached_mailbox_gets_what_its_groups_get(
        self, layer: Any
    ) -> None:
        channel, mailbox = await self.attached(layer)
        await layer.group_add("room", channel)

        await layer.group_send("room", {"type": "greet"})

        assert await self.read(mailbox) == {"type": "greet"}
        await layer.detach(mailbox)

    async def test_the_members_of_a_process_share_one_message(self, layer: Any) -> None:
        boxes = []
        for _ in range(3):
            channel, mailbox = await self.attached(layer)
            await layer.group_add("room", channel)
            boxes.append(mailbox)

        await layer.group_send("room", {"type": "greet"})
        received = [await self.read(mailbox) for mailbox in boxes]

        assert received[0] is received[1] is received[2]
        for mailbox in boxes:
            await layer.detach(mailbox)

    async def test_what_was_sent_before_attaching_is_in_the_mailbox(
        self, layer: Any
    ) -> None:
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "early"})

        mailbox = layer.attach(channel)

        assert await self.read(mailbox) == {"type": "early"}
        await layer.detach(mailbox)

    async def test_a_detached_channel_is_in_no_group_any_more(self, layer: Any) -> None:
        channel, mailbox = await self.attached(layer)
        for group in ("room", "hall"):
            await layer.group_add(group, channel)

        await layer.detach(mailbox)
        for group in ("room", "hall"):
            await layer.group_send(group, {"type": "greet"})

        assert mailbox.groups == set()
        assert await self.drain(layer, channel) == []

    async def test_detaching_leaves_the_other_members_alone(self, layer: Any) -> None:
        gone, mailbox = await self.attached(layer)
        still, other = await self.attached(layer)
        await layer.group_add("room", gone)
        await layer.group_add("room", still)

        await layer.detach(mailbox)
        await layer.group_send("room", {"type": "greet"})

        assert await self.read(other) == {"type": "greet"}
        await layer.detach(other)

    async def test_a_detached_channel_keeps_no_message(self, layer: Any) -> None:
        channel, mailbox = await self.attached(layer)
        await layer.send(channel, {"type": "unread"})

        await layer.detach(mailbox)

        assert len(mailbox) == 0

    async def test_detaching_twice_is_no_error(self, layer: Any) -> None:
        _, mailbox = await self.attached(layer)

        await layer.detach(mailbox)
        await layer.detach(mailbox)

    async def test_a_message_to_a_detached_channel_is_no_error(
        self, layer: Any
    ) -> None:
        channel, mailbox = await self.attached(layer)
        await layer.detach(mailbox)

        await layer.send(channel, {"type": "late"})

    async def test_the_membership_of_an_attached_channel_does_not_expire(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(expiry=self.expiry, group_expiry=self.group_expiry)
        channel, mailbox = await self.attached(layer)
        await layer.group_add("room", channel)

        await self.advance(self.group_expiry * 1.1)
        await layer.group_send("room", {"type": "greet"})

        assert await self.read(mailbox) == {"type": "greet"}
        await layer.detach(mailbox)

    async def test_an_unread_message_costs_an_attached_channel_no_membership(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(expiry=self.expiry)
        channel, mailbox = await self.attached(layer)
        await layer.group_add("room", channel)
        await layer.group_send("room", {"type": "unread"})

        await self.advance(self.expiry * 1.1)
        await layer.group_send("room", {"type": "greet"})

        assert await self.read(mailbox) == {"type": "greet"}
        await layer.detach(mailbox)

    async def test_a_full_mailbox_drops_for_itself_alone(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=2)
        slow, full = await self.attached(layer)
        quick, other = await self.attached(layer)
        await layer.group_add("room", slow)
        await layer.group_add("room", quick)

        for number in range(4):
            await layer.group_send("room", {"type": "count", "number": number})
            assert (await self.read(other))["number"] == number

        assert [(await self.read(full))["number"] for _ in range(2)] == [0, 1]
        assert len(full) == 0
        await layer.detach(full)
        await layer.detach(other)

    async def test_a_thread_wakes_the_consumer_of_a_mailbox(self, layer: Any) -> None:
        channel, mailbox = await self.attached(layer)
        reader = asyncio.create_task(self.read(mailbox))
        await asyncio.sleep(0)

        await asyncio.to_thread(async_to_sync(layer.send), channel, {"type": "greet"})

        assert await reader == {"type": "greet"}
        await layer.detach(mailbox)
