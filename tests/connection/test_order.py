"""The order of messages and events, and what a slow consumer gets."""

from __future__ import annotations

import asyncio

import pytest

from support.clients.asgi_client import Client, ServerQueue
from support.consumers import Accepting, Member
from support.waiting import settle, until, within
from tiderace import metrics
from tiderace.layers import (
    InMemoryChannelLayer,
    channel_layers,
)

pytestmark = pytest.mark.usefixtures("layer")


async def test_events_are_handled_one_at_a_time():
    running, most, order = 0, 0, []

    class Consumer(Accepting):
        async def websocket_receive(self, event):
            nonlocal running, most
            running += 1
            most = max(most, running)
            for _ in range(3):
                await asyncio.sleep(0)
            order.append(event["text"])
            running -= 1

    client = await Client(Consumer.as_asgi()).open()
    for number in range(20):
        client.text(str(number))
    await client.leave()

    assert most == 1
    assert order == [str(number) for number in range(20)]


class Recorder(Accepting):
    """Notes the texts of its client; waits in the handler of "wait" until released."""

    def __init__(self):
        super().__init__()
        self.handled = []
        self.released = asyncio.Event()

    async def websocket_receive(self, event):
        self.handled.append(event["text"])
        if event["text"] == "wait":
            await self.released.wait()


async def test_an_event_of_our_server_is_handled_in_the_next_iteration_of_the_loop():
    recorder = Recorder()
    client = await Client(recorder, events=ServerQueue()).open()
    await settle()

    client.text("hello")
    await asyncio.sleep(0)

    assert recorder.handled == ["hello"]
    await client.leave()


async def test_events_of_our_server_are_handled_in_order_by_a_busy_consumer():
    recorder = Recorder()
    client = await Client(recorder, events=ServerQueue()).open()
    sent = []
    for text in ["first", "wait", *map(str, range(40)), "last"]:
        sent.append(text)
        client.text(text)
        if text in ("first", "wait", "20"):
            await settle()

    recorder.released.set()
    await client.leave()

    assert recorder.handled == sent


async def test_our_server_passes_on_messages_that_come_right_before_the_disconnect():
    recorder = Recorder()
    client = await Client(recorder, events=ServerQueue()).open()
    await settle()

    client.text("first")
    client.text("second")
    await client.leave()

    assert recorder.handled == ["first", "second"]


async def test_middleware_that_replaces_receive_sees_every_event_of_our_server():
    recorder, seen = Recorder(), []

    async def middleware(scope, receive, send):
        async def recording_receive():
            event = await receive()
            seen.append(event.get("text", event["type"]))
            return event

        await recorder(scope, recording_receive, send)

    client = await Client(middleware, events=ServerQueue()).open()
    for text in ("first", "second"):
        client.text(text)
        await settle()
    await client.leave()

    assert recorder.handled == ["first", "second"]
    assert seen == ["websocket.connect", "first", "second", "websocket.disconnect"]


async def test_messages_of_the_layer_and_events_never_run_at_once(layer):
    running, most, handled = 0, 0, 0

    class Consumer(Accepting):
        async def websocket_connect(self, event):
            await self.channel_layer.group_add("room", self.channel_name)
            await super().websocket_connect(event)

        async def websocket_receive(self, event):
            await self.work()

        async def news(self, event):
            await self.work()

        async def work(self):
            nonlocal running, most, handled
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            handled += 1

    client = await Client(Consumer.as_asgi()).open()
    for _ in range(10):
        client.text("event")
        await layer.group_send("room", {"type": "news"})
    await until(lambda: handled == 20)
    await client.leave()

    assert most == 1


@pytest.mark.parametrize(("size", "ahead"), [(1, 32), (100_000, 3)])
async def test_a_bounded_number_of_events_is_read_ahead(size, ahead):
    gate = asyncio.Event()

    class Consumer(Accepting):
        async def websocket_receive(self, event):
            await gate.wait()

    client = await Client(Consumer.as_asgi()).open()
    for _ in range(100):
        client.text("e" * size)
    await settle()

    # One more is being handled.
    assert client._events.qsize() == 100 - 1 - ahead
    gate.set()
    await client.leave()


async def test_messages_beyond_the_capacity_of_a_slow_consumer_are_dropped_and_counted(
    caplog,
):
    layer = InMemoryChannelLayer(capacity=2)
    channel_layers.set("default", layer)
    gate, busy = asyncio.Event(), asyncio.Event()

    class Consumer(Member):
        async def slow(self, event):
            busy.set()
            await gate.wait()
            await self.say(str(event["number"]))

    before = metrics.MESSAGES_DROPPED_FULL.value
    client = await Client(Consumer.as_asgi()).open()
    quick = await Client(Member.as_asgi()).open()
    await layer.group_send("room", {"type": "slow", "number": 0})
    await within(busy.wait())
    for number in range(1, 6):
        await layer.group_send("room", {"type": "slow", "number": number})
        await settle()
    gate.set()
    await client.until("websocket.send", 3)
    await client.leave()
    await quick.leave()

    # One was being handled, two waited.
    assert client.texts == ["0", "1", "2"]
    assert metrics.MESSAGES_DROPPED_FULL.value == before + 3
    full = [record for record in caplog.records if "is full" in record.getMessage()]
    assert len(full) == 1
