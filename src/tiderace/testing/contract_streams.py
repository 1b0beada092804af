"""The contract of streams with a memory as tests, for layers with that extension.

    from tiderace.testing.contract import LayerContract
    from tiderace.testing.contract_streams import StreamsContract

    class TestMyLayer(StreamsContract, LayerContract):
        ...  # the fixtures and ``advance``, as for ``LayerContract`` alone

It knows a layer by its public methods alone, and needs what ``LayerContract`` needs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from tiderace.history import Position, Publication, merge
from tiderace.layers.broker import Keep
from tiderace.ratelimit import Rate

__all__ = ["Ear", "StreamsContract"]

MakeLayer = Callable[..., Any]


class Ear:
    """A listener that remembers what it was told, and in which thread.

    Args:
        name: no other listener to a group has it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.groups: set[str] = set()
        self.told: list[tuple[str, Publication | None]] = []
        self.threads: set[int] = set()

    def heard(self, group: str, publication: Publication) -> None:
        """Remember a publication."""
        self.told.append((group, publication))
        self.threads.add(threading.get_ident())

    def missed(self, group: str) -> None:
        """Remember, as None, that something was lost."""
        self.told.append((group, None))

    @property
    def data(self) -> list[str | None]:
        """The data of what was heard, with None for what was lost."""
        return [None if each is None else each.data for _, each in self.told]

    @property
    def offsets(self) -> list[int]:
        """Where what was heard stands."""
        return [each.position.offset for _, each in self.told if each is not None]


