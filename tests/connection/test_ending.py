"""The end of connections whose handlers hang, exit or are cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from asgiref.sync import AsyncToSync
from django.test import override_settings

from support.clients.asgi_client import Client
from support.waiting import settle, until, within
from tiderace.consumer import concurrent
from tiderace.generic.http import AsyncHttpConsumer
from tiderace.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer

pytestmark = pytest.mark.usefixtures("layer")

SHORT = {"DISCONNECT_TIMEOUT": 0.05}


class Room(AsyncWebsocketConsumer):
    """A member of the group ``room`` that notes its calls."""

    groups = ("room",)

    def __init__(self):
        self.calls = []

    async def receive(self, text_data=None, bytes_data=None):
        self.calls.append("receive")
        await self.work()
        self.calls.append("received")

    async def work(self):
        await asyncio.Event().wait()

    async def disconnect(self, code):
        self.calls.append(code)

    async def on_error(self, error):
        self.calls.append(error)
        raise error


async def open_and_say(consumer, text="work"):
    client = await Client(consumer).open()
    client.text(text)
    await until(lambda: consumer.calls)
    return client


async def test_groups_are_left_while_a_handler_goes_on_without_its_client(layer):
    consumer = Room()
    client = await open_and_say(consumer)

    client.say("websocket.disconnect", code=1001)
    await until(lambda: layer.groups == {})

    assert consumer.calls == ["receive"]
    await client.cancel()


async def test_a_group_joined_after_the_client_left_is_left_at_the_end(layer):
    class Late(Room):
        async def work(self):
            await gate.wait()
            await self.channel_layer.group_add("late", self.channel_name)

    gate = asyncio.Event()
    client = await open_and_say(Late())
    client.say("websocket.disconnect", code=1001)
    await settle()
    gate.set()
    await client.end()

    assert layer.groups == {}
    assert layer.channels == {}


@override_settings(TIDERACE=SHORT)
async def test_a_client_that_left_is_noticed_behind_messages_that_wait(layer):
    consumer = Room()
    client = await open_and_say(consumer)
    for _ in range(20):
        client.text("waits")

    await client.leave(4001)

    assert consumer.calls == ["receive", 4001]
    assert layer.groups == {}


@override_settings(TIDERACE={"DISCONNECT_TIMEOUT": 0.2})
async def test_messages_of_a_client_that_left_are_handled_one_after_the_other():
    class Slow(Room):
        async def work(self):
            await asyncio.sleep(0.05)

    consumer = Slow()
    client = await open_and_say(consumer)
    for _ in range(9):
        client.text("waits")

    await client.leave(4001)

    assert consumer.calls == ["receive", "received"] * 10 + [4001]


@override_settings(TIDERACE=SHORT)
async def test_a_handler_that_never_returns_is_cancelled_and_logged(caplog):
    consumer = Room()
    client = await open_and_say(consumer)

    await client.leave(4001)

    assert consumer.calls == ["receive", 4001]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.reason == "handler_cut"
    assert "a handler of Room goes on 0.05 s" in record.getMessage()


@override_settings(TIDERACE=SHORT)
async def test_a_handler_that_catches_its_cancellation_is_left_behind(layer, caplog):
    class Stubborn(Room):
        async def work(self):
            while not gate.is_set():
                try:
                    await gate.wait()
                except asyncio.CancelledError:
                    self.calls.append("cancelled")

    gate = asyncio.Event()
    consumer = Stubborn()
    client = await open_and_say(consumer)

    await client.leave(4001)

    assert consumer.calls == ["receive", "cancelled", 4001]
    assert layer.channels == {}
    assert [each.reason for each in caplog.records] == [
        "handler_cut",
        "handler_left_behind",
    ]
    gate.set()
    await settle()
    assert consumer.calls.count(4001) == 1


@override_settings(TIDERACE=SHORT)
async def test_a_disconnect_that_never_returns_is_cancelled_and_logged(layer, caplog):
    class Hanging(Room):
        async def disconnect(self, code):
            self.calls.append(code)
            await asyncio.Event().wait()

    consumer = Hanging()
    client = await Client(consumer).open()

    await client.leave(4001)

    assert consumer.calls == [4001]
    assert layer.channels == {}
    assert "the disconnect handler of" in caplog.text


@override_settings(TIDERACE=SHORT)
async def test_a_disconnect_that_catches_its_cancellation_is_left_behind(layer, caplog):
    class Stubborn(Room):
        async def disconnect(self, code):
            while not gate.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await gate.wait()

    gate = asyncio.Event()
    client = await Client(Stubborn()).open()

    try:
        await client.leave(4001)
    finally:
        gate.set()
    await settle()

    assert layer.channels == {}
    assert [each.reason for each in caplog.records] == [
        "handler_cut",
        "handler_left_behind",
    ]


@override_settings(TIDERACE=SHORT)
async def test_a_disconnect_after_an_error_is_cut_too(layer):
    class Hanging(Room):
        async def work(self):
            raise LookupError("nothing there")

        async def disconnect(self, code):
            self.calls.append(code)
            await asyncio.Event().wait()

    consumer = Hanging()
    client = await open_and_say(consumer)
    await within(asyncio.wait([client.task]))

    assert consumer.calls[-1] == 1011
    assert layer.channels == {}


@override_settings(TIDERACE=SHORT)
async def test_a_background_task_that_catches_its_cancellation_is_left_behind(caplog):
    class Leaking(Room):
        async def connect(self):
            self.spawn(self.stubborn())
            await self.accept()

        async def stubborn(self):
            while not gate.is_set():
                try:
                    await gate.wait()
                except asyncio.CancelledError:
                    self.calls.append("cancelled")

    gate = asyncio.Event()
    consumer = Leaking()
    client = await Client(consumer).open()
    await settle()

    await client.leave(4001)

    assert consumer.calls == ["cancelled", 4001]
    assert "has not ended and is left behind" in caplog.text
    gate.set()
    await settle()


# Cancelled by the server, or by a sibling in a multiplexer


async def test_a_servers_cancellation_does_not_cut_a_running_disconnect():
    class Saving(Room):
        async def disconnect(self, code):
            self.calls.append(code)
            await gate.wait()
            self.calls.append("saved")

    gate = asyncio.Event()
    consumer = Saving()
    client = await Client(consumer).open()
    client.say("websocket.disconnect", code=4001)
    await until(lambda: consumer.calls)

    for _ in range(3):
        client.task.cancel()
        await settle()
    gate.set()
    await within(asyncio.wait([client.task]))

    assert client.task.cancelled()
    assert consumer.calls == [4001, "saved"]


async def test_a_servers_cancellation_cuts_a_handler_and_not_the_disconnect_after_it():
    class Saving(Room):
        async def disconnect(self, code):
            await asyncio.sleep(0)
            self.calls.append(code)

    consumer = Saving()
    client = await open_and_say(consumer)

    await client.cancel()

    assert consumer.calls == ["receive", 1006]


async def test_a_sync_disconnect_runs_after_a_cancellation_inside_async_to_sync():
    gone = ThreadPoolExecutor()
    gone.shutdown()
    calls, leave = [], threading.Event()

    class Sending(WebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None):
            # This is the state while ``send`` returns, when asgiref copies the context.
            AsyncToSync.executors.current = gone
            calls.append("receive")
            leave.wait(10)

        def disconnect(self, code):
            calls.append(code)

    client = await Client(Sending()).open()
    client.text("work")
    await until(lambda: calls)
    client.task.cancel()
    await asyncio.sleep(0)
    leave.set()
    await within(asyncio.wait([client.task]))

    assert calls == ["receive", 1006]


# sys.exit() and a CancelledError of a handler's own


def leave_the_process():
    sys.exit("not this way")


async def raise_cancelled():
    await asyncio.sleep(0)
    raise asyncio.CancelledError


async def await_a_cancelled_task():
    task = asyncio.create_task(asyncio.Event().wait())
    asyncio.get_running_loop().call_soon(task.cancel)
    await task


async def leave_the_process_later():
    await asyncio.sleep(0)
    sys.exit(3)


@pytest.mark.parametrize(
    "fault", [raise_cancelled, await_a_cancelled_task, leave_the_process_later]
)
async def test_an_exit_or_a_stray_cancellation_is_an_error_of_the_handler(
    fault, caplog
):
    class Faulty(Room):
        async def work(self):
            await fault()

    consumer = Faulty()
    client = await open_and_say(consumer)

    error = await client.error()

    assert isinstance(error, RuntimeError)
    assert isinstance(error.__cause__, (SystemExit, asyncio.CancelledError))
    assert client.sent[-1]["code"] == 1011
    assert consumer.calls == ["receive", error, 1011]
    assert [each.reason for each in caplog.records] == ["handler_failed"]


async def test_on_error_may_let_a_connection_go_on_after_an_exit():
    class Faulty(Room):
        async def work(self):
            leave_the_process()

        async def on_error(self, error):
            await self.send(str(error))

    client = await open_and_say(Faulty())
    await client.until("websocket.send")
    client.text("again")
    await client.until("websocket.send", 2)

    assert client.texts == ["application code called sys.exit('not this way')"] * 2
    await client.leave()


async def test_a_stray_cancellation_in_on_error_closes_with_1011(caplog):
    class Faulty(Room):
        async def work(self):
            raise KeyError

        async def on_error(self, error):
            await raise_cancelled()

    consumer = Faulty()
    client = await open_and_say(consumer)

    assert isinstance(await client.error(), RuntimeError)
    assert client.sent[-1]["code"] == 1011
    assert consumer.calls == ["receive", 1011]
    assert [each.reason for each in caplog.records] == ["handler_failed"]


async def test_an_exit_in_a_connect_is_an_error_of_it():
    class Faulty(Room):
        async def connect(self):
            leave_the_process()

    client = Client(Faulty())
    client.say("websocket.connect")

    assert isinstance(await client.error(), RuntimeError)


async def test_an_exit_in_a_sync_handler_is_an_error_of_it():
    class Faulty(WebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None):
            leave_the_process()

    client = await Client(Faulty()).open()
    client.text("exit")

    assert isinstance(await client.error(), RuntimeError)
    assert client.sent[-1]["code"] == 1011


@pytest.mark.parametrize("fault", [raise_cancelled, leave_the_process_later])
async def test_an_exit_in_a_background_task_is_an_error_of_it(fault):
    class Faulty(Room):
        async def work(self):
            self.spawn(fault())

    client = await open_and_say(Faulty())

    assert isinstance(await client.error(), RuntimeError)
    assert client.sent[-1]["code"] == 1011


@pytest.mark.parametrize("beside", [False, True])
async def test_an_exit_in_a_handler_of_a_message_is_no_error_of_its_sender(
    layer, beside
):
    class Faulty(Room):
        async def news(self, event):
            leave_the_process()

    if beside:
        concurrent(Faulty.news)
    client = await Client(Faulty()).open()
    await settle()

    await layer.group_send("room", {"type": "news"})

    assert isinstance(await client.error(), RuntimeError)
    assert client.sent[-1]["code"] == 1011


async def test_a_background_task_that_its_consumer_cancels_is_no_error():
    class Cancelling(Room):
        async def work(self):
            task = self.spawn(asyncio.Event().wait())
            task.cancel()

    consumer = Cancelling()
    client = await open_and_say(consumer)
    await settle()
    await client.leave(4001)

    assert consumer.calls == ["receive", "received", 4001]


# HTTP


class Stream(AsyncHttpConsumer):
    """Sends a line and waits."""

    def __init__(self):
        super().__init__()
        self.calls = []

    async def handle(self, body):
        await self.send_headers()
        await self.send_body(b"first", more_body=True)
        try:
            await asyncio.Event().wait()
        finally:
            self.calls.append("handle ended")

    async def disconnect(self):
        self.calls.append("disconnect")


@override_settings(TIDERACE=SHORT)
async def test_a_stream_ends_with_its_client():
    consumer = Stream()
    client = Client(consumer, type="http", method="GET", path="/")
    client.say("http.request")
    await client.until("http.response.body")

    client.say("http.disconnect")
    await client.end()

    assert consumer.calls == ["disconnect", "handle ended"]


async def test_a_stream_may_end_by_itself_when_its_disconnect_is_called():
    class Polite(Stream):
        async def handle(self, body):
            await gate.wait()
            self.calls.append("handle ended")

        async def disconnect(self):
            await super().disconnect()
            gate.set()

    gate = asyncio.Event()
    consumer = Polite()
    client = Client(consumer, type="http", method="GET", path="/")
    client.say("http.request")
    await settle()

    client.say("http.disconnect")
    await client.end()

    assert consumer.calls == ["disconnect", "handle ended"]


# One record for each error


@pytest.mark.parametrize("server", ["uvicorn.error", "hypercorn.error"])
async def test_a_server_does_not_log_an_error_again(caplog, server):
    class Faulty(Room):
        async def work(self):
            raise LookupError("nothing there")

    client = await open_and_say(Faulty())
    error = await client.error()
    logging.getLogger(server).error("Exception in ASGI application", exc_info=error)
    logging.getLogger(server).error("Another", exc_info=ValueError("another"))

    first, other = caplog.records
    assert first.exc_info[1] is error
    assert first.path == "/ws/"
    assert other.getMessage() == "Another"
