"""Consumers whose connections end or are cancelled: what is called, and what is freed."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest
from django.test import override_settings

from support.clients.asgi_client import Client
from support.consumers import Accepting, Failing
from support.waiting import settle, within
from tiderace import metrics
from tiderace.connection import Connection
from tiderace.consumer import (
    StopConsumer,
)
from tiderace.generic.websocket import AsyncWebsocketConsumer

pytestmark = pytest.mark.usefixtures("layer")


async def test_a_handler_ends_its_consumer_with_stop_consumer():
    class Consumer(Accepting):
        async def websocket_disconnect(self, event):
            raise StopConsumer

    client = await Client(Consumer.as_asgi()).open()
    client.say("websocket.disconnect", code=1000)
    await client.end()

    assert client.task.result() is None


async def test_a_consumer_that_stops_early_closes_its_socket_and_disconnects_once():
    codes = []

    class Consumer(Accepting):
        async def websocket_receive(self, event):
            raise StopConsumer

        async def websocket_disconnect(self, event):
            codes.append(event["code"])

    client = await Client(Consumer.as_asgi()).open()
    client.text("stop")
    await client.end()

    assert client.sent[-1] == {"type": "websocket.close", "code": 1000}
    assert codes == [1000]


async def test_a_consumer_without_a_disconnect_handler_ends_with_its_socket(caplog):
    client = await Client(Accepting.as_asgi()).open()

    await client.leave()

    assert caplog.records == []


async def test_a_disconnect_handler_that_does_not_raise_stop_ends_the_consumer():
    class Consumer(Accepting):
        async def websocket_disconnect(self, event):
            pass

    client = await Client(Consumer.as_asgi()).open()

    await client.leave()


async def test_messages_sent_while_disconnecting_are_dropped_and_counted():
    class Consumer(Accepting):
        async def websocket_disconnect(self, event):
            await self.say("too late")

    before = metrics.SENDS_AFTER_CLOSE.value
    client = await Client(Consumer.as_asgi()).open()
    await client.leave()

    assert client.texts == []
    assert metrics.SENDS_AFTER_CLOSE.value == before + 1


async def test_a_send_to_a_client_that_is_gone_is_no_error():
    class Consumer(Accepting):
        async def websocket_receive(self, event):
            await super().websocket_receive(event)
            handled.set()

    handled = asyncio.Event()
    before = metrics.SENDS_AFTER_CLOSE.value
    client = await Client(Consumer.as_asgi()).open()
    client.fail_with = ConnectionResetError("gone")
    client.text("hello")
    await within(handled.wait())

    await client.leave()

    assert metrics.SENDS_AFTER_CLOSE.value == before + 1


async def test_a_server_that_closed_the_socket_at_shutdown_fails_no_handler(caplog):
    """Its disconnect event waits behind the handler that is sending."""
    gate = asyncio.Event()

    class Consumer(Accepting):
        async def websocket_receive(self, event):
            await gate.wait()
            await super().websocket_receive(event)

    client = await Client(Consumer.as_asgi()).open()
    client.text("hello")
    client.say("websocket.disconnect", code=1012)
    await settle()
    client.fail_with = RuntimeError("unexpected after websocket.close")
    gate.set()

    await client.end()
    assert caplog.records == []


async def test_a_consumer_leaves_its_groups_when_the_client_leaves(layer):
    class Consumer(Accepting):
        async def websocket_connect(self, event):
            await self.channel_layer.group_add("room", self.channel_name)
            await super().websocket_connect(event)

    client = await Client(Consumer.as_asgi()).open()
    assert len(layer.groups["room"]) == 1

    await client.leave()

    assert layer.groups == {}
    assert layer.channels == {}


async def test_a_cancelled_consumer_disconnects_once_and_leaves_its_groups(layer):
    consumer = Failing()
    client = await Client(consumer).open()

    await client.cancel()

    assert consumer.codes == [1006]
    assert layer.groups == {}
    assert layer.channels == {}


async def test_a_consumer_cancelled_in_a_handler_disconnects_once():
    class Consumer(Failing):
        async def websocket_receive(self, event):
            reached.set()
            await asyncio.Event().wait()

    reached = asyncio.Event()
    consumer = Consumer()
    client = await Client(consumer).open()
    client.text("wait")
    await within(reached.wait())

    await client.cancel()

    assert consumer.codes == [1006]


async def test_a_consumer_cancelled_before_its_connect_has_nothing_to_disconnect():
    consumer = Failing()
    client = Client(consumer)
    await settle()

    await client.cancel()

    assert consumer.codes == []


@override_settings(TIDERACE={"DISCONNECT_TIMEOUT": 0.05})
async def test_a_consumer_cancelled_while_disconnecting_disconnects_once():
    calls = []

    class Consumer(Accepting):
        async def websocket_disconnect(self, event):
            calls.append(event["code"])
            await asyncio.Event().wait()

    client = await Client(Consumer.as_asgi()).open()
    client.say("websocket.disconnect", code=1001)
    await settle()
    await client.cancel()

    assert calls == [1001]


async def test_a_thousand_crashed_consumers_leave_nothing_behind(layer):
    def connections():
        gc.collect()
        return sum(type(each) is Connection for each in gc.get_objects())

    class Consumer(Failing):
        async def websocket_receive(self, event):
            self.spawn(asyncio.Event().wait())
            await self.channel_layer.group_add("more", self.channel_name)
            await super().websocket_receive(event)

    open_before = metrics.CONNECTIONS_OPEN.value
    kept_before = connections()
    logging.disable(logging.CRITICAL)
    try:
        for _ in range(1000):
            client = Client(Consumer.as_asgi())
            client.say("websocket.connect")
            client.text("fail")
            await client.error()
            del client
    finally:
        logging.disable(logging.NOTSET)

    assert layer.groups == {}
    assert layer.channels == {}
    assert layer._local.mailboxes == {}
    assert len(layer._local.expiry_queue) == 0
    assert metrics.CONNECTIONS_OPEN.value == open_before
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert connections() == kept_before


async def test_a_consumer_is_freed_at_its_end_without_the_garbage_collector():
    freed = []

    class Consumer(AsyncWebsocketConsumer):
        groups = ("room",)

        def __del__(self):
            freed.append(True)

    gc.disable()
    try:
        client = await Client(Consumer.as_asgi()).open()
        await client.leave()
        del client
        await settle()

        assert freed == [True]
    finally:
        gc.enable()
