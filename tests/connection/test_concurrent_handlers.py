"""Handlers with ``@concurrent``, which run beside others."""

from __future__ import annotations

import asyncio

import pytest
from django.test import override_settings

from support.clients.asgi_client import Client
from support.consumers import Member
from support.waiting import until, within
from tiderace import metrics
from tiderace.consumer import (
    StopConsumer,
    concurrent,
)

pytestmark = pytest.mark.usefixtures("layer")


async def test_a_concurrent_handler_does_not_delay_the_next_message(layer):
    gate = asyncio.Event()

    class Consumer(Member):
        @concurrent
        async def slow(self, event):
            await gate.wait()
            await self.say("slow")

    client = await Client(Consumer.as_asgi()).open()
    await layer.group_send("room", {"type": "slow"})
    await layer.group_send("room", {"type": "ping"})
    await client.until("websocket.send")
    gate.set()
    await client.until("websocket.send", 2)
    await client.leave()

    assert client.texts == ["pong", "slow"]


@override_settings(TIDERACE={"CONCURRENT_HANDLERS": 2})
async def test_the_number_of_concurrent_handlers_of_a_connection_is_limited(layer):
    running, most, done = 0, 0, 0

    class Consumer(Member):
        @concurrent
        async def slow(self, event):
            nonlocal running, most, done
            running += 1
            most = max(most, running)
            for _ in range(5):
                await asyncio.sleep(0)
            running -= 1
            done += 1

    client = await Client(Consumer.as_asgi()).open()
    for _ in range(10):
        await layer.group_send("room", {"type": "slow"})
    await until(lambda: done == 10)
    await client.leave()

    assert most == 2


@override_settings(TIDERACE={"CONCURRENT_HANDLERS": 1})
async def test_handlers_at_their_limit_do_not_hide_that_the_client_left(layer):
    started = asyncio.Event()

    class Consumer(Member):
        @concurrent
        async def endless(self, event):
            started.set()
            await asyncio.Event().wait()

    client = await Client(Consumer.as_asgi()).open()
    for _ in range(3):
        await layer.group_send("room", {"type": "endless"})
    await within(started.wait())
    client.text("still heard")
    await client.until("websocket.send")

    await client.leave()

    assert client.texts == ["still heard"]


async def test_concurrent_handlers_are_cancelled_before_the_disconnect(layer):
    order = []
    started = asyncio.Event()

    class Consumer(Member):
        @concurrent
        async def endless(self, event):
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                order.append("cancelled")

        async def websocket_disconnect(self, event):
            order.append("disconnected")

    client = await Client(Consumer.as_asgi()).open()
    await layer.group_send("room", {"type": "endless"})
    await within(started.wait())
    await client.leave()

    assert order == ["cancelled", "disconnected"]


async def test_a_concurrent_handler_may_stop_its_consumer(layer):
    class Consumer(Member):
        @concurrent
        async def stop(self, event):
            raise StopConsumer

    client = await Client(Consumer.as_asgi()).open()
    await layer.group_send("room", {"type": "stop"})
    await client.end()

    assert client.sent[-1] == {"type": "websocket.close", "code": 1000}


async def test_an_error_of_a_concurrent_handler_ends_the_connection_like_any_other(
    layer,
):
    class Consumer(Member):
        @concurrent
        async def fail(self, event):
            raise LookupError("nothing there")

    before = metrics.CONSUMER_ERRORS.value
    client = await Client(Consumer.as_asgi()).open()
    await layer.group_send("room", {"type": "fail"})

    assert isinstance(await client.error(), LookupError)
    assert client.sent[-1]["code"] == 1011
    assert metrics.CONSUMER_ERRORS.value == before + 1


async def test_on_error_is_called_once_for_a_concurrent_handler(layer):
    asked = []

    class Consumer(Member):
        @concurrent
        async def fail(self, event):
            raise LookupError("nothing there")

        async def on_error(self, error):
            asked.append(error)
            await self.say("sorry")

    client = await Client(Consumer.as_asgi()).open()
    await layer.group_send("room", {"type": "fail"})
    await client.until("websocket.send")
    await client.leave()

    assert len(asked) == 1
