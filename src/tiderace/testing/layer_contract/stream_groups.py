"""A stream is a group's: what is sent to one is published, and the other way round.

It knows the members of a group as channels.
"""

from __future__ import annotations

from typing import Any

from tiderace.history import Position
from tiderace.layers.broker import Retention
from tiderace.testing.layer_contract.base import MakeLayer
from tiderace.testing.layer_contract.stream_base import RecordingListener, Streams

__all__ = ["GroupStreamsContract"]


class GroupStreamsContract(Streams):
    """Messages and broadcasts to a group are publications of its stream."""

    async def test_a_group_message_is_heard_and_read(self, layer: Any) -> None:
        ear = RecordingListener("ear")
        await layer.stream_subscribe("stream", ear)
        await self.say(layer, "1")

        await layer.group_send("stream", {"type": "greet", "to": "you"})
        await layer.group_send("stream", {"type": "bye"}, exclude=["nobody"])

        said = ["1", '{"type":"greet","to":"you"}', '{"type":"bye"}']
        await self.until(lambda: ear.data == said)
        assert ear.offsets == [1, 2, 3]
        assert await self.kept(layer) == said

    async def test_a_broadcast_is_heard_and_read_as_json(self, layer: Any) -> None:
        ear = RecordingListener("ear")
        await layer.stream_subscribe("stream", ear)
        await self.say(layer, "1")

        await layer.group_broadcast("stream", '{"a": 1}')
        await layer.group_broadcast("stream", "no JSON")
        await layer.group_broadcast("stream", bytes_data=b"\x00\xff")

        said = ["1", '{"a": 1}', '"no JSON"', '"AP8="']
        await self.until(lambda: ear.data == said)
        assert await self.kept(layer) == said

    async def test_a_group_message_shortens_no_history(
        self, make_layer: MakeLayer
    ) -> None:
        """The layer itself keeps messages for a shorter time than the stream does."""
        layer = make_layer(expiry=self.expiry)
        keep = Retention(100, self.expiry * 100)
        await self.say(layer, "1", keep=keep)
        await layer.group_send("stream", {"type": "x"})

        await self.advance(self.expiry * 1.5)
        await layer.group_send("stream", {"type": "y"})
        await self.advance(self.expiry * 1.5)

        found = await self.kept(layer, keep=keep)
        assert found == ["1", '{"type":"x"}', '{"type":"y"}']

    async def test_the_groups_channels_get_an_event(self, layer: Any) -> None:
        channel = await layer.new_channel()
        await layer.group_add("stream", channel)
        await layer.group_add("stream", "queue")

        position = await layer.stream_publish(
            "stream", {"data": '{"n":1}', "topic": "room:lobby"}, keep=self.keep
        )

        for name in (channel, "queue"):
            event = await self.soon(layer.receive(name))
            assert event["type"] == "topic.publication"
            assert event["topic"] == "room:lobby"
            assert event["data"] == {"n": 1}
            assert Position(event["epoch"], event["offset"]) == position
