"""The turn of the event loop between two messages of one consumer."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
import uvloop

from support.clients.asgi_client import Client
from support.waiting import settle, until
from tiderace.delivery.loop_iterations import loop_iterations, ready_counter
from tiderace.generic.websocket import AsyncWebsocketConsumer
from tiderace.layers import InMemoryChannelLayer, channel_layers
from tiderace.server.frames import text_frame
from tiderace.server.writer import ServerFrameWriter, WriteScheduler


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop])
def run(request):
    """Runs a coroutine function with a layer of its own, on both kinds of loop."""

    def run(main):
        layer = InMemoryChannelLayer()
        before = channel_layers.set("default", layer)
        try:
            with asyncio.Runner(loop_factory=request.param) as runner:
                runner.run(main(layer))
        finally:
            channel_layers.backends.pop("default", None)
            if before is not None:
                channel_layers.set("default", before)

    return run


class Subscriptions(AsyncWebsocketConsumer):
    """Starts a task at one message, and cancels it at the next."""

    groups = ("room",)
    state = "not begun"

    async def receive(self, text_data=None, bytes_data=None):
        if text_data == "subscribe":
            await asyncio.sleep(0.01)
            self.task = asyncio.create_task(self.stream())
        else:
            self.task.cancel()
            await asyncio.wait([self.task])
            await self.send(self.state)

    async def subscribe(self, event):
        await self.receive("subscribe")

    async def complete(self, event):
        await self.receive("complete")

    async def stream(self):
        try:
            await asyncio.Event().wait()
        finally:
            self.state = "cleaned up"


class Latest(AsyncWebsocketConsumer):
    """Hands each message to a task, through a queue of one."""

    groups = ("room",)

    async def connect(self):
        self.queue = asyncio.Queue(maxsize=1)
        await self.accept()
        self.spawn(self.write())

    async def news(self, event):
        if self.queue.full():
            self.queue.get_nowait()
        self.queue.put_nowait(event["number"])

    async def write(self):
        while True:
            await self.send(str(await self.queue.get()))


def test_a_task_started_by_one_event_has_begun_before_the_next(run):
    async def main(layer):
        client = await Client(Subscriptions.as_asgi()).open()
        client.text("subscribe")
        client.text("complete")
        await client.until("websocket.send")
        await client.leave()

        assert client.texts == ["cleaned up"]

    run(main)


def test_a_task_started_by_one_message_has_begun_before_the_next(run):
    async def main(layer):
        client = await Client(Subscriptions.as_asgi()).open()
        await layer.group_send("room", {"type": "subscribe"})
        await layer.group_send("room", {"type": "complete"})
        await client.until("websocket.send")
        await client.leave()

        assert client.texts == ["cleaned up"]

    run(main)


def test_a_burst_of_messages_loses_none_on_its_way_through_a_task(run):
    async def main(layer):
        client = await Client(Latest.as_asgi()).open()
        await settle()
        for number in range(300):
            await layer.group_send("room", {"type": "news", "number": number})
        await client.until("websocket.send", 300)
        await client.leave()

        assert client.texts == [str(number) for number in range(300)]

    run(main)


def test_a_burst_of_two_senders_loses_none_on_its_way_through_a_task(run):
    async def main(layer):
        async def send(numbers):
            for number in numbers:
                await layer.group_send("room", {"type": "news", "number": number})

        client = await Client(Latest.as_asgi()).open()
        await settle()
        await asyncio.gather(send(range(40)), send(range(40, 80)))
        await client.until("websocket.send", 80)
        await client.leave()

        assert sorted(map(int, client.texts)) == list(range(80))

    run(main)


class Turns:
    """Counts the turns of the running loop inside a ``with`` block."""

    def __enter__(self):
        self.count = 0
        self._task = asyncio.create_task(self._run())
        return self

    def __exit__(self, *error):
        self._task.cancel()

    async def _run(self):
        while True:
            self.count += 1
            await asyncio.sleep(0)


async def turns_of_500_messages(layer):
    """Send them to the group "room"; return how many turns of the loop that takes."""
    await until(lambda: not loop_iterations().pending)
    await settle()
    with Turns() as turns:
        for _ in range(500):
            await layer.group_send("room", {"type": "news"})
    return turns.count


def test_a_handler_that_wakes_nothing_costs_its_sender_no_turn(run):
    class Quiet(AsyncWebsocketConsumer):
        groups = ("room",)
        count = 0

        async def news(self, event):
            Quiet.count += 1

    async def main(layer):
        client = await Client(Quiet.as_asgi()).open()

        assert await turns_of_500_messages(layer) == 0
        assert Quiet.count == 500
        await client.leave()

    run(main)


class Transport:
    """Records what a frame writer writes."""

    def __init__(self):
        self.writes = []

    def write(self, data):
        self.writes.append(data)

    def is_closing(self):
        return False


async def connected(consumer):
    """Return a client of a server that takes finished frames, and its transport."""
    transport = Transport()
    frames = ServerFrameWriter(transport, WriteScheduler(asyncio.get_running_loop()))
    frames.open()
    client = Client(consumer.as_asgi(), extensions={"tiderace.frames": frames})
    return await client.open(), transport


def test_a_handler_that_only_sends_costs_its_sender_no_turn(run):
    class Answering(AsyncWebsocketConsumer):
        groups = ("room",)

        async def news(self, event):
            await self.send("seen")

    async def main(layer):
        client, transport = await connected(Answering)

        assert await turns_of_500_messages(layer) == 0
        await settle()
        assert b"".join(transport.writes) == 500 * text_frame(b"seen")
        await client.leave()

    run(main)


def test_frames_are_written_while_a_consumer_works_off_its_mailbox(run):
    class Busy(AsyncWebsocketConsumer):
        groups = ("room",)
        released, finished = asyncio.Event(), asyncio.Event()
        seen = 0

        async def receive(self, text_data=None, bytes_data=None):
            await self.released.wait()

        async def news(self, event):
            await self.send("seen")
            self.seen += 1
            if self.seen == 50:
                self.finished.set()

    async def main(layer):
        client, transport = await connected(Busy)
        client.text("wait")
        await settle()
        for _ in range(50):
            await layer.group_send("room", {"type": "news"})

        Busy.released.set()
        await Busy.finished.wait()

        assert len(transport.writes) > 40
        await client.leave()

    run(main)


def test_an_event_whose_handler_wakes_no_task_costs_no_iteration_afterwards(run):
    class Quiet(AsyncWebsocketConsumer):
        count = 0

        async def receive(self, text_data=None, bytes_data=None):
            Quiet.count += 1

    async def main(layer):
        client = await Client(Quiet.as_asgi()).open()
        await settle()
        before = loop_iterations().number
        for number in range(1, 11):
            client.text("hello")
            await until(lambda number=number: Quiet.count == number)
        await settle()

        assert loop_iterations().number == before
        await client.leave()

    run(main)


def test_a_handler_that_has_waited_and_wakes_nothing_is_followed_by_the_next(run):
    class Waiting(AsyncWebsocketConsumer):
        released, finished = asyncio.Event(), asyncio.Event()
        seen = 0

        async def receive(self, text_data=None, bytes_data=None):
            await self.released.wait()
            await asyncio.sleep(0)
            self.seen += 1
            if self.seen == 20:
                self.finished.set()

    async def main(layer):
        client = await Client(Waiting.as_asgi()).open()
        for _ in range(20):
            client.text("hello")
        await settle()
        with Turns() as turns:
            Waiting.released.set()
            await Waiting.finished.wait()

        # Each handler waits for one; another one for each would make 40.
        assert turns.count < 30
        await client.leave()

    run(main)


def test_the_ready_callbacks_of_a_loop_are_counted(run):
    async def main(layer):
        loop = asyncio.get_running_loop()
        count = ready_counter(loop)
        await settle()
        assert count() == 0

        waiting = loop.create_future()
        waiting.add_done_callback(lambda _: None)
        assert count() == 0
        waiting.set_result(None)
        loop.call_soon(lambda: None)
        assert count() == 2

    run(main)


def test_a_loop_whose_callbacks_are_hidden_seems_to_have_more_each_time():
    class Hidden:
        pass

    count = ready_counter(Hidden())

    # More than by the one callback that is not counted: the one that writes frames.
    assert 0 < count() < count() - 1


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_iterations_of_a_loop_do_not_keep_it(new_loop):
    async def count():
        loop_iterations().next()
        await asyncio.sleep(0)
        return weakref.ref(asyncio.get_running_loop())

    with asyncio.Runner(loop_factory=new_loop) as runner:
        loop = runner.run(count())
    del runner
    gc.collect()

    assert loop() is None


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_connections_of_a_loop_share_a_counter_that_does_not_keep_it(new_loop):
    loop = new_loop()
    counters = [ready_counter(loop) for _ in range(2)]
    before = counters[0]()
    loop.call_soon(print)

    assert counters[0] == counters[1]
    assert counters[0]() > before
    freed = weakref.ref(loop)
    loop.close()
    del loop, counters
    gc.collect()
    assert freed() is None
