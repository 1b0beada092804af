"""Errors of handlers: where they are raised, logged and counted, and what they close."""

from __future__ import annotations

import logging
from unittest import mock

import pytest

from support.clients.asgi_client import Client
from support.consumers import Accepting, Failing
from support.waiting import within
from tiderace import metrics
from tiderace.auth import UserLazyObject
from tiderace.consumer import (
    StopConsumer,
)
from tiderace.exceptions import UnknownMessageType
from tiderace.generic.websocket import AsyncWebsocketConsumer
from tiderace.layers import (
    InMemoryChannelLayer,
    channel_layers,
)

pytestmark = pytest.mark.usefixtures("layer")


async def test_an_error_of_a_handler_reaches_the_server():
    client = await Client(Failing.as_asgi()).open()
    client.text("fail")

    assert isinstance(await client.error(), LookupError)


async def test_after_an_error_the_socket_is_closed_with_1011():
    client = await Client(Failing.as_asgi()).open()
    client.text("fail")
    await client.error()

    assert client.sent[-1] == {"type": "websocket.close", "code": 1011}


async def test_a_crashed_consumer_leaves_its_groups(layer):
    client = await Client(Failing.as_asgi()).open()
    assert len(layer.groups["room"]) == 1

    client.text("fail")
    await client.error()

    assert layer.groups == {}


async def test_after_an_error_the_disconnect_handler_runs_once_with_1011():
    consumer = Failing()
    client = await Client(consumer).open()
    client.text("fail")
    client.say("websocket.disconnect", code=1001)
    await client.error()

    assert consumer.codes == [1011]


async def test_an_error_is_logged_with_the_connection_it_happened_on(caplog):
    user = mock.Mock(pk=42)
    client = await Client(Failing.as_asgi(), user=user, query_string=b"token=s").open()
    client.text("fail")
    await client.error()

    (record,) = caplog.records
    text = record.getMessage()
    assert record.levelno == logging.ERROR
    assert "Failing failed with LookupError('nothing there')" in text
    assert "/ws/" in text
    assert "10.0.0.1:5000" in text
    assert "user 42" in text
    assert "token" not in text
    assert record.consumer == "Failing"
    assert record.user_id == 42
    assert record.path == "/ws/"
    assert record.channel_name.startswith("specific.")


async def test_an_error_is_counted():
    before = metrics.CONSUMER_ERRORS.value
    client = await Client(Failing.as_asgi()).open()
    client.text("fail")
    await client.error()

    assert metrics.CONSUMER_ERRORS.value == before + 1


async def test_a_user_that_cannot_be_read_does_not_hide_the_error():
    client = await Client(Failing.as_asgi(), user=UserLazyObject()).open()
    client.text("fail")

    assert isinstance(await client.error(), LookupError)


async def test_an_error_after_the_consumers_own_close_sends_no_second_one():
    class Consumer(Failing):
        async def websocket_receive(self, event):
            await self.send({"type": "websocket.close", "code": 4000})
            raise LookupError("nothing there")

    client = await Client(Consumer.as_asgi()).open()
    client.text("fail")
    await client.error()

    assert client.kinds.count("websocket.close") == 1
    assert client.sent[-1]["code"] == 4000


async def test_an_error_in_the_connect_handler_is_raised_without_a_close(layer):
    consumer = Failing()

    async def websocket_connect(event):
        await consumer.channel_layer.group_add("room", consumer.channel_name)
        raise LookupError("nothing there")

    consumer.websocket_connect = websocket_connect
    client = Client(consumer)
    client.say("websocket.connect")

    assert isinstance(await client.error(), LookupError)
    assert client.sent == []
    assert consumer.codes == [1011]
    assert layer.groups == {}


async def test_an_error_in_the_disconnect_handler_is_raised_after_leaving_groups(layer):
    calls = []

    class Consumer(Failing):
        async def websocket_disconnect(self, event):
            calls.append(event["code"])
            raise LookupError("nothing there")

    client = await Client(Consumer.as_asgi()).open()
    client.say("websocket.disconnect", code=1001)

    assert isinstance(await client.error(), LookupError)
    assert calls == [1001]
    assert layer.groups == {}


async def test_an_error_of_the_disconnect_handler_does_not_replace_the_first(caplog):
    class Consumer(Failing):
        async def websocket_disconnect(self, event):
            raise ZeroDivisionError("while cleaning up")

    client = await Client(Consumer.as_asgi()).open()
    client.text("fail")

    assert isinstance(await client.error(), LookupError)
    assert "failed in its disconnect handler" in caplog.text
    assert "while cleaning up" in caplog.text


