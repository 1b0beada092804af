"""The generic WebSocket consumers: what is called, what is sent, in both worlds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from decimal import Decimal

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import Group
from django.core.exceptions import ImproperlyConfigured
from django.test import TestCase, override_settings

from support.clients.asgi_client import Client
from support.waiting import settle, until, within
from tiderace import metrics
from tiderace.connection import connection
from tiderace.db import database_sync_to_async
from tiderace.exceptions import (
    AcceptConnection,
    DenyConnection,
    InvalidChannelLayerError,
    StopConsumer,
)
from tiderace.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
    WebsocketConsumer,
)
from tiderace.layers import InMemoryChannelLayer, channel_layers, get_channel_layer
from tiderace.testing import WebsocketCommunicator

pytestmark = pytest.mark.usefixtures("layer")


class SyncWorld:
    """Makes consumers of the sync kind out of what is the same in both worlds."""

    plain = WebsocketConsumer
    json = JsonWebsocketConsumer

    @staticmethod
    def method(script):
        """A method that says and does what ``script`` yields."""

        def run(self, *args, **kwargs):
            for verb, arguments, keywords in script(self, *args, **kwargs) or ():
                getattr(self, verb)(*arguments, **keywords)

        return run


class AsyncWorld:
    """The same for consumers of the async kind."""

    plain = AsyncWebsocketConsumer
    json = AsyncJsonWebsocketConsumer

    @staticmethod
    def method(script):
        async def run(self, *args, **kwargs):
            for verb, arguments, keywords in script(self, *args, **kwargs) or ():
                await getattr(self, verb)(*arguments, **keywords)

        return run


@pytest.fixture(params=[SyncWorld, AsyncWorld], ids=["sync", "async"])
def world(request):
    """Every test that asks for it runs with sync and with async consumers."""
    return request.param


def do(verb, *arguments, **keywords):
    """One call of a verb, for a script."""
    return verb, arguments, keywords


def consumer(base, world, **scripts):
    """A subclass of ``base`` whose methods follow scripts; other attributes as given."""
    return type(
        "Consumer",
        (base,),
        {
            name: world.method(script) if callable(script) else script
            for name, script in scripts.items()
        },
    )


async def connected(cls, **scope):
    return await Client(cls.as_asgi(), **scope).open()


# Connect


async def test_the_default_connect_accepts(world):
    client = await connected(world.plain)

    assert client.sent == [{"type": "websocket.accept", "subprotocol": None}]
    await client.leave()


async def test_accept_sends_the_subprotocol_and_headers(world):
    headers = ((b"x-room", b"tea"),)
    cls = consumer(
        world.plain, world, connect=lambda self: [do("accept", "chat", headers)]
    )

    client = await connected(cls)

    assert client.sent == [
        {
            "type": "websocket.accept",
            "subprotocol": "chat",
            "headers": [(b"x-room", b"tea")],
        }
    ]
    await client.leave()


async def test_a_connect_that_neither_accepts_nor_closes_sends_nothing(world):
    called = []
    cls = consumer(world.plain, world, connect=lambda self: called.append("connect"))
    client = Client(cls.as_asgi())
    client.say("websocket.connect")
    await until(lambda: called)
    await settle()

    assert client.sent == []
    await client.leave()


async def test_a_connect_that_closes_refuses_the_socket(world):
    codes = []
    cls = consumer(
        world.plain,
        world,
        connect=lambda self: [do("close", code=4001, reason="no entry")],
        disconnect=lambda self, code: codes.append(code),
    )
    client = Client(cls.as_asgi())
    client.say("websocket.connect")
    await client.until("websocket.close")

    assert client.sent == [
        {"type": "websocket.close", "code": 4001, "reason": "no entry"}
    ]
    await client.leave(1006)
    assert codes == [1006]


async def test_a_connect_may_accept_by_raising(world):
    def connect(self):
        raise AcceptConnection

    client = await connected(consumer(world.plain, world, connect=connect))

    assert client.kinds == ["websocket.accept"]
    await client.leave()


async def test_a_connect_may_deny_by_raising(world):
    def connect(self):
        raise DenyConnection

    client = Client(consumer(world.plain, world, connect=connect).as_asgi())
    client.say("websocket.connect")
    await client.until("websocket.close")

    assert client.sent == [{"type": "websocket.close"}]
    await client.leave()


async def test_an_error_in_connect_reaches_the_server_without_a_close(world):
    def connect(self):
        raise LookupError("nothing there")

    client = Client(consumer(world.plain, world, connect=connect).as_asgi())
    client.say("websocket.connect")

    assert isinstance(await client.error(), LookupError)
    assert client.sent == []


# Receive


async def test_text_and_bytes_are_passed_by_name(world):
    received = []
    cls = consumer(
        world.plain,
        world,
        receive=lambda self, text_data=None, bytes_data=None: received.append(
            (text_data, bytes_data)
        ),
    )
    client = await connected(cls)
    client.say("websocket.receive", text="text")
    client.say("websocket.receive", bytes=b"bytes")
    client.say("websocket.receive", text="")
    client.say("websocket.receive", text=None, bytes=b"as Hypercorn says it")
    client.say("websocket.receive", text="text", bytes=None)
    await client.leave()

    assert received == [
        ("text", None),
        (None, b"bytes"),
        ("", None),
        (None, b"as Hypercorn says it"),
        ("text", None),
    ]


async def test_a_message_of_neither_text_nor_bytes_is_an_error(world):
    client = await connected(world.plain)
    client.say("websocket.receive")

    assert isinstance(await client.error(), KeyError)


async def test_a_consumer_that_overrides_nothing_takes_messages_and_ends(world):
    client = await connected(world.plain)
    client.text("into the blue")

    await client.leave()

    assert client.kinds == ["websocket.accept"]


# Send and close


@pytest.mark.parametrize(
    ("arguments", "keywords", "sent"),
    [
        (("text",), {}, {"text": "text"}),
        ((), {"text_data": "text"}, {"text": "text"}),
        ((), {"bytes_data": b"bytes"}, {"bytes": b"bytes"}),
        (("",), {}, {"text": ""}),
        ((), {"bytes_data": b""}, {"bytes": b""}),
        (("text", b"bytes"), {}, {"text": "text"}),
    ],
)
async def test_text_or_bytes_are_sent(world, arguments, keywords, sent):
    cls = consumer(
        world.plain,
        world,
        receive=lambda self, text_data: [do("send", *arguments, **keywords)],
    )
    client = await connected(cls)
    client.text("say it")

    assert await client.until("websocket.send") == {"type": "websocket.send", **sent}
    await client.leave()


async def test_sending_nothing_is_an_error(world):
    cls = consumer(world.plain, world, receive=lambda self, text_data: [do("send")])
    client = await connected(cls)
    client.text("say nothing")

    error = await client.error()

    assert isinstance(error, ValueError)
    assert str(error) == "You must pass one of bytes_data or text_data"


@pytest.mark.parametrize(
    ("close", "event"),
    [
        (True, {"type": "websocket.close"}),
        (4001, {"type": "websocket.close", "code": 4001}),
    ],
)
async def test_a_last_message_may_close_the_socket(world, close, event):
    cls = consumer(
        world.plain,
        world,
        receive=lambda self, text_data: [do("send", "bye", close=close)],
    )
    client = await connected(cls)
    client.text("bye")
    await client.until("websocket.close")

    assert client.sent[1:] == [{"type": "websocket.send", "text": "bye"}, event]
    await client.leave()


@pytest.mark.parametrize(
    ("arguments", "keywords", "event"),
    [
        ((), {}, {}),
        ((True,), {}, {}),
        ((0,), {}, {"code": 0}),
        ((4001,), {}, {"code": 4001}),
        ((), {"code": 4001, "reason": "bye"}, {"code": 4001, "reason": "bye"}),
        ((), {"reason": ""}, {}),
    ],
)
async def test_close_sends_code_and_reason(world, arguments, keywords, event):
    cls = consumer(
        world.plain,
        world,
        receive=lambda self, text_data: [do("close", *arguments, **keywords)],
    )
    client = await connected(cls)
    client.text("close")

    assert await client.until("websocket.close") == {"type": "websocket.close", **event}
    await client.leave()


async def test_a_consumer_that_closed_runs_until_the_client_is_gone(world):
    codes = []
    cls = consumer(
        world.plain,
        world,
        receive=lambda self, text_data: [do("close", 4001), do("send", "dropped")],
        disconnect=lambda self, code: codes.append(code),
    )
    before = metrics.SENDS_AFTER_CLOSE.value
    client = await connected(cls)
    client.text("close")
    await client.until("websocket.close")
    assert not client.task.done()

    await client.leave(4001)

    assert codes == [4001]
    assert client.texts == []
    assert metrics.SENDS_AFTER_CLOSE.value == before + 1


async def test_a_group_message_that_crosses_a_close_is_no_error(world, layer, caplog):
    cls = consumer(
        world.plain,
        world,
        groups=["room"],
        receive=lambda self, text_data: [do("close")],
        greet=lambda self, event: [do("send", "hello")],
    )
    client = await connected(cls)
    client.text("close")
    await client.until("websocket.close")
    await layer.group_send("room", {"type": "greet"})

    await client.leave()

    assert client.texts == []
    assert caplog.records == []


# Disconnect


async def test_disconnect_gets_the_code_of_the_client(world):
    codes = []
    cls = consumer(world.plain, world, disconnect=lambda self, code: codes.append(code))
    client = await connected(cls)

    await client.leave(4321)

    assert codes == [4321]


async def test_a_server_that_gives_no_code_means_1005(world):
    codes = []
    cls = consumer(world.plain, world, disconnect=lambda self, code: codes.append(code))
    client = await connected(cls)
    client.say("websocket.disconnect")
    await client.end()

    assert codes == [1005]


async def test_after_an_error_disconnect_runs_once_with_1011(world, layer):
    codes = []

    def receive(self, text_data):
        raise LookupError("nothing there")

    cls = consumer(
        world.plain,
        world,
        groups=["room"],
        receive=receive,
        disconnect=lambda self, code: codes.append(code),
    )
    client = await connected(cls)
    client.text("fail")
    await client.error()

    assert codes == [1011]
    assert layer.groups == {}
    assert client.sent[-1] == {"type": "websocket.close", "code": 1011}


async def test_an_overridden_event_handler_may_call_the_original(world):
    calls = []

    class Sync(WebsocketConsumer):
        def websocket_connect(self, message):
            calls.append("connect")
            super().websocket_connect(message)

        def websocket_disconnect(self, message):
            calls.append("disconnect")
            super().websocket_disconnect(message)

    class Async(AsyncWebsocketConsumer):
        async def websocket_connect(self, message):
            calls.append("connect")
            await super().websocket_connect(message)

        async def websocket_disconnect(self, message):
            calls.append("disconnect")
            await super().websocket_disconnect(message)

    client = await connected(Sync if world is SyncWorld else Async)
    await client.leave()

    assert calls == ["connect", "disconnect"]


async def test_an_event_handler_without_super_still_ends_the_consumer(world):
    client = await connected(
        consumer(world.plain, world, websocket_disconnect=lambda self, message: [])
    )

    await client.leave()


# Groups


async def test_declared_groups_are_joined_before_connect_and_left_at_the_end(
    world, layer
):
    seen = []
    cls = consumer(
        world.plain,
        world,
        groups=["room", "hall"],
        connect=lambda self: seen.append(sorted(layer.groups)) or [do("accept")],
        disconnect=lambda self, code: seen.append(sorted(layer.groups)),
    )
    client = await connected(cls)
    assert sorted(layer.groups) == ["hall", "room"]

    await client.leave()

    assert seen == [["hall", "room"], []]
    assert layer.groups == {}


@pytest.mark.parametrize(
    "groups", [("room",), {"room"}, {"room": "a dict"}, ["room", "room"]]
)
async def test_any_iterable_may_declare_groups(world, layer, groups):
    cls = consumer(
        world.plain,
        world,
        groups=groups,
        greet=lambda self, event: [do("send", "hello")],
    )
    client = await connected(cls)
    await layer.group_send("room", {"type": "greet"})
    await client.until("websocket.send")

    await client.leave()

    assert client.texts == ["hello"]


async def test_groups_may_be_set_in_the_constructor(world, layer):
    class Grouped(world.plain):
        def __init__(self, room):
            super().__init__()
            self.groups = [room]

    client = await Client(Grouped.as_asgi(room="tea")).open()

    assert list(layer.groups) == ["tea"]
    await client.leave()


async def test_consumers_do_not_share_the_groups_they_add_to(world):
    first, second = world.plain(), world.plain()
    first.groups.append("mine")

    assert second.groups == []


async def test_a_subclass_that_does_not_call_init_has_no_groups(world):
    class Forgetful(world.plain):
        def __init__(self):
            pass

    client = await connected(Forgetful)

    await client.leave()


@override_settings(CHANNEL_LAYERS={})
async def test_groups_without_a_layer_raise_an_explained_error(world):
    channel_layers.backends.clear()
    cls = consumer(world.plain, world, groups=["room"])
    client = Client(cls.as_asgi())
    client.say("websocket.connect")

    error = await client.error()

    assert isinstance(error, InvalidChannelLayerError)
    assert "BACKEND is unconfigured or doesn't support groups" in str(error)


async def test_groups_on_a_layer_without_groups_raise_an_explained_error(world):
    class Groupless:
        async def new_channel(self):
            return "specific!1"

        async def receive(self, channel):
            await asyncio.Event().wait()

    channel_layers.set("default", Groupless())
    client = Client(consumer(world.plain, world, groups=["room"]).as_asgi())
    client.say("websocket.connect")

    assert isinstance(await client.error(), InvalidChannelLayerError)


async def test_an_attribute_error_inside_the_layer_is_not_taken_for_a_missing_layer(
    world,
):
    class Buggy(InMemoryChannelLayer):
        async def group_add(self, group, channel):
            raise AttributeError("a bug of the layer")

    channel_layers.set("default", Buggy())
    client = Client(consumer(world.plain, world, groups=["room"]).as_asgi())
    client.say("websocket.connect")

    error = await client.error()

    assert isinstance(error, AttributeError)
    assert str(error) == "a bug of the layer"


async def test_an_illegal_group_is_refused_at_connect_with_its_name(world):
    client = Client(consumer(world.plain, world, groups=["ann@example.org"]).as_asgi())
    client.say("websocket.connect")

    error = await client.error()

    assert isinstance(error, TypeError)
    assert "ann@example.org" in error.__notes__[0]


# JSON


async def test_json_is_decoded_and_encoded(world):
    cls = consumer(
        world.json,
        world,
        receive_json=lambda self, content: [do("send_json", {"got": content})],
    )
    client = await connected(cls)
    client.text('{"a": [1, null]}')
    event = await client.until("websocket.send")

    assert json.loads(event["text"]) == {"got": {"a": [1, None]}}
    await client.leave()


async def test_a_last_json_message_may_close_the_socket(world):
    cls = consumer(
        world.json,
        world,
        receive_json=lambda self, content: [do("send_json", content, close=4001)],
    )
    client = await connected(cls)
    client.text("1")
    await client.until("websocket.close")

    assert client.sent[1:] == [
        {"type": "websocket.send", "text": "1"},
        {"type": "websocket.close", "code": 4001},
    ]
    await client.leave()


@pytest.mark.parametrize("event", [{"bytes": b"{}"}, {"text": ""}])
async def test_a_message_without_text_is_no_json(world, event):
    client = await connected(world.json)
    client.say("websocket.receive", **event)

    error = await client.error()

    assert isinstance(error, ValueError)
    assert str(error) == "No text section for incoming WebSocket frame!"


async def test_malformed_json_closes_the_socket(world):
    client = await connected(world.json)
    client.text("{not json")

    assert isinstance(await client.error(), json.JSONDecodeError)
    assert client.sent[-1]["code"] == 1011


async def test_json_nested_too_deeply_is_a_value_error(world):
    client = await connected(world.json)
    client.text("[" * 60_000)

    assert isinstance(await client.error(), ValueError)
    assert client.sent[-1]["code"] == 1011


async def test_json_that_is_decoded_can_be_encoded_by_deeper_code():
    def deeper(calls, content):
        if calls:
            return deeper(calls - 1, content)
        return JsonWebsocketConsumer.encode_json(content)

    decoded = []
    for depth in range(10, 1000, 10):
        with contextlib.suppress(ValueError):
            text = "[" * depth + "]" * depth
            decoded.append(await AsyncJsonWebsocketConsumer.decode_json(text))

    assert len(decoded) > 30
    assert decoded == [
        JsonWebsocketConsumer.decode_json(deeper(100, each)) for each in decoded
    ]


async def test_receive_may_pass_more_to_receive_json(world):
    seen = []

    class Sync(JsonWebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None, **kwargs):
            super().receive(text_data, bytes_data, extra="more")

        def receive_json(self, content, **kwargs):
            seen.append((content, kwargs))

    class Async(AsyncJsonWebsocketConsumer):
        async def receive(self, text_data=None, bytes_data=None, **kwargs):
            await super().receive(text_data, bytes_data, extra="more")

        async def receive_json(self, content, **kwargs):
            seen.append((content, kwargs))

    client = await connected(Sync if world is SyncWorld else Async)
    client.text("1")
    await client.leave()

    assert seen == [(1, {"extra": "more"})]


class Decimals:
    """Another dialect of JSON, as plain class methods."""

    @classmethod
    def decode_json(cls, text_data):
        return json.loads(text_data, parse_float=Decimal)

    @classmethod
    def encode_json(cls, content):
        return json.dumps(content, default=str)


async def test_the_json_codec_may_be_overridden(world):
    """Also by plain methods in an async consumer, whose own are coroutines."""

    class Dialect(Decimals, world.json):
        receive_json = world.method(lambda self, content: [do("send_json", content)])

    client = await connected(Dialect)
    client.text("[1.10]")
    event = await client.until("websocket.send")

    assert event["text"] == '["1.10"]'
    await client.leave()


async def test_the_codec_of_an_async_consumer_may_be_coroutines():
    class Dialect(AsyncJsonWebsocketConsumer):
        @classmethod
        async def decode_json(cls, text_data):
            return f"decoded {text_data}"

        @classmethod
        async def encode_json(cls, content):
            return f"encoded {content}"

        async def receive_json(self, content):
            await self.send_json(content)

    client = await connected(Dialect)
    client.text("x")
    event = await client.until("websocket.send")

    assert event["text"] == "encoded decoded x"
    await client.leave()


def test_a_sync_consumer_with_a_coroutine_codec_cannot_be_defined():
    with pytest.raises(TypeError, match="encode_json is a coroutine function"):

        class Wrong(JsonWebsocketConsumer):
            @classmethod
            async def encode_json(cls, content):
                return ""


async def test_send_json_does_not_pass_through_an_overridden_send(world):
    """Channels' two kinds of consumers skip the subclass's own ``send``, too."""

    class Loud(world.json):
        send = world.method(lambda self, *a, **k: [do("shout")])
        shout = world.method(lambda self: [])
        receive_json = world.method(lambda self, content: [do("send_json", content)])

    client = await connected(Loud)
    client.text("1")
    await client.until("websocket.send")
    await client.leave()

    assert client.texts == ["1"]


# A plain def in an async consumer, an async def in a sync one


async def test_plain_methods_of_an_async_consumer_run_in_a_thread():
    seen = []

    class Consumer(AsyncWebsocketConsumer):
        def connect(self):
            seen.append(("connect", threading.get_ident()))
            self.accept(subprotocol="chat")

        def receive(self, text_data=None, bytes_data=None):
            seen.append(("receive", threading.get_ident()))
            self.send(text_data)

        def disconnect(self, code):
            seen.append(("disconnect", code))

    client = await connected(Consumer)
    client.text("hello")
    await client.until("websocket.send")
    await client.leave(1000)

    assert client.sent[0]["subprotocol"] == "chat"
    assert client.texts == ["hello"]
    assert [name for name, _ in seen] == ["connect", "receive", "disconnect"]
    assert threading.get_ident() not in {where for _, where in seen}


async def test_plain_methods_of_an_async_consumer_may_return_the_result_of_send():
    class Consumer(AsyncWebsocketConsumer):
        def connect(self):
            return self.accept()

    client = await connected(Consumer)

    await client.leave()


async def test_a_plain_handler_of_an_async_consumer_answers_a_group_message(layer):
    class Consumer(AsyncJsonWebsocketConsumer):
        groups = ["room"]

        def greet(self, event):
            self.send_json({"text": event["text"]})
            self.send(text_data="bye", close=4001)

    client = await connected(Consumer)
    await layer.group_send("room", {"type": "greet", "text": "hello"})
    await client.until("websocket.close")
    await client.leave()

    assert client.texts == ['{"text": "hello"}', "bye"]
    assert client.sent[-1] == {"type": "websocket.close", "code": 4001}


async def test_an_overridden_send_of_an_async_consumer_works_in_a_thread():
    class Consumer(AsyncWebsocketConsumer):
        async def send(self, text_data=None, bytes_data=None, close=False):
            await super().send(f"<{text_data}>", bytes_data, close)

        def receive(self, text_data=None, bytes_data=None):
            self.send(text_data)

    client = await connected(Consumer)
    client.text("hello")
    await client.until("websocket.send")
    await client.leave()

    assert client.texts == ["<hello>"]


async def test_a_plain_method_from_a_mixin_works_in_an_async_consumer():
    class Greeting:
        def connect(self):
            self.accept()
            self.send("welcome")

    class Consumer(Greeting, AsyncWebsocketConsumer):
        pass

    client = await connected(Consumer)
    await client.until("websocket.send")
    await client.leave()

    assert client.texts == ["welcome"]


async def test_coroutine_methods_of_a_sync_consumer_run_on_the_loop():
    seen = []

    class Consumer(WebsocketConsumer):
        async def connect(self):
            seen.append(threading.get_ident())
            await self.accept()

        async def receive(self, text_data=None, bytes_data=None):
            seen.append(threading.get_ident())
            await self.send(text_data, close=4001)

        async def disconnect(self, code):
            seen.append(threading.get_ident())

    client = await connected(Consumer)
    client.text("hello")
    await client.until("websocket.close")
    await client.leave()

    assert client.texts == ["hello"]
    assert client.sent[-1]["code"] == 4001
    assert seen == [threading.get_ident()] * 3


async def test_a_coroutine_event_handler_of_a_sync_consumer_works():
    class Consumer(WebsocketConsumer):
        async def websocket_connect(self, message):
            await self.accept()

        async def websocket_receive(self, message):
            await self.send(message["text"])

    client = await connected(Consumer)
    client.text("hello")
    await client.until("websocket.send")
    await client.leave()

    assert client.texts == ["hello"]


async def test_a_coroutine_method_from_a_mixin_works_in_a_sync_consumer():
    class Greeting:
        async def connect(self):
            await self.accept()

    class Consumer(Greeting, WebsocketConsumer):
        pass

    client = await connected(Consumer)

    await client.leave()


def test_the_send_methods_of_an_async_consumer_are_coroutine_functions():
    """Mocks that replace them must be awaitable: ``mock.patch.object`` looks here."""
    from unittest import mock

    for verb in ("accept", "send", "close", "send_json"):
        with mock.patch.object(AsyncJsonWebsocketConsumer, verb) as patched:
            assert isinstance(patched, mock.AsyncMock), verb


# Pushes from outside


async def test_a_push_from_sync_code_reaches_the_sockets(world, layer):
    cls = consumer(
        world.plain,
        world,
        groups=["room"],
        greet=lambda self, event: [do("send", event["text"])],
    )
    client = await connected(cls)

    await sync_to_async(
        lambda: async_to_sync(get_channel_layer().group_send)(
            "room", {"type": "greet", "text": "from a view"}
        )
    )()
    await client.until("websocket.send")
    await client.leave()

    assert client.texts == ["from a view"]


# One database connection, one transaction


class SyncWriter(JsonWebsocketConsumer):
    """Writes a row in its own way, and counts all rows."""

    def receive_json(self, content):
        Group.objects.create(name=content)
        self.send_json(sorted(Group.objects.values_list("name", flat=True)))


class AsyncWriter(AsyncJsonWebsocketConsumer):
    async def receive_json(self, content):
        await Group.objects.acreate(name=content)
        await self.send_json(await self.names())

    @database_sync_to_async
    def names(self):
        return sorted(Group.objects.values_list("name", flat=True))


class PlainWriter(AsyncJsonWebsocketConsumer):
    def receive_json(self, content):
        Group.objects.create(name=content)
        self.send_json(sorted(Group.objects.values_list("name", flat=True)))


WRITERS = [SyncWriter, AsyncWriter, PlainWriter]


async def write(writer, name):
    """Let a consumer write a row; what it then saw."""
    socket = WebsocketCommunicator(writer.as_asgi(), "/ws/")
    await socket.connect()
    await socket.send_json_to(name)
    seen = await socket.receive_json_from()
    await socket.disconnect()
    return seen


class ConsumersInATestCase(TestCase):
    """Django's own test case: consumers see its transaction, and it sees theirs."""

    @classmethod
    def setUpTestData(cls):
        Group.objects.create(name="of the class")

    def setUp(self):
        # Would be there if the transaction of another test had not been undone.
        assert Group.objects.count() == 1

    async def test_an_async_test_shares_its_rows_with_a_sync_consumer(self):
        await Group.objects.acreate(name="of the test")

        seen = await write(SyncWriter, "written")

        assert seen == ["of the class", "of the test", "written"]
        assert await Group.objects.acount() == 3

    async def test_an_async_test_shares_its_rows_with_an_async_consumer(self):
        await Group.objects.acreate(name="of the test")

        seen = await write(AsyncWriter, "written")

        assert seen == ["of the class", "of the test", "written"]
        assert await Group.objects.acount() == 3

    async def test_an_async_test_shares_its_rows_with_plain_handlers(self):
        seen = await write(PlainWriter, "written")

        assert seen == ["of the class", "written"]
        assert await Group.objects.acount() == 2

    def test_a_sync_test_shares_its_rows_with_every_kind_of_consumer(self):
        for number, writer in enumerate(WRITERS):
            seen = async_to_sync(write)(writer, f"written {number}")
            assert len(seen) == number + 2

        assert Group.objects.count() == 4

    async def test_several_consumers_share_the_one_connection(self):
        sockets = [WebsocketCommunicator(w.as_asgi(), "/ws/") for w in WRITERS]
        for socket in sockets:
            await socket.connect()
        for number, socket in enumerate(sockets):
            await socket.send_json_to(f"written {number}")
            assert len(await socket.receive_json_from()) == number + 2
        for socket in sockets:
            await socket.disconnect()

    async def test_an_error_of_a_consumer_leaves_the_transaction_usable(self):
        socket = WebsocketCommunicator(SyncWriter.as_asgi(), "/ws/")
        await socket.connect()
        await socket.send_to(text_data="{no json")
        with pytest.raises(json.JSONDecodeError):
            await socket.receive_output()

        assert await Group.objects.acount() == 1


