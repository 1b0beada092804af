"""Tests of groups: membership, delivery, expiry and flush."""

from __future__ import annotations

from typing import Any

from tiderace.testing.layer_contract.base import Contract, MakeLayer


class GroupsContract(Contract):
    """A group message reaches every member whose channel is not full."""

    async def test_every_member_gets_a_group_message(self, layer: Any) -> None:
        channels = [await self.join(layer, "room") for _ in range(5)]

        await layer.group_send("room", {"type": "greet", "text": "all"})

        for channel in channels:
            received = await self.receive(layer, channel)
            assert received == {"type": "greet", "text": "all"}

    async def test_a_named_queue_may_be_a_member(self, layer: Any) -> None:
        await layer.group_add("room", "queue")

        await layer.group_send("room", {"type": "greet"})

        assert await self.receive(layer, "queue") == {"type": "greet"}

    async def test_every_member_gets_the_messages_of_one_sender_in_order(
        self, layer: Any
    ) -> None:
        channels = [await self.join(layer, "room") for _ in range(3)]

        for number in range(30):
            await layer.group_send("room", {"type": "count", "number": number})

        for channel in channels:
            received = [await self.receive(layer, channel) for _ in range(30)]
            assert [message["number"] for message in received] == list(range(30))

    async def test_a_group_message_reaches_its_members_only(self, layer: Any) -> None:
        member = await self.join(layer, "room")
        other = await self.join(layer, "hall")

        await layer.group_send("room", {"type": "greet"})

        assert await self.read_all(layer, member) == [{"type": "greet"}]
        assert await self.read_all(layer, other) == []

    async def test_joining_twice_has_no_further_effect(self, layer: Any) -> None:
        channel = await self.join(layer, "room")
        await layer.group_add("room", channel)

        await layer.group_send("room", {"type": "greet"})

        assert await self.read_all(layer, channel) == [{"type": "greet"}]

    async def test_a_discarded_member_gets_no_later_message(self, layer: Any) -> None:
        discarded = await self.join(layer, "room")
        remaining = await self.join(layer, "room")
        await layer.group_send("room", {"type": "before"})

        await layer.group_discard("room", discarded)
        await layer.group_send("room", {"type": "after"})

        assert await self.read_all(layer, remaining) == [
            {"type": "before"},
            {"type": "after"},
        ]
        assert await self.read_all(layer, discarded) == [{"type": "before"}]

    async def test_a_message_sent_before_a_channel_joined_does_not_reach_it(
        self, layer: Any
    ) -> None:
        await self.join(layer, "room")

        for number in range(10):
            await layer.group_send("room", {"type": "before"})
            late = await self.join(layer, "room")
            await layer.group_send("room", {"type": "after", "number": number})

            received = await self.receive(layer, late)
            assert received == {"type": "after", "number": number}

    async def test_a_message_sent_between_leaving_and_joining_does_not_arrive(
        self, layer: Any
    ) -> None:
        channel = await self.join(layer, "room")

        for number in range(10):
            await layer.group_discard("room", channel)
            await layer.group_send("room", {"type": "between"})
            await layer.group_add("room", channel)
            await layer.group_send("room", {"type": "after", "number": number})

            received = await self.receive(layer, channel)
            assert received == {"type": "after", "number": number}

    async def test_a_message_sent_before_the_layer_was_closed_reaches_no_new_member(
        self, layer: Any
    ) -> None:
        former = await self.join(layer, "room")
        await layer.group_send("room", {"type": "before"})
        await self.receive(layer, former)
        await layer.close()
        await layer.group_send("room", {"type": "between"})

        late = await self.join(layer, "room")
        await layer.group_send("room", {"type": "after"})

        assert await self.receive(layer, late) == {"type": "after"}

    async def test_discarding_a_channel_that_is_not_a_member_is_no_error(
        self, layer: Any
    ) -> None:
        await layer.group_discard("room", await layer.new_channel())
        await layer.group_discard("room", "queue")

    async def test_a_channel_that_was_discarded_twice_can_join_again(
        self, layer: Any
    ) -> None:
        channel = await self.join(layer, "room")
        await layer.group_discard("room", channel)
        await layer.group_discard("room", channel)
        await layer.group_add("room", channel)

        await layer.group_send("room", {"type": "greet"})

        assert await self.read_all(layer, channel) == [{"type": "greet"}]

    async def test_sending_to_a_group_without_members_is_no_error(
        self, layer: Any
    ) -> None:
        await layer.group_send("empty", {"type": "greet"})

    async def test_a_new_member_gets_no_earlier_message(self, layer: Any) -> None:
        await layer.group_send("room", {"type": "before"})
        channel = await self.join(layer, "room")

        assert await self.read_all(layer, channel) == []

    async def test_a_channel_may_be_in_many_groups(self, layer: Any) -> None:
        channel = await layer.new_channel()
        for number in range(20):
            await layer.group_add(f"room.{number}", channel)

        for number in range(20):
            await layer.group_send(
                f"room.{number}", {"type": "count", "number": number}
            )

        received = await self.read_all(layer, channel)
        assert sorted(message["number"] for message in received) == list(range(20))

    async def test_a_full_member_is_skipped_and_the_others_get_the_message(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=2)
        full = await self.join(layer, "room")
        other = await self.join(layer, "room")
        for number in range(2):
            await layer.send(full, {"type": "fill", "number": number})

        await layer.group_send("room", {"type": "greet"})

        assert await self.receive(layer, other) == {"type": "greet"}
        received = [await self.receive(layer, full) for _ in range(2)]
        assert [message["type"] for message in received] == ["fill", "fill"]
        assert await self.read_all(layer, full) == []

    async def test_a_member_that_was_full_gets_the_next_message(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=1)
        channel = await self.join(layer, "room")
        await layer.group_send("room", {"type": "first"})
        await layer.group_send("room", {"type": "dropped"})
        assert await self.receive(layer, channel) == {"type": "first"}

        await layer.group_send("room", {"type": "next"})

        assert await self.receive(layer, channel) == {"type": "next"}

    async def test_a_membership_without_a_consumer_expires(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(expiry=self.expiry, group_expiry=self.group_expiry)
        await layer.group_add("room", "queue")

        await self.advance(self.group_expiry * 1.1)
        await layer.group_send("room", {"type": "greet"})

        assert await self.read_all(layer, "queue") == []

    async def test_joining_again_renews_a_membership(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(expiry=self.expiry, group_expiry=self.group_expiry)
        await layer.group_add("room", "queue")
        await self.advance(self.group_expiry * 0.6)

        await layer.group_add("room", "queue")
        await self.advance(self.group_expiry * 0.6)
        await layer.group_send("room", {"type": "greet"})

        assert await self.read_all(layer, "queue") == [{"type": "greet"}]

    # Flush

    async def test_flush_deletes_messages_and_groups(self, layer: Any) -> None:
        await layer.send("queue", {"type": "old"})
        await layer.group_add("room", "queue")

        await layer.flush()
        await layer.group_send("room", {"type": "greet"})

        assert await self.read_all(layer, "queue") == []

    async def test_a_flushed_layer_is_usable(self, layer: Any) -> None:
        await layer.flush()
        channel = await self.join(layer, "room")

        await layer.group_send("room", {"type": "greet"})

        assert await self.read_all(layer, channel) == [{"type": "greet"}]
