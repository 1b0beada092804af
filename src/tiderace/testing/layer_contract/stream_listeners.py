"""What a listener is told, in which order, and in which thread and event loop.

It knows no channel.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from tiderace.history import Publication, merge
from tiderace.testing.layer_contract.stream_base import RecordingListener, Streams

__all__ = ["ListeningContract"]


class ListeningContract(Streams):
    """Who listens hears each publication once, in the order of the stream."""

    async def test_listeners_hear_publications_in_order(self, layer: Any) -> None:
        ear, other = RecordingListener("ear"), RecordingListener("other")
        await layer.stream_subscribe("stream", ear)
        await layer.stream_subscribe("stream", other)

        positions = await self.say(layer, *range(100))

        await self.until(lambda: len(ear.told) == len(other.told) == 100)
        assert ear.data == [str(number) for number in range(100)]
        assert [each.position for _, each in other.told if each] == positions

    async def test_a_publication_is_heard_as_it_was_published(self, layer: Any) -> None:
        ear = RecordingListener("ear")
        await layer.stream_subscribe("stream", ear)
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
        ear = RecordingListener("ear")
        groups = [f"stream-{number}" for number in range(30)]

        async def listen_and_publish(group: str) -> None:
            await layer.stream_subscribe(group, ear)
            await self.say(layer, group, group=group)

        await asyncio.gather(*map(listen_and_publish, groups))

        await self.until(lambda: len(ear.told) == 30)
        assert sorted(str(data) for data in ear.data) == sorted(groups)
        assert ear.groups == set(groups)

    async def test_all_listeners_of_a_process_share_one_publication(
        self, layer: Any
    ) -> None:
        ears = [RecordingListener(f"ear-{number}") for number in range(3)]
        for ear in ears:
            await layer.stream_subscribe("stream", ear)

        await self.say(layer, "a")

        await self.until(lambda: all(ear.told for ear in ears))
        assert len({id(ear.told[0][1]) for ear in ears}) == 1

    async def test_who_listens_no_more_hears_nothing(self, layer: Any) -> None:
        gone, witness = RecordingListener("gone"), RecordingListener("witness")
        await layer.stream_subscribe("stream", gone)
        await layer.stream_subscribe("stream", witness)

        layer.stream_unsubscribe("stream", gone)
        await self.say(layer, "a")

        await self.until(lambda: bool(witness.told))
        assert (gone.told, gone.groups) == ([], set())

    async def test_a_group_that_was_left_by_all_can_be_listened_to_again(
        self, layer: Any
    ) -> None:
        ear = RecordingListener("ear")
        for number in range(3):
            await layer.stream_subscribe("stream", ear)
            await self.say(layer, number)
            await self.until(lambda: bool(ear.told))
            layer.stream_unsubscribe("stream", ear)
            layer.stream_unsubscribe("stream", ear)

            assert ear.data == [str(number)]
            ear.told.clear()

    async def test_a_listener_is_told_of_its_own_groups_only(self, layer: Any) -> None:
        ear, other = RecordingListener("ear"), RecordingListener("other")
        await layer.stream_subscribe("mine", ear)
        await layer.stream_subscribe("yours", other)

        await self.say(layer, "a", group="yours")
        await self.say(layer, "b", group="mine")

        await self.until(lambda: bool(ear.told) and bool(other.told))
        assert (ear.data, other.data) == (["b"], ["a"])

    async def test_a_listener_that_fails_costs_the_others_nothing(
        self, layer: Any
    ) -> None:
        class Broken(RecordingListener):
            def on_publication(self, group: str, publication: Publication) -> None:
                raise RuntimeError("broken")

        ear = RecordingListener("ear")
        await layer.stream_subscribe("stream", Broken("broken"))
        await layer.stream_subscribe("stream", ear)

        await self.say(layer, "a", "b")

        await self.until(lambda: ear.data == ["a", "b"])

    async def test_what_is_read_and_what_is_heard_fit_together(
        self, layer: Any
    ) -> None:
        """Somebody comes back while others go on publishing."""
        since = (await self.say(layer, *range(5)))[1]
        ear = RecordingListener("ear")
        going_on = asyncio.create_task(self.say(layer, *range(5, 60)))

        await layer.stream_subscribe("stream", ear)
        top, kept = await layer.stream_read("stream", keep=self.keep, since=since)
        await going_on
        await self.until(lambda: ear.offsets[-1:] == [60])

        merged = merge(since, top, kept, [each for _, each in ear.told if each])
        assert merged is not None
        assert merged.recovered
        got = [int(each.data) for each in (*merged.missed, *merged.later)]
        assert got == list(range(2, 60))

    # Threads and loops

    async def test_a_listener_hears_in_its_own_event_loop(self, layer: Any) -> None:
        ear = RecordingListener("ear")
        await layer.stream_subscribe("stream", ear)

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
        ears = [RecordingListener(f"ear-{number}") for number in range(3)]
        for ear in ears:
            await layer.stream_subscribe("stream", ear)

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
