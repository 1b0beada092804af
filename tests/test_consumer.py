"""Consumers: which method handles what, in which order, and how a connection ends."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import threading
from unittest import mock

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import AnonymousUser
from django.db import connections
from django.test import override_settings

from support.clients.asgi_client import Client
from support.waiting import PATIENCE, settle, until, within
from tiderace import db, metrics
from tiderace.auth import UserLazyObject
from tiderace.connection import Connection
from tiderace.consumer import (
    AsyncConsumer,
    StopConsumer,
    SyncConsumer,
    await_many_dispatch,
    concurrent,
    get_handler_name,
)
from tiderace.db import database_sync_to_async
from tiderace.exceptions import UnknownMessageType
from tiderace.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from tiderace.layers import (
    BaseChannelLayer,
    InMemoryChannelLayer,
    channel_layers,
    get_channel_layer,
)
from tiderace.runtime import threads

pytestmark = pytest.mark.usefixtures("layer")


@pytest.fixture
def unlayered():
    """No layer at all."""
    with override_settings(CHANNEL_LAYERS={}):
        yield


class Accepting(AsyncConsumer):
    """Accepts its socket, and echoes text."""

    async def websocket_connect(self, event):
        await self.send({"type": "websocket.accept"})

    async def websocket_receive(self, event):
        await self.say(event["text"])

    async def say(self, text):
        await self.send({"type": "websocket.send", "text": text})


# The name of a handler


def test_dots_in_a_type_are_underscores_in_its_handler():
    assert get_handler_name({"type": "chat.message.new"}) == "chat_message_new"


def test_a_message_without_a_type_has_no_handler():
    with pytest.raises(ValueError, match="Incoming message has no 'type' attribute"):
        get_handler_name({})


@pytest.mark.parametrize("kind", ["_private", ".private", "__class__"])
def test_no_type_names_a_private_method(kind):
    with pytest.raises(ValueError, match="leading underscore"):
        get_handler_name({"type": kind})


# The application


async def test_a_consumer_handles_the_events_of_its_connection():
    client = await Client(Accepting.as_asgi()).open()
    client.text("hello")

    assert await client.until("websocket.send") == {
        "type": "websocket.send",
        "text": "hello",
    }
    await client.leave()


def test_the_application_is_named_and_documented_like_its_class():
    app = Accepting.as_asgi(room="tea")

    assert app.consumer_class is Accepting
    assert app.consumer_initkwargs == {"room": "tea"}
    assert app.__name__ == "Accepting"
    assert app.__qualname__ == "Accepting"
    assert app.__module__ == __name__
    assert app.__doc__ == Accepting.__doc__


async def test_arguments_of_the_application_reach_the_constructor_and_nothing_else():
    seen = []

    class Consumer(Accepting):
        def __init__(self, room):
            seen.append(room)

        async def websocket_connect(self, event):
            seen.append(hasattr(self, "room"))
            await super().websocket_connect(event)

    client = await Client(Consumer.as_asgi(room="tea")).open()
    await client.leave()

    assert seen == ["tea", False]


async def test_every_connection_has_a_consumer_of_its_own():
    seen = []

    class Consumer(Accepting):
        async def websocket_connect(self, event):
            seen.append(self)
            await super().websocket_connect(event)

    app = Consumer.as_asgi()
    for _ in range(2):
        await (await Client(app).open()).leave()

    assert seen[0] is not seen[1]


async def test_an_instance_is_an_application_and_serves_one_connection_after_another():
    consumer = Accepting()

    for text in ("first", "second"):
        client = await Client(consumer).open()
        client.text(text)
        await client.until("websocket.send")
        await client.leave()

        assert client.texts == [text]


async def test_the_scope_is_the_object_of_the_server():
    seen = []

    class Consumer(Accepting):
        async def websocket_connect(self, event):
            seen.append(self.scope)
            await super().websocket_connect(event)

    client = await Client(Consumer.as_asgi()).open()
    await client.leave()

    assert seen[0] is client.scope


async def test_without_a_middleware_the_user_is_anonymous():
    client = await Client(Accepting.as_asgi()).open()

    assert client.scope["user"] == AnonymousUser()
    await client.leave()


async def test_a_user_that_a_middleware_has_set_stays():
    client = await Client(Accepting.as_asgi(), user="ann").open()

    assert client.scope["user"] == "ann"
    await client.leave()


async def test_a_connection_counts_as_open_until_it_has_ended():
    before = metrics.CONNECTIONS_OPEN.value
    client = await Client(Accepting.as_asgi()).open()
    assert metrics.CONNECTIONS_OPEN.value == before + 1

    await client.leave()

    assert metrics.CONNECTIONS_OPEN.value == before


# The layer


async def test_a_consumer_has_a_channel_of_its_own(layer):
    names = []

    class Consumer(Accepting):
        async def websocket_connect(self, event):
            assert self.channel_layer is layer
            names.append(self.channel_name)
            await super().websocket_connect(event)

    clients = [await Client(Consumer.as_asgi()).open() for _ in range(2)]
    for client in clients:
        await client.leave()

    assert len(set(names)) == 2


async def test_a_message_to_its_channel_is_handled(layer):
    class Consumer(Accepting):
        async def websocket_connect(self, event):
            await super().websocket_connect(event)
            await self.channel_layer.send(
                self.channel_name, {"type": "chat.message", "text": "to myself"}
            )

        async def chat_message(self, event):
            await self.say(event["text"])

    client = await Client(Consumer.as_asgi()).open()
    await client.until("websocket.send")

    assert client.texts == ["to myself"]
    await client.leave()


@pytest.mark.parametrize("way", ["channel", "group"])
async def test_no_lock_of_the_layer_is_held_while_a_handler_runs(layer, way):
    """A handler may run where its message is sent, and wait for another thread there."""
    stuck, channels = [], []

    class Consumer(Accepting):
        async def websocket_connect(self, event):
            channels.append(self.channel_name)
            await self.channel_layer.group_add("room", self.channel_name)
            await super().websocket_connect(event)

        async def news(self, event):
            thread = threading.Thread(
                target=lambda: asyncio.run(layer.group_add("elsewhere", "queue"))
            )
            thread.start()
            thread.join(5)
            stuck.append(thread.is_alive())
            await self.say("done")

    client = await Client(Consumer.as_asgi()).open()
    await settle()
    if way == "channel":
        await layer.send(channels[0], {"type": "news"})
    else:
        await layer.group_send("room", {"type": "news"})
    await client.until("websocket.send")
    await client.leave()

    assert stuck == [False]


async def test_another_layer_may_be_chosen_by_its_alias():
    other = InMemoryChannelLayer()
    channel_layers.set("other", other)

    class Consumer(Accepting):
        channel_layer_alias = "other"

        async def websocket_connect(self, event):
            await self.channel_layer.group_add("room", self.channel_name)
            await super().websocket_connect(event)

        async def greet(self, event):
            await self.say("greeted")

    client = await Client(Consumer.as_asgi()).open()
    await other.group_send("room", {"type": "greet"})
    await client.until("websocket.send")
    await client.leave()
    del channel_layers.backends["other"]

    assert client.texts == ["greeted"]


@pytest.mark.usefixtures("unlayered")
async def test_without_a_layer_there_is_no_channel_and_all_else_works():
    channel_layers.backends.clear()
    seen = []

    class Consumer(Accepting):
        async def websocket_connect(self, event):
            seen.append(self.channel_layer)
            seen.append(hasattr(self, "channel_name"))
            seen.append(hasattr(self, "channel_receive"))
            await super().websocket_connect(event)

    client = await Client(Consumer.as_asgi()).open()
    client.text("hello")
    await client.until("websocket.send")
    await client.leave()

    assert seen == [None, False, False]


async def test_a_background_task_may_read_the_channel_while_events_go_on(layer):
    """A reader of messages must not swallow the news of an event."""

    class Consumer(Accepting):
        async def websocket_connect(self, event):
            self.spawn(self.read())
            await super().websocket_connect(event)

        async def read(self):
            await self.channel_receive()

    client = await Client(Consumer.as_asgi()).open()
    await settle()
    for number in range(3):
        client.text(str(number))
        await client.until("websocket.send", number + 1)
    await client.leave()

    assert client.texts == ["0", "1", "2"]


# Order


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


# The end


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


# Errors


class Failing(Accepting):
    """Fails at its first message, joined to a group by hand."""

    def __init__(self):
        self.codes = []

    async def websocket_connect(self, event):
        await self.channel_layer.group_add("room", self.channel_name)
        await super().websocket_connect(event)

    async def websocket_receive(self, event):
        raise LookupError("nothing there")

    async def websocket_disconnect(self, event):
        self.codes.append(event["code"])


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


# Policy


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


# Cancellation


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


# Nothing is left


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


# What a message of the layer may reach


class Member(Accepting):
    """Is in the group "room", and has things that no message may touch."""

    lobby = "a text, not a method"

    async def websocket_connect(self, event):
        self.called = []
        self.room = "harbour"
        await self.channel_layer.group_add("room", self.channel_name)
        await super().websocket_connect(event)

    async def websocket_disconnect(self, event):
        raise StopConsumer

    async def _private(self, event):
        await self.say("private")

    async def ping(self, event):
        await self.say("pong")


async def test_a_message_without_a_handler_is_dropped_and_the_socket_lives(
    layer, caplog
):
    before = metrics.MESSAGES_DROPPED_UNHANDLED.value
    client = await Client(Member.as_asgi()).open()

    await layer.group_send("room", {"type": "no.such.thing"})
    await layer.group_send("room", {"type": "ping"})
    await client.until("websocket.send")
    await client.leave()

    assert client.texts == ["pong"]
    assert metrics.MESSAGES_DROPPED_UNHANDLED.value == before + 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "Member dropped a message of type 'no.such.thing'" in record.getMessage()


@pytest.mark.parametrize(
    "kind",
    [
        "close",
        "dispatch",
        "send",
        "accept",
        "spawn",
        "on.error",
        "as.asgi",
        "scope",
        "room",
        "lobby",
        "base_send",
        "base.send",
        "channel_name",
        "channel.name",
        "channel.receive",
        "channel.layer",
        "channel.layer.alias",
        "websocket.connect",
        "websocket.disconnect",
        "websocket.receive",
        "http.request",
        "http.disconnect",
        "_private",
        ".private",
        "__class__",
        "",
        "7",
        "two words",
    ],
)
async def test_messages_call_only_handlers_of_the_application(layer, caplog, kind):
    client = await Client(Member.as_asgi()).open()

    await layer.group_send("room", {"type": kind, "code": 4000, "text": "x"})
    await layer.group_send("room", {"type": "ping"})
    await client.until("websocket.send")
    await client.leave()

    assert client.texts == ["pong"]
    assert client.kinds == ["websocket.accept", "websocket.send"]
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "kind",
    [
        "close",
        "accept",
        "send",
        "send.json",
        "connect",
        "disconnect",
        "receive",
        "receive.json",
        "groups",
        "websocket.connect",
        "websocket.disconnect",
        "websocket.receive",
    ],
)
async def test_no_message_calls_an_overridden_method_of_a_websocket_consumer(
    layer, caplog, kind
):
    from tiderace.generic.websocket import AsyncJsonWebsocketConsumer

    class Consumer(AsyncJsonWebsocketConsumer):
        groups = ["room"]

        async def connect(self):
            await self.accept()

        async def disconnect(self, code):
            pass

        async def receive(self, text_data=None, bytes_data=None):
            await self.send("received")

        async def close(self, code=None, reason=None):
            await super().close(code, reason)

        async def ping(self, event):
            await self.send("pong")

    client = await Client(Consumer.as_asgi()).open()

    await layer.group_send("room", {"type": kind, "text": "x", "code": 1})
    await layer.group_send("room", {"type": "ping"})
    await client.until("websocket.send")
    await client.leave()

    assert client.kinds == ["websocket.accept", "websocket.send"]
    assert client.texts == ["pong"]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("message", [{}, {"type": None}, {"type": ["list"]}])
async def test_a_message_without_a_usable_type_is_dropped(layer, message):
    client = await Client(Member.as_asgi()).open()

    await layer.group_send("room", message)
    await layer.group_send("room", {"type": "ping"})
    await client.until("websocket.send")
    await client.leave()

    assert client.texts == ["pong"]


@pytest.mark.parametrize("name", ["spawn", "on_error", "accepts_broadcasts"])
async def test_a_handler_may_have_a_name_that_channels_does_not_have(layer, name):
    async def handler(self, event):
        await self.say(f"called {name}")

    client = await Client(type("Named", (Member,), {name: handler}).as_asgi()).open()
    other = await Client(Member.as_asgi()).open()
    await layer.group_send("room", {"type": name})
    await layer.group_send("room", {"type": "ping"})
    await other.until("websocket.send")
    await client.until("websocket.send", 2)
    await client.leave()
    await other.leave()

    assert client.texts == [f"called {name}", "pong"]
    assert other.texts == ["pong"]


async def test_access_to_handlers_is_decided_per_class(layer):
    """The decision for a class does not hold for its subclasses."""

    class Child(Member):
        async def hello(self, event):
            await self.say("hello from the child")

    client = await Client(Member.as_asgi()).open()
    child = await Client(Child.as_asgi()).open()
    await layer.group_send("room", {"type": "hello"})
    await layer.group_send("room", {"type": "ping"})
    await client.until("websocket.send")
    await child.until("websocket.send", 2)
    for each in (client, child):
        await each.leave()

    assert client.texts == ["pong"]
    assert child.texts == ["hello from the child", "pong"]


async def test_a_handler_may_come_from_a_mixin(layer):
    class Greeting:
        async def greet(self, event):
            await self.say("greeted")

    class Consumer(Greeting, Member):
        pass

    client = await Client(Consumer.as_asgi()).open()
    await layer.group_send("room", {"type": "greet"})
    await client.until("websocket.send")
    await client.leave()

    assert client.texts == ["greeted"]


async def test_a_handler_that_pops_the_type_does_not_change_it_for_others(layer):
    class Consumer(Member):
        async def news(self, event):
            event.pop("type")
            event["mine"] = True
            await self.say(str(sorted(event)))

    clients = [await Client(Consumer.as_asgi()).open() for _ in range(3)]
    await layer.group_send("room", {"type": "news", "text": "x"})
    for client in clients:
        await client.until("websocket.send")
        await client.leave()

    assert [client.texts for client in clients] == [["['mine', 'text']"]] * 3


async def test_a_decorated_handler_runs_on_the_loop(layer):
    def logged(handler):
        @functools.wraps(handler)
        def wrapper(self, event):
            return handler(self, event)

        return wrapper

    class Consumer(Member):
        @logged
        async def where(self, event):
            await self.say(threading.current_thread().name)

    client = await Client(Consumer.as_asgi()).open()
    await layer.group_send("room", {"type": "where"})
    await client.until("websocket.send")
    await client.leave()

    assert client.texts == [threading.current_thread().name]


async def test_the_messages_of_a_workers_channel_are_messages_of_a_layer(caplog):
    done = asyncio.Event()

    class Consumer(AsyncConsumer):
        async def make(self, event):
            done.set()

    client = Client(Consumer.as_asgi(), type="channel", channel="thumbnails")
    for kind in ("dispatch", "send", "spawn", "no.such.thing", "make"):
        client.say(kind)
    await within(done.wait())
    await client.cancel()

    assert len(caplog.records) == 4
    assert client.sent == []


# Overriding


async def test_dispatch_may_be_overridden():
    seen = []

    class Consumer(Accepting):
        async def dispatch(self, message):
            seen.append(message["type"])
            await super().dispatch(message)

    client = await Client(Consumer.as_asgi()).open()
    await client.leave()

    assert seen == ["websocket.connect", "websocket.disconnect"]


async def test_send_may_be_overridden():
    class Consumer(Accepting):
        async def send(self, message):
            await super().send({**message, "stamped": True})

    client = await Client(Consumer.as_asgi()).open()
    await client.leave()

    assert client.sent[0]["stamped"] is True


async def test_a_consumer_may_run_a_loop_of_its_own_in_channels_way(layer):
    """Demultiplexers override ``__call__`` so, and use the same attributes."""
    received = []

    class Consumer(AsyncConsumer):
        async def __call__(self, scope, receive, send):
            self.channel_layer = get_channel_layer()
            self.channel_name = await self.channel_layer.new_channel()
            self.base_send = send
            await self.channel_layer.send(self.channel_name, {"type": "own"})
            with pytest.raises(StopConsumer):
                await await_many_dispatch(
                    [receive, lambda: self.channel_layer.receive(self.channel_name)],
                    self.dispatch,
                )

        async def dispatch(self, message):
            received.append(get_handler_name(message))
            if len(received) == 2:
                raise StopConsumer

    client = Client(Consumer.as_asgi())
    client.say("websocket.connect")
    await client.end()

    assert sorted(received) == ["own", "websocket_connect"]


# await_many_dispatch


async def test_results_are_dispatched_one_at_a_time_in_the_order_of_the_sources():
    dispatched = []

    async def source(name):
        return name

    async def dispatch(result):
        dispatched.append(result)
        if len(dispatched) == 4:
            raise StopConsumer

    with pytest.raises(StopConsumer):
        await within(
            await_many_dispatch([lambda: source("a"), lambda: source("b")], dispatch)
        )

    assert dispatched == ["a", "b", "a", "b"]


async def test_a_source_may_return_a_future():
    future = asyncio.get_running_loop().create_future()
    future.set_result("from a future")
    seen = []

    async def dispatch(result):
        seen.append(result)
        raise StopConsumer

    with pytest.raises(StopConsumer):
        await within(
            await_many_dispatch(consumer_callables=[lambda: future], dispatch=dispatch)
        )

    assert seen == ["from a future"]


async def test_an_error_of_a_source_ends_the_loop_and_cancels_the_others():
    cancelled = []

    async def patient():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def broken():
        await asyncio.sleep(0)
        raise LookupError("nothing there")

    with pytest.raises(LookupError):
        await within(await_many_dispatch([patient, broken], None))

    assert cancelled == [True]
    assert asyncio.all_tasks() == {asyncio.current_task()}


# Threads


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
        # Without closing around it, as applications do by mistake.
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


# Handlers side by side


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
async def test_at_most_so_many_concurrent_handlers_run_for_one_connection(layer):
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


# Background tasks


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


# A slow consumer


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


# The layer of another project


class StrangersLayer(BaseChannelLayer):
    """A layer as third parties write them: Channels' methods and nothing of ours."""

    def __init__(self):
        super().__init__()
        self.queues = {}
        self.groups = {}
        self.error = None

    async def new_channel(self):
        return f"stranger.{len(self.queues)}!{id(object())}"

    async def send(self, channel, message):
        self._queue(channel).put_nowait(message)

    async def receive(self, channel):
        message = await self._queue(channel).get()
        if self.error is not None:
            raise self.error
        return message

    async def group_add(self, group, channel):
        self.groups.setdefault(group, set()).add(channel)

    async def group_discard(self, group, channel):
        self.groups.get(group, set()).discard(channel)

    async def group_send(self, group, message):
        for channel in self.groups.get(group, ()):
            await self.send(channel, message)

    def _queue(self, channel):
        return self.queues.setdefault(channel, asyncio.Queue())