async def test_an_event_of_the_server_without_a_handler_is_an_error():
    client = await Client(Accepting.as_asgi()).open()
    client.say("websocket.unheard")

    error = await client.error()

    assert isinstance(error, UnknownMessageType)
    assert isinstance(error, ValueError)
    assert "No handler for message type websocket.unheard" in str(error)


async def test_an_error_of_the_servers_receive_ends_the_consumer(layer):
    codes = []

    class Consumer(Accepting):
        async def websocket_disconnect(self, event):
            codes.append(event["code"])

    calls = 0

    async def receive():
        nonlocal calls
        calls += 1
        if calls > 1:
            raise ConnectionResetError("the server lost it")
        return {"type": "websocket.connect"}

    sent = []

    async def send(event):
        sent.append(event["type"])

    with pytest.raises(ConnectionResetError):
        await within(Consumer()({"type": "websocket"}, receive, send))
    assert codes == [1011]
    assert layer.channels == {}


async def test_an_error_before_the_layer_gave_a_channel_is_raised_alone(caplog):
    class Broken(InMemoryChannelLayer):
        async def new_channel(self, prefix="specific."):
            raise ConnectionError("no broker")

    class Consumer(AsyncWebsocketConsumer):
        groups = ["room"]

    channel_layers.set("default", Broken())
    client = Client(Consumer.as_asgi())

    assert isinstance(await client.error(), ConnectionError)
    assert "could not leave" not in caplog.text


async def test_an_on_error_that_returns_lets_the_connection_go_on(caplog):
    errors = []

    class Consumer(Failing):
        async def on_error(self, error):
            errors.append(error)
            await self.say("sorry")

    consumer = Consumer()
    client = await Client(consumer).open()
    for count in (1, 2):
        client.text("fail")
        await client.until("websocket.send", count)
    await client.leave()

    assert [str(error) for error in errors] == ["nothing there"] * 2
    assert client.texts == ["sorry", "sorry"]
    assert "websocket.close" not in client.kinds
    assert consumer.codes == [1001]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


async def test_an_error_that_on_error_passes_is_counted():
    class Consumer(Failing):
        async def on_error(self, error):
            await self.say("sorry")

    before = metrics.CONSUMER_ERRORS.value
    client = await Client(Consumer.as_asgi()).open()
    client.text("fail")
    await client.until("websocket.send")
    await client.leave()

    assert metrics.CONSUMER_ERRORS.value == before + 1


async def test_on_error_is_called_for_messages_of_the_layer(layer):
    class Consumer(Failing):
        async def news(self, event):
            raise LookupError("in the news")

        async def on_error(self, error):
            await self.say(str(error))

    client = await Client(Consumer.as_asgi()).open()
    await layer.group_send("room", {"type": "news"})
    await client.until("websocket.send")
    await client.leave()

    assert client.texts == ["in the news"]


async def test_on_error_may_raise_another_error():
    class Consumer(Failing):
        async def on_error(self, error):
            raise ZeroDivisionError from error

    client = await Client(Consumer.as_asgi()).open()
    client.text("fail")

    assert isinstance(await client.error(), ZeroDivisionError)
    assert client.sent[-1]["code"] == 1011


async def test_on_error_may_end_the_connection_without_an_error():
    class Consumer(Failing):
        async def on_error(self, error):
            raise StopConsumer

    client = await Client(Consumer.as_asgi()).open()
    client.text("fail")
    await client.end()

    assert client.sent[-1] == {"type": "websocket.close", "code": 1000}


async def test_on_error_may_be_a_plain_function():
    class Consumer(Failing):
        def on_error(self, error):
            self.send({"type": "websocket.send", "text": "sorry"})

    client = await Client(Consumer.as_asgi()).open()
    client.text("fail")
    await client.until("websocket.send")
    await client.leave()

    assert client.texts == ["sorry"]


async def test_on_error_is_not_called_for_connect_and_disconnect():
    asked = []

    class Consumer(Failing):
        async def websocket_disconnect(self, event):
            raise LookupError("nothing there")

        async def on_error(self, error):
            asked.append(error)

    client = await Client(Consumer.as_asgi()).open()
    client.say("websocket.disconnect", code=1001)
    await client.error()

    assert asked == []
