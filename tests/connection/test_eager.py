"""The eager path: handlers that run where their messages are delivered."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from support.waiting import settle, until
from tiderace.consumer import AsyncConsumer
from tiderace.exceptions import StopConsumer
from tiderace.layers import InMemoryChannelLayer, channel_layers


@pytest.fixture
def layer(monkeypatch):
    layer = InMemoryChannelLayer()
    monkeypatch.setitem(channel_layers.backends, "default", layer)
    return layer


class Socket:
    """One connection to a consumer, as its server sees it."""

    def __init__(self, consumer_class):
        self.consumer = consumer_class()
        self.events = asyncio.Queue()
        self.sent = []
        self.task = asyncio.create_task(self._run())

    async def _run(self):
        async def send(event):
            self.sent.append(event)

        await self.consumer({"type": "websocket", "path": "/"}, self.events.get, send)

    async def open(self):
        self.events.put_nowait({"type": "websocket.connect"})
        await until(lambda: self.sent)
        # Once more round the loop: the consumer is waiting for something to do.
        await settle()
        return self

    async def close(self):
        self.events.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await self.task


class Member(AsyncConsumer):
    async def websocket_connect(self, event):
        await self.channel_layer.group_add("room", self.channel_name)
        await self.send({"type": "websocket.accept"})

    async def websocket_disconnect(self, event):
        raise StopConsumer

    async def said(self, event):
        await self.send({"type": "websocket.send", "text": event["text"]})


def texts(socket):
    return [event["text"] for event in socket.sent if event["type"] == "websocket.send"]


async def test_a_handler_that_does_not_wait_is_done_when_the_send_returns(layer):
    sockets = [await Socket(Member).open() for _ in range(3)]

    await layer.group_send("room", {"type": "said", "text": "now"})

    assert [texts(socket) for socket in sockets] == [["now"]] * 3
    for socket in sockets:
        await socket.close()


async def test_a_handler_that_waits_is_resumed_before_the_next_message(layer):
    gate = asyncio.Event()

    class Slow(Member):
        async def said(self, event):
            if event["text"] == "slow":
                await gate.wait()
            await super().said(event)

    socket = await Socket(Slow).open()
    await layer.group_send("room", {"type": "said", "text": "slow"})
    await layer.group_send("room", {"type": "said", "text": "quick"})
    await settle()
    assert texts(socket) == []

    gate.set()
    await until(lambda: len(texts(socket)) == 2)

    assert texts(socket) == ["slow", "quick"]
    await socket.close()


async def test_all_handlers_run_in_one_task_and_one_context(layer):
    seen = []
    who = contextvars.ContextVar("who")

    class Curious(Member):
        async def websocket_connect(self, event):
            who.set("me")
            seen.append(asyncio.current_task())
            await super().websocket_connect(event)

        async def said(self, event):
            seen.append(asyncio.current_task())
            await self.send({"type": "websocket.send", "text": who.get()})

    socket = await Socket(Curious).open()
    here = asyncio.current_task()
    await layer.group_send("room", {"type": "said", "text": ""})

    assert asyncio.current_task() is here
    assert who.get(None) is None
    assert seen[0] is seen[1]
    assert seen[0] is not here
    assert texts(socket) == ["me"]
    await socket.close()


async def test_a_timeout_inside_a_handler_does_not_end_the_connection(layer):
    class Impatient(Member):
        async def said(self, event):
            try:
                async with asyncio.timeout(float(event["text"])):
                    await asyncio.Event().wait()
            except TimeoutError:
                await self.send({"type": "websocket.send", "text": "gave up"})

    socket = await Socket(Impatient).open()
    await layer.group_send("room", {"type": "said", "text": "0.01"})
    await until(lambda: len(texts(socket)) == 1)
    # Sent at once: the time is up before the connection's task has carried it on.
    await layer.group_send("room", {"type": "said", "text": "0"})
    await until(lambda: len(texts(socket)) == 2)

    assert texts(socket) == ["gave up"] * 2
    await socket.close()


async def test_sends_from_eager_handlers_do_not_nest(layer):
    depth = 0
    deepest = 0

    class Echo(Member):
        async def said(self, event):
            nonlocal depth, deepest
            depth += 1
            deepest = max(deepest, depth)
            await super().said(event)
            if event["hops"]:
                await self.channel_layer.group_send(
                    "room", {**event, "hops": event["hops"] - 1}
                )
            depth -= 1

    sockets = [await Socket(Echo).open() for _ in range(2)]
    await layer.group_send("room", {"type": "said", "text": "x", "hops": 5})
    await until(lambda: all(len(texts(s)) == 63 for s in sockets))

    # One that its own task runs, and one that is handled where that one sends.
    assert deepest <= 2
    for socket in sockets:
        await socket.close()


async def test_an_error_ends_its_own_connection_and_not_the_sender(layer):
    class Fragile(Member):
        async def said(self, event):
            raise ValueError("broken")

    broken = await Socket(Fragile).open()
    whole = await Socket(Member).open()

    await layer.group_send("room", {"type": "said", "text": "hi"})

    with pytest.raises(ValueError, match="broken"):
        await broken.task
    assert broken.sent[-1] == {"type": "websocket.close", "code": 1011}
    assert texts(whole) == ["hi"]
    assert len(layer.groups["room"]) == 1
    await whole.close()


async def test_stopping_from_a_message_ends_the_connection(layer):
    class Done(Member):
        async def said(self, event):
            raise StopConsumer

    socket = await Socket(Done).open()
    await layer.group_send("room", {"type": "said", "text": ""})
    await asyncio.wait_for(socket.task, 5)

    assert socket.sent[-1]["type"] == "websocket.close"
    assert layer.groups == {}


@pytest.mark.parametrize("waits", [False, True])
async def test_on_error_is_called_once_for_an_eager_handler(layer, waits):
    asked = []

    class Fragile(Member):
        async def said(self, event):
            if waits:
                await asyncio.sleep(0)
            if event["text"] == "broken":
                raise ValueError("broken")
            await super().said(event)

        async def on_error(self, error):
            asked.append(str(error))

    socket = await Socket(Fragile).open()
    await layer.group_send("room", {"type": "said", "text": "broken"})
    await until(lambda: asked)
    await layer.group_send("room", {"type": "said", "text": "whole"})
    await until(lambda: texts(socket) == ["whole"])

    assert asked == ["broken"]
    await socket.close()


@pytest.mark.parametrize("own_dispatch", [False, True])
async def test_an_error_after_a_wait_ends_the_connection(layer, own_dispatch):
    class Fragile(Member):
        async def said(self, event):
            await asyncio.sleep(0)
            raise ValueError("broken")

    class Dispatching(Fragile):
        async def dispatch(self, message):
            await super().dispatch(message)

    socket = await Socket(Dispatching if own_dispatch else Fragile).open()
    await layer.group_send("room", {"type": "said", "text": ""})

    with pytest.raises(ValueError, match="broken"):
        await socket.task
    assert socket.sent[-1] == {"type": "websocket.close", "code": 1011}
    assert layer.groups == {}


async def test_stopping_after_a_wait_is_no_error(layer):
    asked = []

    class Done(Member):
        async def said(self, event):
            await asyncio.sleep(0)
            raise StopConsumer

        async def on_error(self, error):
            asked.append(error)

    socket = await Socket(Done).open()
    await layer.group_send("room", {"type": "said", "text": ""})
    await asyncio.wait_for(socket.task, 5)

    assert asked == []
    assert socket.sent[-1] == {"type": "websocket.close", "code": 1000}
    assert layer.groups == {}


async def test_a_cancelled_connection_cancels_a_suspended_handler(
    layer,
):
    ends = []

    class Waiting(Member):
        async def said(self, event):
            try:
                await asyncio.Event().wait()
            finally:
                ends.append("handler")

        async def websocket_disconnect(self, event):
            ends.append(event["code"])
            raise StopConsumer

    for settled in (False, True):
        ends.clear()
        socket = await Socket(Waiting).open()
        await layer.group_send("room", {"type": "said", "text": ""})
        if settled:
            await settle()
        socket.task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await socket.task
        assert ends == ["handler", 1006]
        assert layer.groups == {}


async def test_an_event_of_the_client_is_handled_after_a_suspended_handler(layer):
    gate = asyncio.Event()

    class Both(Member):
        async def said(self, event):
            await gate.wait()
            await super().said(event)

        async def websocket_receive(self, event):
            await self.send({"type": "websocket.send", "text": event["text"]})

    socket = await Socket(Both).open()
    await layer.group_send("room", {"type": "said", "text": "layer"})
    socket.events.put_nowait({"type": "websocket.receive", "text": "client"})
    await settle()
    assert texts(socket) == []

    gate.set()
    await until(lambda: len(texts(socket)) == 2)
    assert texts(socket) == ["layer", "client"]
    await socket.close()


async def test_a_task_of_an_eager_handler_runs_before_an_event_that_waits(layer):
    order = []

    class Starting(Member):
        async def websocket_receive(self, event):
            order.append("event")

        async def said(self, event):
            self.spawn(self.work())

        async def work(self):
            order.append("task")

    consumer_socket = await Socket(Starting).open()
    consumer_socket.events.put_nowait({"type": "websocket.receive", "text": "hello"})
    await asyncio.sleep(0)  # the event is in the mailbox
    await layer.group_send("room", {"type": "said"})
    await until(lambda: len(order) == 2)

    assert order == ["task", "event"]
    await consumer_socket.close()


async def test_a_handler_that_yields_to_the_loop_is_resumed(layer):
    class Yielding(Member):
        async def said(self, event):
            await asyncio.sleep(0)
            await super().said(event)

    socket = await Socket(Yielding).open()
    await layer.group_send("room", {"type": "said", "text": "later"})
    assert texts(socket) == []

    await until(lambda: texts(socket) == ["later"])
    await socket.close()