@pytest.mark.django_db
@pytest.mark.parametrize("writer", WRITERS)
def test_a_pytest_test_shares_its_transaction_with_a_consumer(writer):
    assert not Group.objects.exists()
    Group.objects.create(name="of the test")

    seen = async_to_sync(write)(writer, "written")

    assert seen == ["of the test", "written"]
    assert Group.objects.count() == 2


async def test_stop_consumer_in_send_in_a_thread_ends_the_consumer():
    class Consumer(WebsocketConsumer):
        def receive(self, text_data=None, bytes_data=None):
            raise StopConsumer

    client = await connected(Consumer)
    client.text("stop")

    await within(client.end())
    assert client.sent[-1] == {"type": "websocket.close", "code": 1000}


# Mistakes


@pytest.mark.parametrize("base", [WebsocketConsumer, AsyncWebsocketConsumer])
def test_groups_that_are_a_string_raise_where_the_class_is_defined(base):
    with pytest.raises(ImproperlyConfigured) as raised:
        type("Chat", (base,), {"groups": "lobby", "__module__": "chat.consumers"})

    assert 'chat.consumers.Chat has groups = "lobby", a string' in str(raised.value)
    assert 'write groups = ["lobby"]' in str(raised.value)


class Waiting(AsyncWebsocketConsumer):
    """Answers no handshake until the layer tells it how."""

    async def connect(self):
        await self.channel_layer.group_add("waiting", self.channel_name)

    async def go_on(self, event):
        await self.accept()


@pytest.fixture
def _at_once(monkeypatch):
    monkeypatch.setattr(connection, "UNANSWERED_AFTER", 0.0)


@pytest.mark.usefixtures("_at_once")
async def test_under_debug_a_connect_that_answers_nothing_is_a_warning(
    settings, caplog
):
    settings.DEBUG = True
    socket = WebsocketCommunicator(Waiting.as_asgi(), "/")
    await socket.send_input({"type": "websocket.connect"})

    await until(lambda: caplog.records)

    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "Waiting has neither accepted nor closed the WebSocket" in record.message
    assert record.reason == "unanswered"
    await get_channel_layer().group_send("waiting", {"type": "go.on"})
    assert await socket.receive_output() == {
        "type": "websocket.accept",
        "subprotocol": None,
    }
    await socket.disconnect()


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize("debug", [True, False])
async def test_a_connect_that_answers_or_is_not_debugged_is_no_warning(
    settings, caplog, debug
):
    settings.DEBUG = debug
    app = (AsyncWebsocketConsumer if debug else Waiting).as_asgi()
    socket = WebsocketCommunicator(app, "/")
    await socket.send_input({"type": "websocket.connect"})
    await settle()

    assert not caplog.records
    await socket.disconnect()
