"""Tests of stream positions, idempotency keys and token buckets."""

from __future__ import annotations

from typing import Any

from tiderace.exceptions import RateExceeded
from tiderace.history import Position
from tiderace.ratelimit import Rate
from tiderace.testing.layer_contract.base import (
    RecordingListener,
    StreamContract,
    raises,
)


class StreamPositionsContract(StreamContract):
    """Each publication gets the next offset of its stream, within one epoch."""

    async def test_the_layer_lists_the_extension_streams(self, layer: Any) -> None:
        assert "streams" in layer.extensions

    async def test_offsets_increase_by_one_within_an_epoch(self, layer: Any) -> None:
        positions = await self.publish(layer, *"abc")

        assert [each.offset for each in positions] == [1, 2, 3]
        assert len({each.epoch for each in positions}) == 1

    async def test_the_position_of_an_empty_stream_is_stable(self, layer: Any) -> None:
        first, found = await layer.stream_read("stream", keep=self.keep)
        second, _ = await layer.stream_read("stream", keep=self.keep)

        assert first == second
        assert (first.offset, found) == (0, [])
        assert first.epoch

    async def test_the_first_publication_follows_the_position_read_before(
        self, layer: Any
    ) -> None:
        before, _ = await layer.stream_read("stream", keep=self.keep)

        (position,) = await self.publish(layer, "a")

        assert position == Position(before.epoch, 1)

    async def test_each_group_has_its_own_stream(self, layer: Any) -> None:
        (one,) = await self.publish(layer, "a", group="one")
        (other,) = await self.publish(layer, "b", group="other")

        assert one.epoch != other.epoch
        assert await self.read_data(layer, "one") == ["a"]

    async def test_flush_starts_a_new_epoch(self, layer: Any) -> None:
        before = (await self.publish(layer, "a", "b"))[-1]

        await layer.flush()
        after, found = await layer.stream_read("stream", keep=self.keep)

        assert after.epoch != before.epoch
        assert (after.offset, found) == (0, [])

    async def test_an_invalid_group_name_is_refused_by_every_stream_method(
        self, layer: Any
    ) -> None:
        listener = RecordingListener()
        for attempt in (
            lambda: self.publish(layer, "a", group="two words"),
            lambda: layer.stream_read("two words", keep=self.keep),
            lambda: layer.stream_subscribe("two words", listener),
        ):
            with raises(TypeError):
                await attempt()

    async def test_a_refused_record_takes_no_offset(self, layer: Any) -> None:
        await self.publish(layer, "a")

        with raises(TypeError):
            await layer.stream_publish("stream", {"data": object()}, keep=self.keep)

        assert (await self.publish(layer, "b"))[0].offset == 2

    # Keys

    async def test_a_second_publication_with_the_same_key_is_ignored(
        self, layer: Any
    ) -> None:
        (first,) = await self.publish(layer, "a", key="k")
        (again,) = await self.publish(layer, "b", key="k")
        (another,) = await self.publish(layer, "c", key="l")

        assert again == first
        assert another.offset == first.offset + 1
        assert await self.read_data(layer) == ["a", "c"]

    async def test_a_key_with_a_longer_life_is_found(self, layer: Any) -> None:
        (first,) = await self.publish(layer, "a", key="k", key_ttl=86_400)
        (again,) = await self.publish(layer, "b", key="k")

        assert again == first
        assert await layer.stream_find_published("stream", "k") == first

    async def test_keys_that_are_to_end_in_five_minutes_are_still_found(
        self, layer: Any
    ) -> None:
        (first,) = await self.publish(layer, "a", key="k", key_ttl=86_400)
        (second,) = await self.publish(layer, "b", key="l")

        await layer.stream_expire_keys("stream", ["k", "l", "unknown"])

        assert await self.publish(layer, "c", key="k") == [first]
        assert await self.publish(layer, "d", key="l") == [second]

    async def test_a_published_key_is_found_in_its_group_only(self, layer: Any) -> None:
        assert await layer.stream_find_published("room", "k") is None
        (first,) = await self.publish(layer, "a", key="k", group="room")
        assert await layer.stream_find_published("room", "k") == first
        assert await layer.stream_find_published("other", "k") is None

    async def test_a_token_bucket_gives_its_burst_and_then_a_delay(
        self, layer: Any
    ) -> None:
        rate = Rate(2, 3600.0)
        waits = [await layer.take_token("one", rate) for _ in range(3)]
        assert waits[:2] == [0, 0]
        assert 0 < waits[2] <= 1800
        assert await layer.take_token("other", rate) == 0

    async def test_a_publication_beyond_its_limit_is_refused(self, layer: Any) -> None:
        listener = await self.listen(layer)
        limit = ("one", Rate(2, 3600.0))
        await self.publish(layer, "a", "b", limit=limit)

        with raises(RateExceeded) as refused:
            await self.publish(layer, "c", limit=limit)
        (last,) = await self.publish(layer, "d", limit=("other", limit[1]))

        assert 0 < getattr(refused.error, "delay", 0) <= 1800
        assert last.offset == 3
        assert await self.read_data(layer) == ["a", "b", "d"]
        await self.wait_until(lambda: len(listener.received) >= 3)
        assert listener.data == ["a", "b", "d"]

    async def test_publications_take_the_tokens_of_take_token(self, layer: Any) -> None:
        limit = ("one", Rate(2, 3600.0))

        await self.publish(layer, "a", limit=limit)
        waits = [await layer.take_token(*limit) for _ in range(2)]

        assert waits[0] == 0
        assert waits[1] > 0
        with raises(RateExceeded):
            await self.publish(layer, "b", group="other", limit=limit)

    async def test_a_repeated_publication_takes_a_token(self, layer: Any) -> None:
        options: Any = {"key": "k", "limit": ("one", Rate(2, 3600.0))}

        first, again = await self.publish(layer, "a", "b", **options)

        assert again == first
        with raises(RateExceeded):
            await self.publish(layer, "c", **options)

    async def test_a_refused_publication_does_not_use_its_key(self, layer: Any) -> None:
        limit = ("one", Rate(1, 3600.0))
        await layer.take_token(*limit)

        with raises(RateExceeded):
            await self.publish(layer, "a", key="k", limit=limit)

        assert await layer.stream_find_published("stream", "k") is None
        await self.publish(layer, "b", key="k")
        assert await self.read_data(layer) == ["b"]

    async def test_two_groups_may_use_the_same_key(self, layer: Any) -> None:
        await self.publish(layer, "a", group="one", key="k")
        await self.publish(layer, "b", group="other", key="k")

        assert await self.read_data(layer, "other") == ["b"]
