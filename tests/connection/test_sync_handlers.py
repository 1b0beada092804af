"""Handlers that run in threads."""

from __future__ import annotations

import asyncio
import functools
import threading
from unittest import mock

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connections
from django.test import override_settings

from support.clients.asgi_client import Client
from support.consumers import Accepting, Member
from support.waiting import PATIENCE, settle, until, within
from tiderace import db
from tiderace.consumer import (
    SyncConsumer,
)
from tiderace.runtime import threads

pytestmark = pytest.mark.usefixtures("layer")


async def test_sync_consumers_run_side_by_side():
    """Four handlers meet at a barrier: one after the other they never would."""
    meeting = threading.Barrier(4)

    class Consumer(SyncConsumer):
        def websocket_connect(self, event):
            self.send({"type": "websocket.accept"})

        def websocket_receive(self, event):
            meeting.wait(PATIENCE)
            self.send({"type": "websocket.send", "text": "met"})

    clients = [await Client(Consumer.as_asgi()).open() for _ in range(4)]
    for client in clients:
        client.text("meet")
    for client in clients:
        await client.until("websocket.send")
        await client.leave()

    assert [client.texts for client in clients] == [["met"]] * 4


async def test_the_handlers_of_one_sync_consumer_stay_in_order():
    handled, running, most = [], 0, 0

    class Consumer(SyncConsumer):
        def websocket_connect(self, event):
            self.send({"type": "websocket.accept"})

        def websocket_receive(self, event):
            nonlocal running, most
            running += 1
            most = max(most, running)
            handled.append(event["text"])
            running -= 1

    client = await Client(Consumer.as_asgi()).open()
    for number in range(50):
        client.text(str(number))
    await client.leave()

    assert handled == [str(number) for number in range(50)]
    assert most == 1


async def test_a_sync_handler_runs_wholly_in_one_thread():
    seen = []

    class Consumer(SyncConsumer):
        def websocket_connect(self, event):
            seen.append(threading.get_ident())
            async_to_sync(self.there_and_back)()
            self.send({"type": "websocket.accept"})

        async def there_and_back(self):
            seen.append(await sync_to_async(threading.get_ident)())

    client = await Client(Consumer.as_asgi()).open()
    await client.leave()

    assert len(set(seen)) == 1
    assert seen[0] != threading.get_ident()


async def test_the_number_of_threads_is_a_setting(monkeypatch):
    monkeypatch.setattr(threads, "_pool", None)

    class Consumer(SyncConsumer):
        def websocket_connect(self, event):
            self.send({"type": "websocket.accept"})

    with override_settings(TIDERACE={"SYNC_THREADS": 2}):
        client = await Client(Consumer.as_asgi()).open()
        await client.leave()

    assert threads.default_pool().size == 2


async def test_an_async_handler_that_asks_no_database_costs_no_thread_hop(
    layer, monkeypatch
):
    hops = []
    monkeypatch.setattr(
        threads.ConnectionThread, "submit", lambda *args, **kwargs: hops.append(args)
    )
    monkeypatch.setattr(
        asyncio.base_events.BaseEventLoop,
        "run_in_executor",
        lambda *args: hops.append(args),
    )
    monkeypatch.setattr(db, "close_old_connections", lambda: hops.append("closed"))
    client = await Client(Member.as_asgi()).open()
    for number in range(5):
        client.text("event")
        await layer.group_send("room", {"type": "ping"})
        await client.until("websocket.send", 2 * number + 2)
    await client.leave()

    assert hops == []


async def test_a_database_connection_is_closed_in_its_thread_after_the_handler(
    monkeypatch,
):
    class Connection(mock.Mock):
        alias = "default"
        in_atomic_block = False

        def close(self):
            closed.append(threading.get_ident())
            self.connection = None

    closed, worked = [], []

    def work():
        # No connection is closed around it: applications forget that by mistake.
        connections["default"] = Connection()
        worked.append(threading.get_ident())

    class Consumer(Accepting):
        async def websocket_receive(self, event):
            await sync_to_async(work)()

    client = await Client(Consumer.as_asgi()).open()
    client.text("work")
    await until(lambda: closed)
    await client.leave()

    assert closed == worked


async def test_a_plain_handler_of_an_async_consumer_runs_in_a_thread(layer):
    class Consumer(Member):
        def where(self, event):
            self.send({"type": "websocket.send", "text": str(threading.get_ident())})

    client = await Client(Consumer.as_asgi()).open()
    await layer.group_send("room", {"type": "where"})
    event = await client.until("websocket.send")
    await client.leave()

    assert event["text"] != str(threading.get_ident())


async def test_an_object_whose_call_is_async_is_called_on_the_loop(layer):
    """The observers of djangochannelsrestframework are such, bound by a partial."""
    called_in = []

    class Bound(functools.partial):
        def __call__(self, event):
            called_in.append(threading.get_ident())
            return super().__call__(event)

    class Handler:
        def __get__(self, consumer, owner):
            return Bound(self, consumer=consumer)

        async def __call__(self, event, *, consumer):
            await consumer.send({"type": "websocket.send", "text": "called"})

    class Consumer(Member):
        call = Handler()

    client = await Client(Consumer.as_asgi()).open()
    await layer.group_send("room", {"type": "call"})
    await client.until("websocket.send")
    await client.leave()

    assert called_in == [threading.get_ident()]


async def test_a_handler_that_async_to_sync_made_plain_works_in_an_async_consumer(
    layer,
):
    class Consumer(Member):
        @async_to_sync
        async def greet(self, event):
            await self.send({"type": "websocket.send", "text": "hello"})

    client = await Client(Consumer.as_asgi()).open()
    await layer.group_send("room", {"type": "greet"})
    await client.until("websocket.send")
    await client.leave()

    assert client.texts == ["hello"]


async def test_an_async_handler_of_a_sync_consumer_runs_on_the_loop():
    class Consumer(SyncConsumer):
        def websocket_connect(self, event):
            self.send({"type": "websocket.accept"})

        async def websocket_receive(self, event):
            await self.send(
                {"type": "websocket.send", "text": str(threading.get_ident())}
            )

    client = await Client(Consumer.as_asgi()).open()
    client.text("where")
    event = await client.until("websocket.send")
    await client.leave()

    assert event["text"] == str(threading.get_ident())


async def test_a_handler_that_async_to_sync_made_plain_works_in_a_sync_consumer():
    class Consumer(SyncConsumer):
        def websocket_connect(self, event):
            self.send({"type": "websocket.accept"})

        @async_to_sync
        async def websocket_receive(self, event):
            await self.send({"type": "websocket.send", "text": event["text"]})

    client = await Client(Consumer.as_asgi()).open()
    client.text("hello")
    await client.until("websocket.send")
    await client.leave()

    assert client.texts == ["hello"]


async def test_a_cancelled_sync_consumer_disconnects_after_its_handler_is_done():
    order = []
    reached, gate = threading.Event(), threading.Event()

    class Consumer(SyncConsumer):
        def websocket_connect(self, event):
            self.send({"type": "websocket.accept"})

        def websocket_receive(self, event):
            reached.set()
            gate.wait(PATIENCE)
            order.append("handled")

        def websocket_disconnect(self, event):
            order.append("disconnected")

    client = await Client(Consumer.as_asgi()).open()
    client.text("wait")
    await until(reached.is_set)
    client.task.cancel()
    await settle()
    gate.set()
    await within(asyncio.wait([client.task]))

    assert order == ["handled", "disconnected"]
