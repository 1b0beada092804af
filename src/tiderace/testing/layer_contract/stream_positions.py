"""Where a publication stands in its stream, and that a key publishes once.

It knows no listener but to be refused.
"""

from __future__ import annotations

from typing import Any

from tiderace.history import Position
from tiderace.ratelimit import Rate
from tiderace.testing.layer_contract.base import refused
from tiderace.testing.layer_contract.stream_base import RecordingListener, Streams

__all__ = ["PositionsContract"]


class PositionsContract(Streams):
    """Each publication gets the next offset of its stream, within one epoch."""

    async def test_a_layer_with_streams_says_so(self, layer: Any) -> None:
        assert "streams" in layer.extensions

    async def test_offsets_count_up_by_one_within_an_epoch(self, layer: Any) -> None:
        positions = await self.say(layer, *"abc")

        assert [each.offset for each in positions] == [1, 2, 3]
        assert len({each.epoch for each in positions}) == 1

    async def test_an_empty_stream_has_a_position_that_stays(self, layer: Any) -> None:
        first, found = await layer.stream_read("stream", keep=self.keep)
        second, _ = await layer.stream_read("stream", keep=self.keep)

        assert first == second
        assert (first.offset, found) == (0, [])
        assert first.epoch

    async def test_the_first_publication_follows_the_position_read_before(
        self, layer: Any
    ) -> None:
        before, _ = await layer.stream_read("stream", keep=self.keep)

        (position,) = await self.say(layer, "a")

        assert position == Position(before.epoch, 1)

    async def test_the_streams_of_two_groups_are_two(self, layer: Any) -> None:
        (one,) = await self.say(layer, "a", group="one")
        (other,) = await self.say(layer, "b", group="other")

        assert one.epoch != other.epoch
        assert await self.kept(layer, "one") == ["a"]

    async def test_a_flushed_layer_begins_its_streams_anew(self, layer: Any) -> None:
        before = (await self.say(layer, "a", "b"))[-1]

        await layer.flush()
        after, found = await layer.stream_read("stream", keep=self.keep)

        assert after.epoch != before.epoch
        assert (after.offset, found) == (0, [])

    async def test_an_illegal_group_name_has_no_stream(self, layer: Any) -> None:
        ear = RecordingListener("ear")
        for attempt in (
            lambda: self.say(layer, "a", group="two words"),
            lambda: layer.stream_read("two words", keep=self.keep),
            lambda: layer.stream_subscribe("two words", ear),
        ):
            with refused(TypeError):
                await attempt()

    async def test_a_record_that_cannot_be_carried_takes_no_offset(
        self, layer: Any
    ) -> None:
        await self.say(layer, "a")

        with refused(TypeError):
            await layer.stream_publish("stream", {"data": object()}, keep=self.keep)

        assert (await self.say(layer, "b"))[0].offset == 2

    # Keys

    async def test_a_key_publishes_once(self, layer: Any) -> None:
        (first,) = await self.say(layer, "a", key="k")
        (again,) = await self.say(layer, "b", key="k")
        (another,) = await self.say(layer, "c", key="l")

        assert again == first
        assert another.offset == first.offset + 1
        assert await self.kept(layer) == ["a", "c"]

    async def test_a_key_is_found_where_it_was_published(self, layer: Any) -> None:
        assert await layer.stream_find_published("room", "k") is None
        (first,) = await self.say(layer, "a", key="k", group="room")
        assert await layer.stream_find_published("room", "k") == first
        assert await layer.stream_find_published("other", "k") is None

    async def test_a_bucket_gives_what_it_holds(self, layer: Any) -> None:
        rate = Rate(2, 3600.0)
        waits = [await layer.take_token("somebody", rate) for _ in range(3)]
        assert waits[:2] == [0, 0]
        assert 0 < waits[2] <= 1800
        assert await layer.take_token("somebody else", rate) == 0

    async def test_a_key_is_a_groups_own(self, layer: Any) -> None:
        await self.say(layer, "a", group="one", key="k")
        await self.say(layer, "b", group="other", key="k")

        assert await self.kept(layer, "other") == ["b"]
