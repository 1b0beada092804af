"""Structured logs: which connection a line is about, and one word for what happened."""

from __future__ import annotations

import asyncio
import logging

import pytest
from django.utils.functional import SimpleLazyObject

from tiderace.asgi import connection_id, known_user_id, log_fields, serving
from tiderace.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from tiderace.layers import InMemoryChannelLayer, get_channel_layer
from tiderace.monitoring.logs import ConnectionFields
from tiderace.routing import URLRouter
from tiderace.security.websocket import OriginValidator
from tiderace.testing import WebsocketCommunicator

application_log = logging.getLogger("shop.orders")


class User:
    pk = 42


class Kept(logging.Handler):
    """Keeps the records that reach it, with the fields the filter has put on them."""

    def __init__(self):
        super().__init__()
        self.records = []
        self.addFilter(ConnectionFields())

    def emit(self, record):
        self.records.append(record)

    def of(self, logger: str) -> list[logging.LogRecord]:
        return [record for record in self.records if record.name == logger]


@pytest.fixture
def kept():
    handler = Kept()
    application_log.setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


class Talkative(AsyncWebsocketConsumer):
    groups = ["logs.tea"]

    async def receive(self, text_data=None, bytes_data=None):
        if text_data == "fail":
            raise ZeroDivisionError("by zero")
        if text_data == "task":
            await self.spawn(self._later())
            return
        application_log.info("said %s", text_data)

    async def poured(self, event):
        application_log.info("poured")

    async def _later(self):
        application_log.info("later")

    async def on_error(self, error):
        """Go on."""


class Blocking(WebsocketConsumer):
    def receive(self, text_data=None, bytes_data=None):
        application_log.info("said %s", text_data)


def socket(consumer, path="/ws/tea/"):
    communicator = WebsocketCommunicator(consumer.as_asgi(), path)
    communicator.scope["user"] = User()
    return communicator


@pytest.mark.parametrize("consumer", [Talkative, Blocking])
async def test_records_of_the_application_have_its_connection(kept, consumer):
    communicator = socket(consumer)
    await communicator.connect()
    await communicator.send_to("hello")
    await communicator.disconnect()

    [record] = kept.of("shop.orders")
    assert (record.path, record.user_id, record.reason) == ("/ws/tea/", 42, "")
    assert record.connection_id


async def test_a_group_message_is_logged_with_the_connection_that_handles_it(kept):
    one, two = socket(Talkative, "/one/"), socket(Talkative, "/two/")
    await one.connect()
    await two.connect()

    await get_channel_layer().group_send("logs.tea", {"type": "poured"})

    await one.disconnect()
    await two.disconnect()
    records = kept.of("shop.orders")
    assert [record.path for record in records] == ["/one/", "/two/"]
    assert len({record.connection_id for record in records}) == 2


async def test_background_tasks_have_their_connection(kept):
    communicator = socket(Talkative)
    await communicator.connect()
    await communicator.send_to("task")
    await communicator.disconnect()

    [record] = kept.of("shop.orders")
    assert record.path == "/ws/tea/"


async def test_a_record_of_the_package_has_a_reason_of_one_word(kept):
    communicator = socket(Talkative)
    await communicator.connect()
    await communicator.send_to("fail")
    await communicator.send_to("hello")
    await communicator.disconnect()

    [ours] = kept.of("tiderace.consumer")
    [theirs] = kept.of("shop.orders")
    assert ours.reason == "handler_failed_and_goes_on"
    assert ours.consumer == "Talkative"
    assert ours.channel_name
    assert ours.connection_id == theirs.connection_id


async def test_a_message_without_a_handler_is_logged_with_its_type(kept):
    communicator = socket(Talkative)
    await communicator.connect()
    await get_channel_layer().group_send("logs.tea", {"type": "unheard.of"})
    await communicator.disconnect()

    [record] = kept.of("tiderace.consumer")
    assert (record.reason, record.message_type) == ("unhandled_message", "unheard.of")


async def test_a_socket_without_a_route_is_logged_with_its_reason(kept):
    await WebsocketCommunicator(URLRouter([]), "/nowhere/").connect()

    [record] = kept.of("tiderace.routing")
    assert (record.reason, record.path) == ("no_route", "/nowhere/")


async def test_a_refused_origin_is_logged_with_it(kept):
    guarded = OriginValidator(Talkative.as_asgi(), ["example.com"])
    headers = [(b"origin", b"https://evil.example")]
    await WebsocketCommunicator(guarded, "/ws/", headers).connect()

    [record] = kept.of("tiderace.security")
    assert (record.reason, record.origin) == ("origin_refused", "https://evil.example")


async def test_a_full_channel_is_logged_with_its_name_and_group(kept):
    layer = InMemoryChannelLayer(capacity=1)
    channel = await layer.new_channel()
    await layer.group_add("tea", channel)

    for _ in range(2):
        await layer.group_send("tea", {"type": "poured"})

    [record] = kept.of("tiderace.layers")
    assert (record.reason, record.group) == ("channel_full", "tea")
    assert (record.channel_name, record.dropped) == (channel, 1)


def test_outside_a_connection_the_fields_are_empty(kept):
    application_log.info("the shop opens")

    [record] = kept.of("shop.orders")
    assert record.connection_id is record.path is record.user_id is None
    assert record.reason == ""


async def test_records_of_two_connections_have_their_own_fields():
    communicator = socket(Talkative)
    await communicator.connect()

    assert serving.get() is None

    await communicator.disconnect()


def test_a_path_in_the_fields_of_a_record_forges_no_line():
    record = logging.makeLogRecord({})
    scope = {"path": "/a\nERROR forged\x1b[2J", "client": ["a\nb", 1]}
    token = serving.set(scope)
    try:
        ConnectionFields().filter(record)
    finally:
        serving.reset(token)

    assert record.path == "/a%0AERROR%20forged%1B%5B2J"
    assert record.client == "a%0Ab:1"


def test_a_field_that_a_record_already_has_is_kept():
    record = logging.makeLogRecord({"path": "/mine/"})

    assert ConnectionFields().filter(record)

    assert record.path == "/mine/"


def test_a_connection_keeps_its_id():
    scope = {}

    assert connection_id(scope) == connection_id(scope)
    assert connection_id(scope) != connection_id({})


def test_a_lazy_user_is_not_loaded_for_a_log_line():
    def load():
        raise AssertionError("a query for a log line")

    user = SimpleLazyObject(load)

    assert known_user_id({"user": user}) is None


def test_a_lazy_user_that_was_loaded_is_logged():
    user = SimpleLazyObject(User)
    assert user.pk == 42

    assert known_user_id({"user": user}) == 42


def test_a_user_without_a_usable_key_is_not_logged():
    class Broken:
        @property
        def pk(self):
            raise RuntimeError

    assert known_user_id({"user": Broken()}) is None
    assert known_user_id({}) is None


def test_the_query_string_is_not_logged():
    """A query string may carry a token."""
    scope = {"path": "/ws/", "query_string": b"token=secret", "client": ["a", 1]}

    assert "secret" not in str(log_fields(scope, "x"))


async def test_two_tasks_of_two_connections_do_not_mix(kept):
    sockets = [socket(Talkative, f"/{number}/") for number in range(5)]
    for each in sockets:
        await each.connect()
    await asyncio.gather(*(each.send_to("hello") for each in sockets))
    for each in sockets:
        await each.disconnect()

    paths = sorted(record.path for record in kept.of("shop.orders"))
    assert paths == [f"/{number}/" for number in range(5)]
