"""Tests with several event loops and threads."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from asgiref.sync import async_to_sync

from tiderace.testing.layer_contract.base import Contract, MakeLayer


class EventLoopsContract(Contract):
    """A layer outlives event loops and takes concurrent calls from threads."""

    def test_a_message_survives_the_event_loop_that_sent_it(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer()
        async_to_sync(layer.send)("queue", {"type": "greet"})

        received = async_to_sync(self.receive)(layer, "queue")

        assert received == {"type": "greet"}

    def test_a_membership_survives_the_event_loop_that_added_it(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer()
        async_to_sync(layer.group_add)("room", "queue")
        async_to_sync(layer.group_send)("room", {"type": "greet"})

        received = async_to_sync(self.receive)(layer, "queue")

        assert received == {"type": "greet"}

    async def test_concurrent_sends_from_threads_lose_no_message(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=1000)
        start = threading.Barrier(4)

        def send(sender: int) -> None:
            start.wait(self.timeout)
            for number in range(10):
                async_to_sync(layer.send)(
                    "queue", {"type": "count", "from": sender, "number": number}
                )

        senders = [asyncio.to_thread(send, sender) for sender in range(4)]
        await self.wait_for(asyncio.gather(*senders))

        received = await self.read_all(layer, "queue")
        for sender in range(4):
            numbers = [each["number"] for each in received if each["from"] == sender]
            assert numbers == list(range(10))

    async def test_a_send_from_a_thread_wakes_a_reader(self, layer: Any) -> None:
        channel = await self.join(layer, "room")
        reader = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0)

        await asyncio.to_thread(
            async_to_sync(layer.group_send), "room", {"type": "greet"}
        )

        assert await self.wait_for(reader) == {"type": "greet"}

    async def test_two_event_loops_read_concurrently(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer()
        elsewhere = asyncio.create_task(
            asyncio.to_thread(async_to_sync(self.receive), layer, "queue.elsewhere")
        )
        here = asyncio.create_task(layer.receive("queue.here"))
        await asyncio.sleep(0)

        await layer.send("queue.elsewhere", {"type": "there"})
        await layer.send("queue.here", {"type": "here"})

        assert await self.wait_for(here) == {"type": "here"}
        assert await self.wait_for(elsewhere) == {"type": "there"}
