"""Tests of channels: order, readers, new names, capacity and expiry."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from tiderace.exceptions import ChannelFull
from tiderace.testing.layer_contract.base import Contract, MakeLayer, raises


class ChannelsContract(Contract):
    """A message to a channel is read once, in order and before its expiry."""

    async def test_a_message_arrives_as_it_was_sent(self, layer: Any) -> None:
        message = {"type": "greet", "to": "you"}

        await layer.send("queue", message)

        assert await self.receive(layer, "queue") == message

    async def test_messages_arrive_in_the_order_in_which_they_were_sent(
        self, layer: Any
    ) -> None:
        for number in range(50):
            await layer.send("queue", {"type": "count", "number": number})

        received = [await self.receive(layer, "queue") for _ in range(50)]

        assert [message["number"] for message in received] == list(range(50))

    async def test_a_message_waits_for_its_reader(self, layer: Any) -> None:
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "early"})

        assert await self.receive(layer, channel) == {"type": "early"}

    async def test_a_reader_waits_for_its_message(self, layer: Any) -> None:
        reader = asyncio.create_task(layer.receive("queue"))
        await asyncio.sleep(0)

        await layer.send("queue", {"type": "late"})

        assert await self.wait_for(reader) == {"type": "late"}

    async def test_a_channel_receives_its_own_messages_only(self, layer: Any) -> None:
        one, other = await layer.new_channel(), await layer.new_channel()
        await layer.send(one, {"type": "for.one"})
        await layer.send(other, {"type": "for.other"})

        assert await self.read_all(layer, one) == [{"type": "for.one"}]
        assert await self.read_all(layer, other) == [{"type": "for.other"}]

    async def test_receive_takes_a_list_of_one_name(self, layer: Any) -> None:
        await layer.send("queue", {"type": "greet"})

        assert await self.receive(layer, ["queue"]) == {"type": "greet"}

    async def test_receive_takes_one_name_only(self, layer: Any) -> None:
        for names in ([], ["one", "two"]):
            with raises(TypeError):
                await self.receive(layer, names)

    async def test_each_message_goes_to_one_of_several_readers(
        self, layer: Any
    ) -> None:
        readers = [asyncio.create_task(layer.receive("queue")) for _ in range(5)]
        await asyncio.sleep(0)

        for number in range(5):
            await layer.send("queue", {"type": "count", "number": number})
        received = await self.wait_for(asyncio.gather(*readers))

        assert sorted(message["number"] for message in received) == list(range(5))

    async def test_a_cancelled_reader_loses_no_message(self, layer: Any) -> None:
        """The reader is cancelled before, during and after the send."""
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
                received.append(await self.receive(layer, "queue"))

        assert [message["number"] for message in received] == list(range(40))

    async def test_a_message_goes_to_another_reader_after_one_was_cancelled(
        self, layer: Any
    ) -> None:
        first = asyncio.create_task(layer.receive("queue"))
        second = asyncio.create_task(layer.receive("queue"))
        await asyncio.sleep(0)

        first.cancel()
        await layer.send("queue", {"type": "due"})

        assert await self.wait_for(second) == {"type": "due"}

    # New names

    async def test_new_channels_have_different_names(self, layer: Any) -> None:
        names = [await layer.new_channel() for _ in range(500)]

        assert len(set(names)) == 500

    async def test_new_channel_names_do_not_depend_on_the_random_seed(
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

    async def test_the_name_of_a_new_channel_starts_with_the_prefix(
        self, layer: Any
    ) -> None:
        assert (await layer.new_channel("reply.")).startswith("reply.")
        assert (await layer.new_channel(prefix="reply")).startswith("reply")
        assert (await layer.new_channel()).startswith("specific.")

    async def test_the_name_of_a_new_channel_is_valid(self, layer: Any) -> None:
        assert layer.require_valid_channel_name(await layer.new_channel())

    # Capacity

    async def test_the_message_beyond_the_capacity_is_refused(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=3)
        for number in range(3):
            await layer.send("queue", {"type": "count", "number": number})

        with raises(ChannelFull):
            await layer.send("queue", {"type": "count", "number": 3})

        received = [await self.receive(layer, "queue") for _ in range(3)]
        assert [message["number"] for message in received] == [0, 1, 2]

    async def test_reading_a_message_makes_room_for_another(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=1)
        await layer.send("queue", {"type": "first"})
        await self.receive(layer, "queue")

        await layer.send("queue", {"type": "second"})

        with raises(ChannelFull):
            await layer.send("queue", {"type": "third"})

    async def test_each_channel_has_its_own_capacity(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=2)
        channels = [await layer.new_channel() for _ in range(5)]

        for channel in channels:
            for _ in range(2):
                await layer.send(channel, {"type": "greet"})

        with raises(ChannelFull):
            await layer.send(channels[0], {"type": "greet"})

    async def test_channel_capacity_sets_the_capacity_by_channel_name(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=1, channel_capacity={"big.*": 3})
        for _ in range(3):
            await layer.send("big.queue", {"type": "greet"})
        await layer.send("queue", {"type": "greet"})

        with raises(ChannelFull):
            await layer.send("big.queue", {"type": "greet"})
        with raises(ChannelFull):
            await layer.send("queue", {"type": "greet"})

    # Expiry

    async def test_a_message_is_not_read_after_its_expiry(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(expiry=self.expiry)
        await layer.send("queue", {"type": "old"})

        await self.advance(self.expiry * 1.1)
        await layer.send("queue", {"type": "new"})

        assert await self.receive(layer, "queue") == {"type": "new"}

    async def test_a_message_is_read_before_its_expiry(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(expiry=self.expiry)
        await layer.send("queue", {"type": "recent"})

        await self.advance(self.expiry / 2)

        assert await self.receive(layer, "queue") == {"type": "recent"}

    async def test_expired_messages_free_the_capacity(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(expiry=self.expiry, capacity=1)
        await layer.send("queue", {"type": "old"})

        await self.advance(self.expiry * 1.1)

        await layer.send("queue", {"type": "new"})
        assert await self.receive(layer, "queue") == {"type": "new"}
