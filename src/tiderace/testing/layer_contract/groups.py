"""What a layer does for a group: who gets its messages, and for how long.

It knows its members as channels, and not who reads them.
"""

from __future__ import annotations

from typing import Any

from tiderace.testing.layer_contract.base import Contract, MakeLayer

__all__ = ["GroupsContract"]


class GroupsContract(Contract):
    """A group message reaches every member that has room for it, and nobody else."""

    async def test_every_member_gets_a_group_message(self, layer: Any) -> None:
        channels = [await layer.new_channel() for _ in range(5)]
        for channel in channels:
            await layer.group_add("room", channel)

        await layer.group_send("room", {"type": "greet", "text": "all"})

        for channel in channels:
            received = await self.soon(layer.receive(channel))
            assert received == {"type": "greet", "text": "all"}

    async def test_a_named_queue_may_be_a_member(self, layer: Any) -> None:
        await layer.group_add("room", "queue")

        await layer.group_send("room", {"type": "greet"})

        assert await self.soon(layer.receive("queue")) == {"type": "greet"}

    async def test_every_member_sees_one_senders_messages_in_order(
        self, layer: Any
    ) -> None:
        channels = [await layer.new_channel() for _ in range(3)]
        for channel in channels:
            await layer.group_add("room", channel)

        for number in range(30):
            await layer.group_send("room", {"type": "count", "number": number})

        for channel in channels:
            received = [await self.soon(layer.receive(channel)) for _ in range(30)]
            assert [message["number"] for message in received] == list(range(30))

    async def test_a_group_message_reaches_its_members_only(self, layer: Any) -> None:
        member, stranger = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("room", member)
        await layer.group_add("hall", stranger)

        await layer.group_send("room", {"type": "greet"})

        assert await self.drain(layer, member) == [{"type": "greet"}]
        assert await self.drain(layer, stranger) == []

    async def test_joining_twice_is_the_same_as_once(self, layer: Any) -> None:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_add("room", channel)

        await layer.group_send("room", {"type": "greet"})

        assert await self.drain(layer, channel) == [{"type": "greet"}]

    async def test_who_has_left_gets_nothing_more(self, layer: Any) -> None:
        gone, still = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("room", gone)
        await layer.group_add("room", still)
        await layer.group_send("room", {"type": "before"})

        await layer.group_discard("room", gone)
        await layer.group_send("room", {"type": "after"})

        assert await self.drain(layer, still) == [{"type": "before"}, {"type": "after"}]
        assert await self.drain(layer, gone) == [{"type": "before"}]

    async def test_leaving_a_group_one_is_not_in_is_no_error(self, layer: Any) -> None:
        await layer.group_discard("room", await layer.new_channel())
        await layer.group_discard("room", "queue")

    async def test_who_left_twice_may_join_again(self, layer: Any) -> None:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_discard("room", channel)
        await layer.group_discard("room", channel)
        await layer.group_add("room", channel)

        await layer.group_send("room", {"type": "greet"})

        assert await self.drain(layer, channel) == [{"type": "greet"}]

    async def test_a_group_without_members_takes_a_message(self, layer: Any) -> None:
        await layer.group_send("nobody-here", {"type": "greet"})

    async def test_a_member_joins_too_late_for_what_was_said_before(
        self, layer: Any
    ) -> None:
        await layer.group_send("room", {"type": "before"})
        channel = await layer.new_channel()

        await layer.group_add("room", channel)

        assert await self.drain(layer, channel) == []

    async def test_a_channel_may_be_in_many_groups(self, layer: Any) -> None:
        channel = await layer.new_channel()
        for number in range(20):
            await layer.group_add(f"room.{number}", channel)

        for number in range(20):
            await layer.group_send(
                f"room.{number}", {"type": "count", "number": number}
            )

        received = await self.drain(layer, channel)
        assert sorted(message["number"] for message in received) == list(range(20))

    async def test_a_full_member_is_passed_over_and_the_others_get_the_message(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=2)
        full, other = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("room", full)
        await layer.group_add("room", other)
        for number in range(2):
            await layer.send(full, {"type": "fill", "number": number})

        await layer.group_send("room", {"type": "greet"})

        assert await self.soon(layer.receive(other)) == {"type": "greet"}
        received = [await self.soon(layer.receive(full)) for _ in range(2)]
        assert [message["type"] for message in received] == ["fill", "fill"]
        assert await self.drain(layer, full) == []

    async def test_a_member_that_was_full_gets_the_next_message(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=1)
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_send("room", {"type": "first"})
        await layer.group_send("room", {"type": "dropped"})
        assert await self.soon(layer.receive(channel)) == {"type": "first"}

        await layer.group_send("room", {"type": "next"})

        assert await self.soon(layer.receive(channel)) == {"type": "next"}

    async def test_a_membership_without_a_consumer_expires(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(expiry=self.expiry, group_expiry=self.group_expiry)
        await layer.group_add("room", "queue")

        await self.advance(self.group_expiry * 1.1)
        await layer.group_send("room", {"type": "greet"})

        assert await self.drain(layer, "queue") == []

    async def test_joining_again_renews_a_membership(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(expiry=self.expiry, group_expiry=self.group_expiry)
        await layer.group_add("room", "queue")
        await self.advance(self.group_expiry * 0.6)

        await layer.group_add("room", "queue")
        await self.advance(self.group_expiry * 0.6)
        await layer.group_send("room", {"type": "greet"})

        assert await self.drain(layer, "queue") == [{"type": "greet"}]

    # Flush

    async def test_flush_forgets_messages_and_groups(self, layer: Any) -> None:
        await layer.send("queue", {"type": "old"})
        await layer.group_add("room", "queue")

        await layer.flush()
        await layer.group_send("room", {"type": "greet"})

        assert await self.drain(layer, "queue") == []

    async def test_a_flushed_layer_works_on(self, layer: Any) -> None:
        await layer.flush()
        channel = await layer.new_channel()
        await layer.group_add("room", channel)

        await layer.group_send("room", {"type": "greet"})

        assert await self.drain(layer, channel) == [{"type": "greet"}]