class Declared(AsyncWebsocketConsumer):
    groups = ["room"]

    async def receive(self, text_data=None, bytes_data=None):
        raise LookupError("nothing there")

    async def greet(self, event):
        await self.send("greeted")


@pytest.fixture
def strangers():
    layer = StrangersLayer()
    channel_layers.set("default", layer)
    return layer


async def test_consumers_work_on_a_layer_without_local_delivery(strangers):
    client = await Client(Declared.as_asgi()).open()
    await strangers.group_send("room", {"type": "greet"})
    await client.until("websocket.send")
    await client.leave()

    assert client.texts == ["greeted"]


async def test_events_from_before_the_channel_is_open_are_handled(strangers):
    """A log-out, for one, that comes while the layer takes its time for a name."""
    told = []

    class Consumer(Accepting):
        async def auth_ended(self, event):
            told.append(event["reason"])

        async def websocket_disconnect(self, event):
            raise StopConsumer

    consumer, events = Consumer(), asyncio.Queue()
    consumer.scope = {"type": "websocket", "path": "/"}
    connection = Connection(
        consumer, consumer._handlers(), strangers, events.get, lambda event: settle()
    )

    connection.queue_event({"type": "auth.ended", "reason": "logged out"})
    serving = asyncio.create_task(connection.serve())
    await settle()
    events.put_nowait({"type": "websocket.disconnect", "code": 1000})
    await serving

    assert told == ["logged out"]