class StreamsContract:
    """What every layer with the extension ``"streams"`` does.

    Attributes:
        expiry: see ``LayerContract``.
        patience: see ``LayerContract``.
        keep: what the streams of these tests keep, unless they say otherwise.
    """

    expiry: float = 60
    patience: float = 10
    keep = Keep(100, 3600)

    async def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass for the layers of this test.

        Raises:
            NotImplementedError: when the subclass does not say how.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must say how time passes: define advance(seconds)"
        )

    async def soon(self, awaitable: Awaitable[Any]) -> Any:
        """The result of ``awaitable``, which must come within ``patience``."""
        async with asyncio.timeout(self.patience):
            return await awaitable

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when ``condition`` holds, which must be within ``patience``."""
        async with asyncio.timeout(self.patience):
            while not condition():  # noqa: ASYNC110 (nobody tells when it does)
                await asyncio.sleep(0.005)

    async def say(
        self, layer: Any, *numbers: object, group: str = "stream", **options: Any
    ) -> list[Position]:
        """Publish each of ``numbers`` as data, one after the other."""
        keep = options.pop("keep", self.keep)
        return [
            await layer.stream_publish(group, {"data": str(each)}, keep=keep, **options)
            for each in numbers
        ]

    async def kept(self, layer: Any, group: str = "stream", **options: Any) -> Any:
        """The data of what a stream has."""
        _, found = await layer.stream_read(group, **{"keep": self.keep, **options})
        return [publication.data for publication in found]

    # Positions

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
        ear = Ear("ear")
        for attempt in (
            lambda: self.say(layer, "a", group="two words"),
            lambda: layer.stream_read("two words", keep=self.keep),
            lambda: layer.listen("two words", ear),
        ):
            try:
                await attempt()
            except TypeError:
                continue
            raise AssertionError("TypeError was expected, but nothing was raised")

    async def test_a_record_that_cannot_be_carried_takes_no_offset(
        self, layer: Any
    ) -> None:
        await self.say(layer, "a")

        try:
            await layer.stream_publish("stream", {"data": object()}, keep=self.keep)
        except TypeError:
            pass
        else:
            raise AssertionError("TypeError was expected, but nothing was raised")

        assert (await self.say(layer, "b"))[0].offset == 2

    # Reading

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
        keep = Keep(5, 3600)

        await self.say(layer, *range(300), keep=keep)

        top, found = await layer.stream_read("stream", keep=keep)
        assert top.offset == 300
        assert [each.data for each in found] == ["295", "296", "297", "298", "299"]

    async def test_a_stream_has_nothing_older_than_it_is_kept(self, layer: Any) -> None:
        keep = Keep(100, self.expiry)
        await self.say(layer, "old", keep=keep)
        await self.advance(self.expiry * 0.75)
        await self.say(layer, "new", keep=keep)

        await self.advance(self.expiry * 0.5)

        assert await self.kept(layer, keep=keep) == ["new"]

    async def test_a_stream_that_keeps_nothing_has_a_position(self, layer: Any) -> None:
        keep = Keep(0, 0)
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

        await layer.stream_forget("stream")
        found = await layer.stream_read("stream", keep=self.keep)
        [following] = await self.say(layer, "d")

        assert found == (positions[-1], [])
        assert following == Position(positions[-1].epoch, 4)
        assert await self.kept(layer) == ["d"]

    async def test_a_stream_that_never_was_can_be_forgotten(self, layer: Any) -> None:
        await layer.stream_forget("stream")

        assert await self.kept(layer) == []

    async def test_who_listens_hears_on_after_the_stream_is_forgotten(
        self, layer: Any
    ) -> None:
        ear = Ear("ear")
        await layer.listen("stream", ear)
        await self.say(layer, "a")
        await self.until(lambda: ear.data == ["a"])

        await layer.stream_forget("stream")
        await self.say(layer, "b")

        await self.until(lambda: ear.data == ["a", "b"])

    async def test_in_reverse_the_newest_come_first(self, layer: Any) -> None:
        positions = await self.say(layer, *"abcde")

        assert await self.kept(layer, reverse=True) == list("edcba")
        assert await self.kept(layer, reverse=True, limit=2) == ["e", "d"]
        assert await self.kept(layer, reverse=True, since=positions[2]) == ["b", "a"]

    async def test_a_limit_counts_what_is_still_kept(self, layer: Any) -> None:
        keep = Keep(100, self.expiry)
        await self.say(layer, "old", "older", keep=keep)
        await self.advance(self.expiry * 1.25)
        await self.say(layer, "new", "newer", keep=keep)

        assert await self.kept(layer, keep=keep, limit=1) == ["new"]

    async def test_a_large_stream_is_read_whole(self, layer: Any) -> None:
        """More than a broker would send in one answer."""
        keep = Keep(2000, 3600)
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

    # Keys

    async def test_a_key_publishes_once(self, layer: Any) -> None:
        (first,) = await self.say(layer, "a", key="k")
        (again,) = await self.say(layer, "b", key="k")
        (another,) = await self.say(layer, "c", key="l")

        assert again == first
        assert another.offset == first.offset + 1
        assert await self.kept(layer) == ["a", "c"]

    async def test_a_key_is_found_where_it_was_published(self, layer: Any) -> None:
        assert await layer.stream_published("room", "k") is None
        (first,) = await self.say(layer, "a", key="k", group="room")
        assert await layer.stream_published("room", "k") == first
        assert await layer.stream_published("other", "k") is None

    async def test_a_bucket_gives_what_it_holds(self, layer: Any) -> None:
        rate = Rate(2, 3600.0)
        waits = [await layer.spend("somebody", rate) for _ in range(3)]
        assert waits[:2] == [0, 0]
        assert 0 < waits[2] <= 1800
        assert await layer.spend("somebody else", rate) == 0

    async def test_a_key_is_a_groups_own(self, layer: Any) -> None:
        await self.say(layer, "a", group="one", key="k")
        await self.say(layer, "b", group="other", key="k")

        assert await self.kept(layer, "other") == ["b"]

    # Listening

    async def test_listeners_hear_publications_in_order(self, layer: Any) -> None:
        ear, other = Ear("ear"), Ear("other")
        await layer.listen("stream", ear)
        await layer.listen("stream", other)

        positions = await self.say(layer, *range(100))

        await self.until(lambda: len(ear.told) == len(other.told) == 100)
        assert ear.data == [str(number) for number in range(100)]
        assert [each.position for _, each in other.told if each] == positions

    async def test_a_publication_is_heard_as_it_was_published(self, layer: Any) -> None:
        ear = Ear("ear")
        await layer.listen("stream", ear)
        record = {
            "data": "[1]",
            "info": '{"user":"7"}',
            "tags": {"kind": "note"},
            "topic": "room:lobby",
            "time": 1.5,
        }

        await layer.stream_publish("stream", record, keep=self.keep)

        await self.until(lambda: bool(ear.told))
        ((group, heard),) = ear.told
        assert group == "stream"
        assert {name: getattr(heard, name) for name in record} == record

    async def test_whatever_is_published_after_listening_began_is_heard(
        self, layer: Any
    ) -> None:
        ear = Ear("ear")
        groups = [f"stream-{number}" for number in range(30)]

        async def listen_and_publish(group: str) -> None:
            await layer.listen(group, ear)
            await self.say(layer, group, group=group)

        await asyncio.gather(*map(listen_and_publish, groups))

        await self.until(lambda: len(ear.told) == 30)
        assert sorted(str(data) for data in ear.data) == sorted(groups)
        assert ear.groups == set(groups)

    async def test_all_listeners_of_a_process_share_one_publication(
        self, layer: Any
    ) -> None:
        ears = [Ear(f"ear-{number}") for number in range(3)]
        for ear in ears:
            await layer.listen("stream", ear)

        await self.say(layer, "a")

        await self.until(lambda: all(ear.told for ear in ears))
        assert len({id(ear.told[0][1]) for ear in ears}) == 1

    async def test_who_listens_no_more_hears_nothing(self, layer: Any) -> None:
        gone, witness = Ear("gone"), Ear("witness")
        await layer.listen("stream", gone)
        await layer.listen("stream", witness)

        layer.unlisten("stream", gone)
        await self.say(layer, "a")

        await self.until(lambda: bool(witness.told))
        assert (gone.told, gone.groups) == ([], set())

    async def test_a_group_that_was_left_by_all_can_be_listened_to_again(
        self, layer: Any
    ) -> None:
        ear = Ear("ear")
        for number in range(3):
            await layer.listen("stream", ear)
            await self.say(layer, number)
            await self.until(lambda: bool(ear.told))
            layer.unlisten("stream", ear)
            layer.unlisten("stream", ear)

            assert ear.data == [str(number)]
            ear.told.clear()

    async def test_a_listener_is_told_of_its_own_groups_only(self, layer: Any) -> None:
        ear, other = Ear("ear"), Ear("other")
        await layer.listen("mine", ear)
        await layer.listen("yours", other)

        await self.say(layer, "a", group="yours")
        await self.say(layer, "b", group="mine")

        await self.until(lambda: bool(ear.told) and bool(other.told))
        assert (ear.data, other.data) == (["b"], ["a"])

    async def test_a_listener_that_fails_costs_the_others_nothing(
        self, layer: Any
    ) -> None:
        class Broken(Ear):
            def heard(self, group: str, publication: Publication) -> None:
                raise RuntimeError("broken")

        ear = Ear("ear")
        await layer.listen("stream", Broken("broken"))
        await layer.listen("stream", ear)

        await self.say(layer, "a", "b")

        await self.until(lambda: ear.data == ["a", "b"])

    async def test_what_is_read_and_what_is_heard_fit_together(
        self, layer: Any
    ) -> None:
        """Somebody comes back while others go on publishing."""
        since = (await self.say(layer, *range(5)))[1]
        ear = Ear("ear")
        going_on = asyncio.create_task(self.say(layer, *range(5, 60)))

        await layer.listen("stream", ear)
        top, kept = await layer.stream_read("stream", keep=self.keep, since=since)
        await going_on
        await self.until(lambda: ear.offsets[-1:] == [60])

        merged = merge(since, top, kept, [each for _, each in ear.told if each])
        assert merged is not None
        assert merged.recovered
        got = [int(each.data) for each in (*merged.missed, *merged.later)]
        assert got == list(range(2, 60))

    # Groups

    async def test_a_group_message_is_heard_and_read(self, layer: Any) -> None:
        ear = Ear("ear")
        await layer.listen("stream", ear)
        await self.say(layer, "1")

        await layer.group_send("stream", {"type": "greet", "to": "you"})
        await layer.group_send("stream", {"type": "bye"}, exclude=["nobody"])

        said = ["1", '{"type":"greet","to":"you"}', '{"type":"bye"}']
        await self.until(lambda: ear.data == said)
        assert ear.offsets == [1, 2, 3]
        assert await self.kept(layer) == said

    async def test_a_broadcast_is_heard_and_read_as_json(self, layer: Any) -> None:
        ear = Ear("ear")
        await layer.listen("stream", ear)
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
        keep = Keep(100, self.expiry * 100)
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

    # Threads and loops

    async def test_a_listener_hears_in_its_own_event_loop(self, layer: Any) -> None:
        ear = Ear("ear")
        await layer.listen("stream", ear)

        await asyncio.to_thread(
            lambda: layer.sync.stream_publish("stream", {"data": "1"}, keep=self.keep)
        )
        await self.say(layer, "2")

        await self.until(lambda: ear.data == ["1", "2"])
        assert ear.threads == {threading.get_ident()}

    async def test_sync_code_publishes_and_reads(self, layer: Any) -> None:
        def work() -> Any:
            layer.sync.stream_publish("stream", {"data": "1"}, keep=self.keep)
            return layer.sync.stream_read("stream", keep=self.keep)

        top, found = await asyncio.to_thread(work)

        assert top.offset == 1
        assert [each.data for each in found] == ["1"]

    async def test_threads_publish_at_once_and_all_hear_one_order(
        self, layer: Any
    ) -> None:
        ears = [Ear(f"ear-{number}") for number in range(3)]
        for ear in ears:
            await layer.listen("stream", ear)

        def work(name: int) -> None:
            for number in range(25):
                layer.sync.stream_publish(
                    "stream", {"data": f"[{name},{number}]"}, keep=self.keep
                )

        await asyncio.gather(*(asyncio.to_thread(work, each) for each in range(4)))

        await self.until(lambda: all(len(ear.told) == 100 for ear in ears))
        assert ears[0].offsets == list(range(1, 101))
        assert ears[0].data == ears[1].data == ears[2].data
        for name in range(4):
            mine = [data for data in ears[0].data if f"[{name}," in str(data)]
            assert mine == [f"[{name},{number}]" for number in range(25)]
