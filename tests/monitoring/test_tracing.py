"""Spans: which work makes one, which makes none, and how they hang together."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from support.clients.wire_client import WireClient
from tiderace.consumer import AsyncConsumer
from tiderace.exceptions import DenyConnection
from tiderace.generic.websocket import AsyncWebsocketConsumer
from tiderace.layers import InMemoryChannelLayer, get_channel_layer
from tiderace.layers.pubsub.layer import PubSubLayer
from tiderace.monitoring import tracing
from tiderace.testing import ApplicationCommunicator, WebsocketCommunicator
from tiderace.topics import Topic, TopicsEndpoint, rpc
from tiderace.topics.client.client import TopicClient
from tiderace.topics.declaration.topic import declared

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Spans:
    """The spans that have ended, in order."""

    def __init__(self):
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def all(self):
        return self._exporter.get_finished_spans()

    def named(self, name):
        return [span for span in self.all() if span.name == name]

    @property
    def names(self):
        return [span.name for span in self.all()]


@pytest.fixture
def spans():
    """Spans from now on, and none afterwards."""
    traced = Spans()
    tracing.enable(traced.provider)
    yield traced
    tracing.disable()


@pytest.fixture
def layer(settings):
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }
    return get_channel_layer()


class User:
    pk = 42


class Room(AsyncWebsocketConsumer):
    groups = ["tracing.tea"]

    async def connect(self):
        if self.scope["path"] == "/refused/":
            raise DenyConnection
        await self.accept()

    async def receive(self, text_data=None, bytes_data=None):
        if text_data == "fail":
            raise ZeroDivisionError("by zero")
        await self.channel_layer.group_send("tracing.tea", {"type": "poured"})

    async def poured(self, event):
        await self.send(text_data="poured")

    async def on_error(self, error):
        """Go on."""


def socket(path="/ws/", headers=None):
    communicator = WebsocketCommunicator(Room.as_asgi(), path, headers)
    communicator.scope["user"] = User()
    return communicator


# Consumers


async def test_connecting_is_a_span_with_the_connections_data(layer, spans):
    async with socket():
        pass

    [connect] = spans.named("websocket.connect Room")
    assert connect.kind is SpanKind.SERVER
    assert connect.attributes["url.path"] == "/ws/"
    assert connect.attributes["enduser.id"] == "42"
    assert connect.attributes["tiderace.connection_id"]
    [left] = spans.named("websocket.disconnect Room")
    assert (
        left.attributes["tiderace.connection_id"]
        == connect.attributes["tiderace.connection_id"]
    )


async def test_connecting_belongs_to_the_trace_that_the_client_names(layer, spans):
    async with socket(headers=[(b"traceparent", PARENT.encode())]):
        pass

    [connect] = spans.named("websocket.connect Room")
    assert format(connect.parent.span_id, "x") == "b7ad6b7169203331"


async def test_a_running_span_of_the_server_is_the_parent(layer, spans):
    async def instrumented(scope, receive, send):
        with spans.provider.get_tracer("server").start_as_current_span("server"):
            await Room.as_asgi()(scope, receive, send)

    headers = [(b"traceparent", PARENT.encode())]
    async with WebsocketCommunicator(instrumented, "/ws/", headers):
        pass

    [server] = spans.named("server")
    [connect] = spans.named("websocket.connect Room")
    assert connect.parent.span_id == server.get_span_context().span_id


async def test_the_span_of_a_publication_is_a_child_of_the_handlers(layer, spans):
    async with socket() as room:
        await room.send_to("pour")
        await room.receive_from()

    [handler] = spans.named("websocket.receive Room")
    [publish] = spans.named("group_send")
    assert publish.parent.span_id == handler.get_span_context().span_id
    assert publish.kind is SpanKind.PRODUCER
    assert publish.attributes["messaging.destination.name"] == "tracing.tea"


async def test_delivered_messages_make_no_spans(layer, spans):
    async with socket() as one, socket() as two:
        await layer.group_send("tracing.tea", {"type": "poured"})
        await one.receive_from()
        await two.receive_from()

    assert spans.names.count("group_send") == 1
    assert not [name for name in spans.names if "poured" in name]


async def test_an_error_of_a_handler_is_recorded(layer, spans):
    async with socket() as room:
        await room.send_to("fail")

    [handler] = spans.named("websocket.receive Room")
    assert handler.status.status_code is StatusCode.ERROR
    assert handler.events[0].attributes["exception.type"] == "ZeroDivisionError"


async def test_a_refused_socket_is_not_an_error(layer, spans):
    await socket("/refused/").connect()

    [connect] = spans.named("websocket.connect Room")
    assert connect.status.status_code is StatusCode.UNSET
    assert connect.events == ()


# Publishing


async def test_every_sending_method_makes_a_span(layer, spans):
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "x"})
    await layer.group_send(["a", "b"], {"type": "x"})
    await layer.group_broadcast("tea", "hello")

    assert [
        (span.name, span.attributes["messaging.destination.name"])
        for span in spans.all()
    ] == [("send", channel), ("group_send", "a,b"), ("group_broadcast", "tea")]


async def test_methods_may_be_called_with_keywords(layer, spans):
    await layer.group_send(group="tea", message={"type": "x"})

    [publish] = spans.named("group_send")
    assert publish.attributes["messaging.destination.name"] == "tea"


def test_sync_code_publishes_in_a_span_too(layer, spans):
    tracer = spans.provider.get_tracer("view")
    with tracer.start_as_current_span("view") as view:
        layer.sync.group_send("tea", {"type": "x"})

    [publish] = spans.named("group_send")
    assert publish.parent.span_id == view.get_span_context().span_id


async def test_a_message_that_cannot_be_sent_is_an_error(layer, spans):
    with pytest.raises(TypeError):
        await layer.group_send("two words", {"type": "x"})

    assert spans.named("group_send")[0].status.status_code is StatusCode.ERROR


async def test_messages_carry_no_context_by_default(layer, spans):
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "x"})

    assert await layer.receive(channel) == {"type": "x"}


# Context that goes along


@pytest.fixture
def carried():
    traced = Spans()
    tracing.enable(traced.provider, propagate=True)
    yield traced
    tracing.disable()


class Thumbnails(AsyncConsumer):
    async def thumbnail_make(self, message):
        """Work."""


async def test_a_workers_span_belongs_to_the_trace_of_the_sender(layer, carried):
    await layer.send("thumbnails", {"type": "thumbnail.make"})
    message = await layer.receive("thumbnails")
    scope = {"type": "channel", "channel": "thumbnails"}
    worker = ApplicationCommunicator(Thumbnails.as_asgi(), scope)
    await worker.send_input(message)
    assert await worker.receive_nothing()

    [send] = carried.named("send")
    [work] = carried.named("thumbnail.make Thumbnails")
    assert work.kind is SpanKind.CONSUMER
    assert work.parent.span_id == send.get_span_context().span_id
    assert work.attributes["messaging.destination.name"] == "thumbnails"


async def test_a_handler_may_continue_the_senders_trace(layer, carried):
    channel = await layer.new_channel()
    await layer.group_add("tea", channel)
    await layer.group_send("tea", {"type": "x"})
    message = await layer.receive(channel)

    context = tracing.context_of(message)

    [send] = carried.named("group_send")
    sender = trace.get_current_span(context).get_span_context()
    assert sender.span_id == send.get_span_context().span_id


@pytest.mark.parametrize("carrier", [None, "text", {"traceparent": "nonsense"}])
async def test_a_message_without_a_context_has_none(carrier):
    context = tracing.context_of({"type": "x", tracing.CONTEXT_KEY: carrier})

    assert not trace.get_current_span(context).get_span_context().is_valid


async def test_the_senders_own_message_is_not_changed(layer, carried):
    message = {"type": "x"}

    await layer.group_send("tea", message)

    assert message == {"type": "x"}


# Topics


@pytest.fixture
def endpoint():
    class Tea(Topic):
        pattern = "tea:<slug:kind>"

        async def can_subscribe(self, user):
            return self.kwargs["kind"] != "secret"

        @rpc
        def spill(self):
            raise ZeroDivisionError

    yield TopicsEndpoint.as_asgi()
    declared.remove(Tea)


async def test_a_command_of_a_topic_client_is_a_span(layer, spans, endpoint):
    async with WireClient(endpoint) as client:
        await client.ask("subscribe", channel="tea:green")

    [connect] = spans.named("topic connect")
    [subscribe] = spans.named("topic subscribe")
    assert connect.kind is SpanKind.SERVER
    assert subscribe.attributes["messaging.destination.name"] == "tea:green"
    assert subscribe.status.status_code is StatusCode.UNSET


async def test_a_refusal_has_its_code_and_is_not_an_error(layer, spans, endpoint):
    async with WireClient(endpoint) as client:
        reply = await client.ask("subscribe", channel="tea:secret")

    [subscribe] = spans.named("topic subscribe")
    assert subscribe.attributes["tiderace.error_code"] == reply["error"]["code"]
    assert subscribe.status.status_code is StatusCode.UNSET


async def test_a_fault_of_a_topic_is_an_error(layer, spans, endpoint):
    async with WireClient(endpoint) as client:
        await client.ask("subscribe", channel="tea:green")
        await client.ask(
            "rpc", method="$call", data={"channel": "tea:green", "method": "spill"}
        )

    [call] = spans.named("topic rpc")
    assert call.status.status_code is StatusCode.ERROR


async def test_pings_make_no_spans(layer, spans, endpoint):
    async with WireClient(endpoint) as client:
        await client.ask("ping")

    assert spans.names == ["topic connect"]


# On and off

TRACED = [
    (AsyncConsumer, "dispatch"),
    (TopicClient, "run_command"),
    *(
        (owner, verb)
        for owner in (InMemoryChannelLayer, PubSubLayer)
        for verb in ("send", "group_send", "group_broadcast", "stream_publish")
    ),
]


def test_disabling_restores_the_original_methods():
    before = [vars(owner)[name] for owner, name in TRACED]
    assert not any(hasattr(each, "__wrapped__") for each in before)

    tracing.enable(Spans().provider)
    during = [vars(owner)[name] for owner, name in TRACED]
    tracing.disable()

    assert [each.__wrapped__ for each in during] == before
    assert [vars(owner)[name] for owner, name in TRACED] == before


async def test_enabling_twice_makes_one_span_each(layer, spans):
    tracing.enable(spans.provider)

    await layer.group_send("tea", {"type": "x"})

    assert spans.names == ["group_send"]


async def test_handlers_of_group_messages_stay_on_the_eager_path(layer, spans):
    """The one past ``dispatch``, which a class with a dispatch of its own loses."""
    assert Room._find_route({"type": "poured"}) == "poured"


def test_the_error_without_opentelemetry_names_the_extra(tmp_path):
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('not there')")
    program = (
        "import django; from django.conf import settings; settings.configure("
        "INSTALLED_APPS=['django.contrib.auth', 'django.contrib.contenttypes']);"
        "django.setup(); import tiderace.monitoring.tracing"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert 'pip install "tiderace[otel]"' in done.stderr
