"""What a layer does for a channel: order, readers, names, capacity and expiry.

It knows no group.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

from tiderace.exceptions import ChannelFull
from tiderace.testing.layer_contract.base import Contract, MakeLayer, refused

__all__ = ["ChannelsContract"]


class ChannelsContract(Contract):
    """What is sent to a channel is read there: once, in order and in time."""

    async def test_a_message_arrives_as_it_was_sent(self, layer: Any) -> None:
        await layer.send("queue", {"type": "greet", "to": "you"})

        assert await self.soon(layer.receive("queue")) == {"type": "greet", "to": "you"}

    async def test_messages_arrive_in_the_order_in_which_they_were_sent(
        self, layer: Any
    ) -> None:
        for number in range(50):
            await layer.send("queue", {"type": "count", "number": number})

        received = [await self.soon(layer.receive("queue")) for _ in range(50)]

        assert [message["number"] for message in received] == list(range(50))

    async def test_a_message_waits_for_its_reader(self, layer: Any) -> None:
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "early"})

        assert await self.soon(layer.receive(channel)) == {"type": "early"}

    async def test_a_reader_waits_for_its_message(self, layer: Any) -> None:
        reader = asyncio.create_task(layer.receive("queue"))
        await asyncio.sleep(0)

        await layer.send("queue", {"type": "late"})

        assert await self.soon(reader) == {"type": "late"}

    async def test_channels_do_not_hear_each_other(self, layer: Any) -> None:
        one, other = await layer.new_channel(), await layer.new_channel()
        await layer.send(one, {"type": "for.one"})
        await layer.send(other, {"type": "for.other"})

        assert await self.drain(layer, one) == [{"type": "for.one"}]
        assert await self.drain(layer, other) == [{"type": "for.other"}]

    async def test_receive_takes_a_list_of_one_name(self, layer: Any) -> None:
        await layer.send("queue", {"type": "greet"})

        assert await self.soon(layer.receive(["queue"])) == {"type": "greet"}

    async def test_receive_takes_one_name_only(self, layer: Any) -> None:
        for names in ([], ["one", "two"]):
            with refused(TypeError):
                await self.soon(layer.receive(names))

    async def test_each_message_goes_to_one_of_several_readers(
        self, layer: Any
    ) -> None:
        readers = [asyncio.create_task(layer.receive("queue")) for _ in range(5)]
        await asyncio.sleep(0)

        for number in range(5):
            await layer.send("queue", {"type": "count", "number": number})
        received = await self.soon(asyncio.gather(*readers))

        assert sorted(message["number"] for message in received) == list(range(5))

    async def test_a_cancelled_reader_loses_no_message(self, layer: Any) -> None:
        """Cancelled at another moment each time: before, while and after it is sent."""
        received = []
        for number in range(40):
            reader = asyncio.create_task(layer.receive("queue"))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            await layer.send("queue", {"type": "count", "number": number})
            for _ in range(number // 4 % 10):
                await asyncio.sleep(0)
            reader.cancel()
            try:
                received.append(await reader)
            except asyncio.CancelledError:
                received.append(await self.soon(layer.receive("queue")))

        assert [message["number"] for message in received] == list(range(40))

    async def test_a_cancelled_reader_leaves_the_message_to_another(
        self, layer: Any
    ) -> None:
        first = asyncio.create_task(layer.receive("queue"))
        second = asyncio.create_task(layer.receive("queue"))
        await asyncio.sleep(0)

        first.cancel()
        await layer.send("queue", {"type": "due"})

        assert await self.soon(second) == {"type": "due"}

    # New names

    async def test_new_channels_have_different_names(self, layer: Any) -> None:
        names = [await layer.new_channel() for _ in range(500)]

        assert len(set(names)) == 500

    async def test_new_channels_differ_although_the_random_seed_is_the_same(
        self, layer: Any
    ) -> None:
        names = []
        state = random.getstate()
        try:
            for _ in range(2):
                random.seed(1)
                names.append(await layer.new_channel())
        finally:
            random.setstate(state)

        assert names[0] != names[1]

    async def test_two_layers_never_make_the_same_name(
        self, make_layer: MakeLayer
    ) -> None:
        one, other = make_layer(), make_layer()

        assert await one.new_channel() != await other.new_channel()

    async def test_a_new_channel_begins_with_the_prefix_asked_for(
        self, layer: Any
    ) -> None:
        assert (await layer.new_channel("reply.")).startswith("reply.")
        assert (await layer.new_channel(prefix="reply")).startswith("reply")
        assert (await layer.new_channel()).startswith("specific.")

    async def test_a_new_channel_has_a_legal_name(self, layer: Any) -> None:
        assert layer.require_valid_channel_name(await layer.new_channel())

    # Capacity

    async def test_the_message_beyond_the_capacity_is_refused(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=3)
        for number in range(3):
            await layer.send("queue", {"type": "count", "number": number})

        with refused(ChannelFull):
            await layer.send("queue", {"type": "count", "number": 3})

        received = [await self.soon(layer.receive("queue")) for _ in range(3)]
        assert [message["number"] for message in received] == [0, 1, 2]

    async def test_a_full_channel_takes_one_more_for_each_that_is_read(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=1)
        await layer.send("queue", {"type": "first"})
        await self.soon(layer.receive("queue"))

        await layer.send("queue", {"type": "second"})

        with refused(ChannelFull):
            await layer.send("queue", {"type": "third"})

    async def test_channels_do_not_share_their_capacity(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=2)
        channels = [await layer.new_channel() for _ in range(5)]

        for channel in channels:
            for _ in range(2):
                await layer.send(channel, {"type": "greet"})

        with refused(ChannelFull):
            await layer.send(channels[0], {"type": "greet"})

    async def test_channels_may_have_capacities_of_their_own(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=1, channel_capacity={"big.*": 3})
        for _ in range(3):
            await layer.send("big.queue", {"type": "greet"})
        await layer.send("queue", {"type": "greet"})

        with refused(ChannelFull):
            await layer.send("big.queue", {"type": "greet"})
        with refused(ChannelFull):
            await layer.send("queue", {"type": "greet"})

    # Expiry

    async def test_a_message_is_not_read_after_its_expiry(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(expiry=self.expiry)
        await layer.send("queue", {"type": "old"})

        await self.advance(self.expiry * 1.1)
        await layer.send("queue", {"type": "new"})

        assert await self.soon(layer.receive("queue")) == {"type": "new"}

    async def test_a_message_is_still_there_before_its_expiry(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(expiry=self.expiry)
        await layer.send("queue", {"type": "recent"})

        await self.advance(self.expiry / 2)

        assert await self.soon(layer.receive("queue")) == {"type": "recent"}

    async def test_expired_messages_free_the_capacity(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(expiry=self.expiry, capacity=1)
        await layer.send("queue", {"type": "old"})

        await self.advance(self.expiry * 1.1)

        await layer.send("queue", {"type": "new"})
        assert await self.soon(layer.receive("queue")) == {"type": "new"}
