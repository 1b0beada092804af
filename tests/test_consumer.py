"""Consumers: which method handles which message, and what an application may override."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading

import pytest
from django.contrib.auth.models import AnonymousUser
from django.test import override_settings

from support.clients.asgi_client import Client
from support.consumers import Accepting, Member
from support.waiting import settle, within
from tiderace import metrics
from tiderace.connection import Connection
from tiderace.consumer import (
    AsyncConsumer,
    StopConsumer,
    await_many_dispatch,
    concurrent,
    get_handler_name,
)
from tiderace.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from tiderace.layers import (
    BaseChannelLayer,
    InMemoryChannelLayer,
    channel_layers,
    get_channel_layer,
)

pytestmark = pytest.mark.usefixtures("layer")


@pytest.fixture
def unlayered():
    """No layer at all."""
    with override_settings(CHANNEL_LAYERS={}):
        yield


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
    assert app.__module__ == Accepting.__module__
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


# What a message of the layer may reach


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
