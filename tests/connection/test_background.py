"""Tasks that consumers start in the background."""

from __future__ import annotations

import asyncio

import pytest

from support.clients.asgi_client import Client
from support.consumers import Accepting, Failing
from support.waiting import settle
from tiderace.consumer import (
    SyncConsumer,
)
from tiderace.db import database_sync_to_async
from tiderace.generic.websocket import WebsocketConsumer

pytestmark = pytest.mark.usefixtures("layer")


async def test_a_background_task_runs_beside_the_handlers():
    class Consumer(Accepting):
        async def websocket_connect(self, event):
            await super().websocket_connect(event)
            self.spawn(self.tick())

        async def tick(self):
            await self.say("tick")

    client = await Client(Consumer.as_asgi()).open()
    await client.until("websocket.send")
    await client.leave()

    assert client.texts == ["tick"]


async def test_background_tasks_end_before_the_disconnect_handler_runs():
    order = []

    class Consumer(Accepting):
        async def websocket_connect(self, event):
            self.spawn(self.tick())
            await super().websocket_connect(event)

        async def tick(self):
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                order.append("task over")

        async def websocket_disconnect(self, event):
            order.append("disconnected")

    client = await Client(Consumer.as_asgi()).open()
    await settle()
    await client.leave()

    assert order == ["task over", "disconnected"]


@pytest.mark.parametrize("ending", ["leave", "fail", "cancel"])
async def test_a_task_spawned_by_the_disconnect_handler_does_not_outlive_it(ending):
    class Consumer(Failing):
        async def websocket_disconnect(self, event):
            self.spawn(asyncio.Event().wait())

    client = await Client(Consumer.as_asgi()).open()
    match ending:
        case "leave":
            await client.leave()
        case "fail":
            client.text("fail")
            await client.error()
        case "cancel":
            await client.cancel()

    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_task_spawned_by_an_ending_task_does_not_outlive_the_connection():
    class Consumer(Accepting):
        async def websocket_connect(self, event):
            self.spawn(self.last_words())
            await super().websocket_connect(event)

        async def last_words(self):
            try:
                await asyncio.Event().wait()
            finally:
                self.spawn(asyncio.Event().wait())

    client = await Client(Consumer.as_asgi()).open()
    await settle()
    await client.leave()

    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_spawn_returns_the_task():
    class Consumer(Accepting):
        async def websocket_receive(self, event):
            await self.say(await self.spawn(self.answer()))

        async def answer(self):
            return "42"

    client = await Client(Consumer.as_asgi()).open()
    client.text("?")
    await client.until("websocket.send")
    await client.leave()

    assert client.texts == ["42"]


async def test_a_sync_handler_may_spawn_a_task():
    class Consumer(SyncConsumer):
        def websocket_connect(self, event):
            self.send({"type": "websocket.accept"})
            self.spawn(self.tick())

        async def tick(self):
            await self.send({"type": "websocket.send", "text": "tick"})

    client = await Client(Consumer.as_asgi()).open()
    await client.until("websocket.send")
    await client.leave()

    assert client.texts == ["tick"]


async def test_a_background_task_may_ask_the_database_after_its_handler_is_done():
    go = asyncio.Event()

    class Consumer(WebsocketConsumer):
        async def connect(self):
            await self.accept()
            self.spawn(self.work())

        async def work(self):
            await go.wait()
            await self.send(await database_sync_to_async(lambda: "from a thread")())

    client = await Client(Consumer.as_asgi()).open()
    go.set()
    await client.until("websocket.send")
    await client.leave()

    assert client.texts == ["from a thread"]


async def test_an_error_of_a_background_task_ends_the_connection():
    class Consumer(Accepting):
        async def websocket_receive(self, event):
            self.spawn(self.fail())

        async def fail(self):
            raise LookupError("nothing there")

    client = await Client(Consumer.as_asgi()).open()
    client.text("go")

    assert isinstance(await client.error(), LookupError)
    assert client.sent[-1]["code"] == 1011


async def test_an_error_of_an_ending_task_is_logged(caplog):
    class Consumer(Accepting):
        async def websocket_connect(self, event):
            self.spawn(self.clumsy())
            await super().websocket_connect(event)

        async def clumsy(self):
            try:
                await asyncio.Event().wait()
            finally:
                raise LookupError("while ending")

    client = await Client(Consumer.as_asgi()).open()
    await settle()
    await client.leave()

    assert "a background task failed while it ended" in caplog.text
    assert "while ending" in caplog.text


async def test_a_consumer_without_a_connection_spawns_nothing():
    started = []

    async def work():
        started.append(True)

    with pytest.raises(RuntimeError, match="while it serves no connection"):
        Accepting().spawn(work())

    await settle()
    assert started == []
