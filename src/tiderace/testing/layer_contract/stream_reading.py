"""What is read of a stream: as much as is kept, from where, in which order.

It knows no publication that is not kept.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tiderace.history import Position
from tiderace.layers.broker import Retention
from tiderace.testing.layer_contract.stream_base import RecordingListener, Streams

__all__ = ["ReadingContract"]


class ReadingContract(Streams):
    """A stream has what was published in it, as long as it is kept."""

    async def test_a_publication_is_read_as_it_was_published(self, layer: Any) -> None:
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

    async def test_a_stream_is_read_exactly_as_long_as_it_is_kept(
        self, layer: Any
    ) -> None:
        keep = Retention(5, 3600)

        await self.say(layer, *range(300), keep=keep)

        top, found = await layer.stream_read("stream", keep=keep)
        assert top.offset == 300
        assert [each.data for each in found] == ["295", "296", "297", "298", "299"]

    async def test_a_stream_has_nothing_older_than_it_is_kept(self, layer: Any) -> None:
        keep = Retention(100, self.expiry)
        await self.say(layer, "old", keep=keep)
        await self.advance(self.expiry * 0.75)
        await self.say(layer, "new", keep=keep)

        await self.advance(self.expiry * 0.5)

        assert await self.kept(layer, keep=keep) == ["new"]

    async def test_a_stream_that_keeps_nothing_has_a_position(self, layer: Any) -> None:
        keep = Retention(0, 0)
        (position,) = await self.say(layer, "a", keep=keep)

        assert await layer.stream_read("stream", keep=keep) == (position, [])

    async def test_only_what_comes_after_a_position_is_read(self, layer: Any) -> None:
        positions = await self.say(layer, *"abcde")

        assert await self.kept(layer, since=positions[2]) == ["d", "e"]
        assert await self.kept(layer, since=positions[4]) == []
        assert await self.kept(layer, since=Position("", 3)) == ["d", "e"]

    async def test_nothing_comes_after_a_position_of_another_epoch(
        self, layer: Any
    ) -> None:
        await self.say(layer, *"abc")

        assert await self.kept(layer, since=Position("another", 1)) == []

    async def test_a_limit_counts_from_the_beginning(self, layer: Any) -> None:
        positions = await self.say(layer, *"abcde")

        assert await self.kept(layer, limit=2) == ["a", "b"]
        assert await self.kept(layer, limit=2, since=positions[1]) == ["c", "d"]
        assert await self.kept(layer, limit=9) == list("abcde")

    async def test_a_limit_of_nought_reads_the_position_alone(self, layer: Any) -> None:
        positions = await self.say(layer, *"abc")

        found = await layer.stream_read("stream", keep=self.keep, limit=0)

        assert found == (positions[-1], [])

    async def test_what_is_forgotten_is_read_no_more_and_positions_count_on(
        self, layer: Any
    ) -> None:
        positions = await self.say(layer, *"abc")

        await layer.stream_delete("stream")
        found = await layer.stream_read("stream", keep=self.keep)
        [following] = await self.say(layer, "d")

        assert found == (positions[-1], [])
        assert following == Position(positions[-1].epoch, 4)
        assert await self.kept(layer) == ["d"]

    async def test_a_stream_that_never_was_can_be_forgotten(self, layer: Any) -> None:
        await layer.stream_delete("stream")

        assert await self.kept(layer) == []

    async def test_who_listens_hears_on_after_the_stream_is_forgotten(
        self, layer: Any
    ) -> None:
        ear = RecordingListener("ear")
        await layer.stream_subscribe("stream", ear)
        await self.say(layer, "a")
        await self.until(lambda: ear.data == ["a"])

        await layer.stream_delete("stream")
        await self.say(layer, "b")

        await self.until(lambda: ear.data == ["a", "b"])

    async def test_in_reverse_the_newest_come_first(self, layer: Any) -> None:
        positions = await self.say(layer, *"abcde")

        assert await self.kept(layer, reverse=True) == list("edcba")
        assert await self.kept(layer, reverse=True, limit=2) == ["e", "d"]
        assert await self.kept(layer, reverse=True, since=positions[2]) == ["b", "a"]

    async def test_a_limit_counts_what_is_still_kept(self, layer: Any) -> None:
        keep = Retention(100, self.expiry)
        await self.say(layer, "old", "older", keep=keep)
        await self.advance(self.expiry * 1.25)
        await self.say(layer, "new", "newer", keep=keep)

        assert await self.kept(layer, keep=keep, limit=1) == ["new"]

    async def test_a_large_stream_is_read_whole(self, layer: Any) -> None:
        """More than a broker would send in one answer."""
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
