"""Tests of stream listeners: order, subscriptions, threads and event loops."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from tiderace.history import Publication, merge
from tiderace.testing.layer_contract.base import RecordingListener, StreamContract


class StreamListenersContract(StreamContract):
    """A listener gets each publication once, in the order of the stream."""

    async def test_every_listener_gets_the_publications_in_order(
        self, layer: Any
    ) -> None:
        listener = await self.listen(layer)
        other = await self.listen(layer)

        positions = await self.publish(layer, *range(100))

        await self.wait_until(
            lambda: len(listener.received) == len(other.received) == 100
        )
        assert listener.data == [str(number) for number in range(100)]
        assert [each.position for _, each in other.received if each] == positions

    async def test_a_listener_gets_every_field_of_a_publication(
        self, layer: Any
    ) -> None:
        listener = await self.listen(layer)
        record = {
            "data": "[1]",
            "info": '{"user":"7"}',
            "tags": {"kind": "note"},
            "topic": "room:lobby",
            "time": 1.5,
        }

        await layer.stream_publish("stream", record, keep=self.keep)

        await self.wait_until(lambda: bool(listener.received))
        ((group, publication),) = listener.received
        assert group == "stream"
        assert {name: getattr(publication, name) for name in record} == record

    async def test_a_listener_gets_every_publication_after_its_subscription(
        self, layer: Any
    ) -> None:
        listener = RecordingListener()
        groups = [f"stream-{number}" for number in range(30)]

        async def subscribe_and_publish(group: str) -> None:
            await layer.stream_subscribe(group, listener)
            await self.publish(layer, group, group=group)

        await asyncio.gather(*map(subscribe_and_publish, groups))

        await self.wait_until(lambda: len(listener.received) == 30)
        assert sorted(str(data) for data in listener.data) == sorted(groups)
        assert listener.groups == set(groups)

    async def test_the_listeners_of_a_process_share_one_publication_object(
        self, layer: Any
    ) -> None:
        listeners = [await self.listen(layer) for _ in range(3)]

        await self.publish(layer, "a")

        await self.wait_until(lambda: all(listener.received for listener in listeners))
        assert len({id(listener.received[0][1]) for listener in listeners}) == 1

    async def test_an_unsubscribed_listener_gets_no_publication(
        self, layer: Any
    ) -> None:
        gone = await self.listen(layer)
        other = await self.listen(layer)

        layer.stream_unsubscribe("stream", gone)
        await self.publish(layer, "a")

        await self.wait_until(lambda: bool(other.received))
        assert (gone.received, gone.groups) == ([], set())

    async def test_a_group_without_listeners_can_be_subscribed_to_again(
        self, layer: Any
    ) -> None:
        listener = RecordingListener()
        for number in range(3):
            await layer.stream_subscribe("stream", listener)
            await self.publish(layer, number)
            await self.wait_until(lambda: bool(listener.received))
            layer.stream_unsubscribe("stream", listener)
            layer.stream_unsubscribe("stream", listener)

            assert listener.data == [str(number)]
            listener.received.clear()

    async def test_a_listener_gets_publications_of_its_own_groups_only(
        self, layer: Any
    ) -> None:
        listener = await self.listen(layer, "mine")
        other = await self.listen(layer, "yours")

        await self.publish(layer, "a", group="yours")
        await self.publish(layer, "b", group="mine")

        await self.wait_until(lambda: bool(listener.received) and bool(other.received))
        assert (listener.data, other.data) == (["b"], ["a"])

    async def test_an_error_in_a_listener_does_not_affect_the_others(
        self, layer: Any
    ) -> None:
        class Broken(RecordingListener):
            def on_publication(self, group: str, publication: Publication) -> None:
                raise RuntimeError("broken")

        listener = RecordingListener()
        await layer.stream_subscribe("stream", Broken())
        await layer.stream_subscribe("stream", listener)

        await self.publish(layer, "a", "b")

        await self.wait_until(lambda: listener.data == ["a", "b"])

    async def test_history_and_live_publications_merge_without_a_gap(
        self, layer: Any
    ) -> None:
        """A client reads the history while publications continue."""
        since = (await self.publish(layer, *range(5)))[1]
        listener = RecordingListener()
        publishing = asyncio.create_task(self.publish(layer, *range(5, 60)))

        await layer.stream_subscribe("stream", listener)
        top, found = await layer.stream_read("stream", keep=self.keep, since=since)
        await publishing
        await self.wait_until(lambda: listener.offsets[-1:] == [60])

        merged = merge(
            since, top, found, [each for _, each in listener.received if each]
        )
        assert merged is not None
        assert merged.recovered
        got = [int(each.data) for each in (*merged.missed, *merged.later)]
        assert got == list(range(2, 60))

    # Threads and loops

    async def test_a_listener_is_called_in_its_own_event_loop(self, layer: Any) -> None:
        listener = await self.listen(layer)

        await asyncio.to_thread(
            lambda: layer.sync.stream_publish("stream", {"data": "1"}, keep=self.keep)
        )
        await self.publish(layer, "2")

        await self.wait_until(lambda: listener.data == ["1", "2"])
        assert listener.threads == {threading.get_ident()}

    async def test_sync_code_publishes_and_reads(self, layer: Any) -> None:
        def work() -> Any:
            layer.sync.stream_publish("stream", {"data": "1"}, keep=self.keep)
            return layer.sync.stream_read("stream", keep=self.keep)

        top, found = await asyncio.to_thread(work)

        assert top.offset == 1
        assert [each.data for each in found] == ["1"]

    async def test_all_listeners_get_concurrent_publications_in_one_order(
        self, layer: Any
    ) -> None:
        listeners = [await self.listen(layer) for _ in range(3)]

        def work(name: int) -> None:
            for number in range(25):
                layer.sync.stream_publish(
                    "stream", {"data": f"[{name},{number}]"}, keep=self.keep
                )

        await asyncio.gather(*(asyncio.to_thread(work, each) for each in range(4)))

        await self.wait_until(
            lambda: all(len(listener.received) == 100 for listener in listeners)
        )
        assert listeners[0].offsets == list(range(1, 101))
        assert listeners[0].data == listeners[1].data == listeners[2].data
        for name in range(4):
            mine = [data for data in listeners[0].data if f"[{name}," in str(data)]
            assert mine == [f"[{name},{number}]" for number in range(25)]
