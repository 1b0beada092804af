"""Tests of delivery into the mailboxes of consumers."""

from __future__ import annotations

import asyncio
from typing import Any

from asgiref.sync import async_to_sync

from tiderace.delivery.mailbox import Mailbox, Source
from tiderace.testing.layer_contract.base import Contract, MakeLayer


class LocalDeliveryContract(Contract):
    """The behaviour of a layer with ``attach`` and ``detach``.

    The interface is ``tiderace.layers.LocalDelivery``; fixtures and attributes are as
    in ``LayerContract``.
    """

    async def attach(self, layer: Any, *groups: str) -> tuple[str, Mailbox[Any]]:
        """Return a new channel, a member of ``groups``, and its mailbox."""
        channel = await layer.new_channel()
        mailbox = layer.attach(channel)
        for group in groups:
            await layer.group_add(group, channel)
        return channel, mailbox

    async def read(self, mailbox: Mailbox[Any]) -> Any:
        """Return the next message of ``mailbox``."""
        source, message = await self.wait_for(mailbox.next())
        assert source is Source.MESSAGE
        return message

    async def test_a_message_to_a_channel_goes_to_its_attached_mailbox(
        self, layer: Any
    ) -> None:
        channel, mailbox = await self.attach(layer)

        await layer.send(channel, {"type": "greet"})

        assert await self.read(mailbox) == {"type": "greet"}
        await layer.detach(mailbox)

    async def test_a_group_message_goes_to_an_attached_mailbox(
        self, layer: Any
    ) -> None:
        _, mailbox = await self.attach(layer, "room")

        await layer.group_send("room", {"type": "greet"})

        assert await self.read(mailbox) == {"type": "greet"}
        await layer.detach(mailbox)

    async def test_the_mailboxes_of_a_process_share_one_message_object(
        self, layer: Any
    ) -> None:
        mailboxes = [(await self.attach(layer, "room"))[1] for _ in range(3)]

        await layer.group_send("room", {"type": "greet"})
        received = [await self.read(mailbox) for mailbox in mailboxes]

        assert received[0] is received[1] is received[2]
        for mailbox in mailboxes:
            await layer.detach(mailbox)

    async def test_a_message_sent_before_attaching_is_in_the_mailbox(
        self, layer: Any
    ) -> None:
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "early"})

        mailbox = layer.attach(channel)

        assert await self.read(mailbox) == {"type": "early"}
        await layer.detach(mailbox)

    async def test_a_detached_channel_leaves_its_groups(self, layer: Any) -> None:
        channel, mailbox = await self.attach(layer, "room", "hall")

        await layer.detach(mailbox)
        for group in ("room", "hall"):
            await layer.group_send(group, {"type": "greet"})

        assert not mailbox.groups
        assert await self.read_all(layer, channel) == []

    async def test_detaching_does_not_affect_the_other_members(
        self, layer: Any
    ) -> None:
        _, mailbox = await self.attach(layer, "room")
        _, other = await self.attach(layer, "room")

        await layer.detach(mailbox)
        await layer.group_send("room", {"type": "greet"})

        assert await self.read(other) == {"type": "greet"}
        await layer.detach(other)

    async def test_detaching_empties_the_mailbox(self, layer: Any) -> None:
        channel, mailbox = await self.attach(layer)
        await layer.send(channel, {"type": "unread"})

        await layer.detach(mailbox)

        assert len(mailbox) == 0

    async def test_detaching_twice_is_no_error(self, layer: Any) -> None:
        _, mailbox = await self.attach(layer)

        await layer.detach(mailbox)
        await layer.detach(mailbox)

    async def test_a_message_to_a_detached_channel_is_no_error(
        self, layer: Any
    ) -> None:
        channel, mailbox = await self.attach(layer)
        await layer.detach(mailbox)

        await layer.send(channel, {"type": "late"})

    async def test_the_membership_of_an_attached_channel_does_not_expire(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(expiry=self.expiry, group_expiry=self.group_expiry)
        _, mailbox = await self.attach(layer, "room")

        await self.advance(self.group_expiry * 1.1)
        await layer.group_send("room", {"type": "greet"})

        assert await self.read(mailbox) == {"type": "greet"}
        await layer.detach(mailbox)

    async def test_an_expired_message_does_not_end_the_membership_of_an_attached_channel(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(expiry=self.expiry)
        _, mailbox = await self.attach(layer, "room")
        await layer.group_send("room", {"type": "unread"})

        await self.advance(self.expiry * 1.1)
        await layer.group_send("room", {"type": "greet"})

        assert await self.read(mailbox) == {"type": "greet"}
        await layer.detach(mailbox)

    async def test_a_full_mailbox_drops_messages_for_its_channel_only(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=2)
        _, full = await self.attach(layer, "room")
        _, other = await self.attach(layer, "room")

        for number in range(4):
            await layer.group_send("room", {"type": "count", "number": number})
            assert (await self.read(other))["number"] == number

        assert [(await self.read(full))["number"] for _ in range(2)] == [0, 1]
        assert len(full) == 0
        await layer.detach(full)
        await layer.detach(other)

    async def test_a_send_from_a_thread_wakes_the_reader_of_a_mailbox(
        self, layer: Any
    ) -> None:
        channel, mailbox = await self.attach(layer)
        reader = asyncio.create_task(self.read(mailbox))
        await asyncio.sleep(0)

        await asyncio.to_thread(async_to_sync(layer.send), channel, {"type": "greet"})

        assert await reader == {"type": "greet"}
        await layer.detach(mailbox)