@pytest.mark.parametrize("ending", ["leave", "fail", "cancel"])
async def test_declared_groups_of_another_layer_are_left_at_every_end(
    strangers, ending
):
    client = await Client(Declared.as_asgi()).open()
    assert len(strangers.groups["room"]) == 1
    match ending:
        case "leave":
            await client.leave()
        case "fail":
            client.text("fail")
            await client.error()
        case "cancel":
            await client.cancel()

    assert strangers.groups == {"room": set()}
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_at_most_one_message_of_another_layer_is_read_ahead(strangers):
    gate = asyncio.Event()

    class Consumer(Declared):
        async def greet(self, event):
            await gate.wait()

    client = await Client(Consumer.as_asgi()).open()
    for _ in range(10):
        await strangers.group_send("room", {"type": "greet"})
    await settle()
    (queue,) = strangers.queues.values()

    assert queue.qsize() == 8
    gate.set()
    await client.leave()


async def test_an_error_of_another_layer_ends_the_consumer(strangers):
    client = await Client(Declared.as_asgi()).open()
    strangers.error = ConnectionError("no broker")
    await strangers.group_send("room", {"type": "greet"})

    assert isinstance(await client.error(), ConnectionError)
    assert client.sent[-1]["code"] == 1011


async def test_an_error_of_group_discard_does_not_replace_the_first(strangers, caplog):
    async def group_discard(group, channel):
        raise ConnectionError("no broker")

    client = await Client(Declared.as_asgi()).open()
    strangers.group_discard = group_discard
    client.text("fail")

    assert isinstance(await client.error(), LookupError)
    assert "could not leave group room" in caplog.text


