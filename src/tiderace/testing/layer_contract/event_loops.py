"""What a layer does for several event loops and threads.

It knows no consumer; whoever sends and receives here is a function.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from asgiref.sync import async_to_sync

from tiderace.testing.layer_contract.base import Contract, MakeLayer

__all__ = ["LoopsContract"]


class LoopsContract(Contract):
    """Event loops may come and go, and threads may send at once."""

    def test_a_message_survives_from_one_event_loop_to_the_next(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer()
        async_to_sync(layer.send)("queue", {"type": "greet"})

        received = async_to_sync(self._receive)(layer, "queue")

        assert received == {"type": "greet"}

    def test_a_membership_survives_from_one_event_loop_to_the_next(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer()
        async_to_sync(layer.group_add)("room", "queue")
        async_to_sync(layer.group_send)("room", {"type": "greet"})

        received = async_to_sync(self._receive)(layer, "queue")

        assert received == {"type": "greet"}

    async def test_threads_send_at_once_and_nothing_is_lost(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=1000)
        start = threading.Barrier(4)

        def send(sender: int) -> None:
            start.wait(self.patience)
            for number in range(10):
                async_to_sync(layer.send)(
                    "queue", {"type": "count", "from": sender, "number": number}
                )

        senders = [asyncio.to_thread(send, sender) for sender in range(4)]
        await self.soon(asyncio.gather(*senders))

        received = await self.drain(layer, "queue")
        for sender in range(4):
            numbers = [each["number"] for each in received if each["from"] == sender]
            assert numbers == list(range(10))

    async def test_a_reader_is_woken_by_a_thread(self, layer: Any) -> None:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        reader = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0)

        await asyncio.to_thread(
            async_to_sync(layer.group_send), "room", {"type": "greet"}
        )

        assert await self.soon(reader) == {"type": "greet"}

    async def test_two_event_loops_read_at_once(self, make_layer: MakeLayer) -> None:
        layer = make_layer()
        elsewhere = asyncio.create_task(
            asyncio.to_thread(async_to_sync(self._receive), layer, "queue.elsewhere")
        )
        here = asyncio.create_task(layer.receive("queue.here"))
        await asyncio.sleep(0)

        await layer.send("queue.elsewhere", {"type": "there"})
        await layer.send("queue.here", {"type": "here"})

        assert await self.soon(here) == {"type": "here"}
        assert await self.soon(elsewhere) == {"type": "there"}

    async def _receive(self, layer: Any, channel: str) -> Any:
        return await self.soon(layer.receive(channel))
