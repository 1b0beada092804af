"""Tests of reading a stream: retention, start, limit, order and deletion."""

from __future__ import annotations

import asyncio
from typing import Any

from tiderace.history import Position
from tiderace.layers.broker import Retention
from tiderace.testing.layer_contract.base import StreamContract


class StreamReadingContract(StreamContract):
    """A stream returns its publications within its retention."""

    async def test_reading_returns_every_field_of_a_publication(
        self, layer: Any
    ) -> None:
        record = {
            "data": '{"text":"h\\u00e9"}',
            "info": '{"user":"7"}',
            "tags": {"kind": "note"},
            "topic": "room:lobby",
            "time": 1.5,
        }
        position = await layer.stream_publish("stream", record, keep=self.keep)

        _, (found,) = await layer.stream_read("stream", keep=self.keep)

        assert found.position == position
        assert {name: getattr(found, name) for name in record} == record

    async def test_bytes_are_delivered_and_kept_as_they_are(self, layer: Any) -> None:
        data = bytes(range(256)) + b"\\u00e9\r\n\xff"
        listener = await self.listen(layer)

        await layer.stream_publish("stream", {"data": data}, keep=self.keep)

        await self.wait_until(lambda: listener.data == [data])
        assert await self.read_data(layer) == [data]

    async def test_a_stream_keeps_exactly_its_retention_size(self, layer: Any) -> None:
        keep = Retention(5, 3600)

        await self.publish(layer, *range(300), keep=keep)

        top, found = await layer.stream_read("stream", keep=keep)
        assert top.offset == 300
        assert [each.data for each in found] == ["295", "296", "297", "298", "299"]

    async def test_a_stream_keeps_no_publication_beyond_its_retention_time(
        self, layer: Any
    ) -> None:
        keep = Retention(100, self.expiry)
        await self.publish(layer, "old", keep=keep)
        await self.advance(self.expiry * 0.75)
        await self.publish(layer, "new", keep=keep)

        await self.advance(self.expiry * 0.5)

        assert await self.read_data(layer, keep=keep) == ["new"]

    async def test_a_stream_without_retention_has_a_position(self, layer: Any) -> None:
        keep = Retention(0, 0)
        (position,) = await self.publish(layer, "a", keep=keep)

        assert await layer.stream_read("stream", keep=keep) == (position, [])

    async def test_reading_since_a_position_returns_the_later_publications(
        self, layer: Any
    ) -> None:
        positions = await self.publish(layer, *"abcde")

        assert await self.read_data(layer, since=positions[2]) == ["d", "e"]
        assert await self.read_data(layer, since=positions[4]) == []
        assert await self.read_data(layer, since=Position("", 3)) == ["d", "e"]

    async def test_reading_since_a_position_of_another_epoch_returns_nothing(
        self, layer: Any
    ) -> None:
        await self.publish(layer, *"abc")

        assert await self.read_data(layer, since=Position("another", 1)) == []

    async def test_a_limit_returns_the_oldest_publications(self, layer: Any) -> None:
        positions = await self.publish(layer, *"abcde")

        assert await self.read_data(layer, limit=2) == ["a", "b"]
        assert await self.read_data(layer, limit=2, since=positions[1]) == ["c", "d"]
        assert await self.read_data(layer, limit=9) == list("abcde")

    async def test_a_limit_may_be_more_than_a_database_counts(self, layer: Any) -> None:
        await self.publish(layer, *"abc")

        assert await self.read_data(layer, limit=2**63) == list("abc")
        assert await self.read_data(layer, limit=2**63, reverse=True) == list("cba")

    async def test_a_limit_of_zero_returns_the_position_only(self, layer: Any) -> None:
        positions = await self.publish(layer, *"abc")

        found = await layer.stream_read("stream", keep=self.keep, limit=0)

        assert found == (positions[-1], [])

    async def test_deleting_a_stream_removes_publications_and_keeps_the_position(
        self, layer: Any
    ) -> None:
        positions = await self.publish(layer, *"abc")

        await layer.stream_delete("stream")
        found = await layer.stream_read("stream", keep=self.keep)
        [following] = await self.publish(layer, "d")

        assert found == (positions[-1], [])
        assert following == Position(positions[-1].epoch, 4)
        assert await self.read_data(layer) == ["d"]

    async def test_deleting_an_empty_stream_is_no_error(self, layer: Any) -> None:
        await layer.stream_delete("stream")

        assert await self.read_data(layer) == []

    async def test_listeners_stay_subscribed_when_the_stream_is_deleted(
        self, layer: Any
    ) -> None:
        listener = await self.listen(layer)
        await self.publish(layer, "a")
        await self.wait_until(lambda: listener.data == ["a"])

        await layer.stream_delete("stream")
        await self.publish(layer, "b")

        await self.wait_until(lambda: listener.data == ["a", "b"])

    async def test_reverse_returns_the_newest_publications_first(
        self, layer: Any
    ) -> None:
        positions = await self.publish(layer, *"abcde")

        assert await self.read_data(layer, reverse=True) == list("edcba")
        assert await self.read_data(layer, reverse=True, limit=2) == ["e", "d"]
        assert await self.read_data(layer, reverse=True, since=positions[2]) == [
            "b",
            "a",
        ]

    async def test_a_limit_does_not_count_expired_publications(
        self, layer: Any
    ) -> None:
        keep = Retention(100, self.expiry)
        await self.publish(layer, "old", "older", keep=keep)
        await self.advance(self.expiry * 1.25)
        await self.publish(layer, "new", "newer", keep=keep)

        assert await self.read_data(layer, keep=keep, limit=1) == ["new"]

    async def test_a_large_stream_is_read_completely(self, layer: Any) -> None:
        """More than a broker sends in one reply."""
        keep = Retention(2000, 3600)
        text = f'"{"x" * 3000}"'
        for _ in range(4):
            await asyncio.gather(
                *(
                    layer.stream_publish("stream", {"data": text}, keep=keep)
                    for _ in range(300)
                )
            )

        for options in ({}, {"limit": 1500}, {"reverse": True}):
            top, found = await layer.stream_read("stream", keep=keep, **options)
            offsets = [each.position.offset for each in found]
            assert top.offset == 1200
            assert sorted(offsets, reverse="reverse" in options) == offsets
            assert len(set(offsets)) == 1200