@override_settings(TIDERACE={"CONCURRENT_HANDLERS": 1})
async def test_messages_of_another_layer_wait_while_handlers_are_at_their_limit(
    strangers,
):
    gates = [asyncio.Event(), asyncio.Event()]
    started = []

    class Consumer(Declared):
        @concurrent
        async def slow(self, event):
            started.append(event["number"])
            await gates[event["number"]].wait()

    client = await Client(Consumer.as_asgi()).open()
    for number in range(2):
        await strangers.group_send("room", {"type": "slow", "number": number})
    await settle()
    assert started == [0]

    gates[0].set()
    await settle()
    assert started == [0, 1]
    await client.leave()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("recieve", "receive"),
        ("discconect", "disconnect"),
        ("conect", "connect"),
        ("on_eror", "on_error"),
    ],
)
def test_a_misspelt_method_of_a_consumer_is_logged_where_it_is_routed(
    caplog, name, meant
):
    type("Chat", (WebsocketConsumer,), {name: lambda self: None}).as_asgi()

    assert f"Chat.{name}() is called for messages of the layer alone" in caplog.text
    assert f"did you mean {meant}()?" in caplog.text


@pytest.mark.parametrize(
    "names", [["connected"], ["reconnect"], ["recieve", "receive"], ["chat_message"]]
)
def test_a_method_with_a_name_of_its_own_is_not_logged(caplog, names):
    def method(self):
        raise NotImplementedError

    type("Chat", (WebsocketConsumer,), dict.fromkeys(names, method)).as_asgi()

    assert caplog.text == ""
