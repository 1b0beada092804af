"""Tests of the relation of groups and streams."""

from __future__ import annotations

from typing import Any

from tiderace.history import Position
from tiderace.layers.broker import Retention
from tiderace.testing.layer_contract.base import (
    MakeLayer,
    StreamContract,
)


class GroupStreamsContract(StreamContract):
    """Messages to a group are publications of its stream, and the reverse."""

    async def test_a_group_message_is_a_publication_of_the_stream(
        self, layer: Any
    ) -> None:
        listener = await self.listen(layer)
        await self.publish(layer, "1")

        await layer.group_send("stream", {"type": "greet", "to": "you"})
        await layer.group_send("stream", {"type": "bye"}, exclude=["other"])

        expected = ["1", '{"type":"greet","to":"you"}', '{"type":"bye"}']
        await self.wait_until(lambda: listener.data == expected)
        assert listener.offsets == [1, 2, 3]
        assert await self.read_data(layer) == expected

    async def test_a_broadcast_is_a_json_publication_of_the_stream(
        self, layer: Any
    ) -> None:
        listener = await self.listen(layer)
        await self.publish(layer, "1")

        await layer.group_broadcast("stream", '{"a": 1}')
        await layer.group_broadcast("stream", "no JSON")
        await layer.group_broadcast("stream", bytes_data=b"\x00\xff")

        expected = ["1", '{"a": 1}', '"no JSON"', '"AP8="']
        await self.wait_until(lambda: listener.data == expected)
        assert await self.read_data(layer) == expected

    async def test_a_group_message_does_not_shorten_the_history(
        self, make_layer: MakeLayer
    ) -> None:
        """The expiry of the layer is shorter than the retention of the stream."""
        layer = make_layer(expiry=self.expiry)
        keep = Retention(100, self.expiry * 100)
        await self.publish(layer, "1", keep=keep)
        await layer.group_send("stream", {"type": "x"})

        await self.advance(self.expiry * 1.5)
        await layer.group_send("stream", {"type": "y"})
        await self.advance(self.expiry * 1.5)

        found = await self.read_data(layer, keep=keep)
        assert found == ["1", '{"type":"x"}', '{"type":"y"}']

    async def test_a_publication_is_sent_to_the_channels_of_the_group(
        self, layer: Any
    ) -> None:
        channel = await self.join(layer, "stream")
        await layer.group_add("stream", "queue")

        position = await layer.stream_publish(
            "stream", {"data": '{"n":1}', "topic": "room:lobby"}, keep=self.keep
        )

        for name in (channel, "queue"):
            event = await self.receive(layer, name)
            assert event["type"] == "topic.publication"
            assert event["topic"] == "room:lobby"
            assert event["data"] == {"n": 1}
            assert Position(event["epoch"], event["offset"]) == position
