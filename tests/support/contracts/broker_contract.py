"""The public contract of a channel layer over a broker, in real time."""

from __future__ import annotations

import asyncio

import pytest

from tiderace.testing.layer_contract import (
    LayerContract,
    LocalDeliveryContract,
    StreamsContract,
)


class RealTime:
    """A subclass has the fixture ``new_layer``: a function that makes a layer with options."""

    expiry = 0.4
    group_expiry = 0.8
    timeout = 20

    @pytest.fixture
    async def make_layer(self, new_layer):
        made = []

        def make(**options):
            layer = new_layer(**options)
            made.append(layer)
            return layer

        yield make
        for layer in made:
            await layer.close()

    @pytest.fixture
    def layer(self, make_layer):
        return make_layer()

    async def advance(self, seconds):
        await asyncio.sleep(seconds)


class BrokerContract(RealTime, StreamsContract, LocalDeliveryContract, LayerContract):
    """The contract over real servers and files; fixtures as in ``RealTime``."""

    async def read_all(self, layer, channel):
        await self.wait_received(layer)
        return await super().read_all(layer, channel)

    async def test_a_discarded_member_gets_no_later_message(self, layer):
        """A message sent before the discard is still received."""
        gone, still = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("room", gone)
        await layer.group_add("room", still)
        await layer.group_send("room", {"type": "before"})
        await self.wait_received(layer)

        await layer.group_discard("room", gone)
        await layer.group_send("room", {"type": "after"})

        assert await self.read_all(layer, still) == [
            {"type": "before"},
            {"type": "after"},
        ]
        assert await self.read_all(layer, gone) == [{"type": "before"}]

    async def wait_received(self, layer):
        """Wait until all messages have come back from the broker."""
        layer._pump.ensure_running()
        async with asyncio.timeout(self.timeout):
            for subject in layer._cursors:
                stream = layer._cursors.get(subject)
                end = await stream.broker.streams.position(subject)
                while end is not None and stream.position != end:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
