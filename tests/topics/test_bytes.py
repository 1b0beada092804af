"""Topics whose publications are bytes, over every engine."""

from __future__ import annotations

import base64
import json

import pytest
from django.core.exceptions import ImproperlyConfigured
from msgspec import Raw

from support.clients.stream_client import request
from support.clients.wire_client import WireClient
from tiderace.protocol.messages import PublishRequest
from tiderace.testing import AsyncTopicsClient
from tiderace.topics import (
    AllowAny,
    History,
    Presence,
    Topic,
    TopicsEndpoint,
    ahistory,
    apublish,
)
from tiderace.topics.growing.options import Growing

DATA = bytes(range(256)) + b'\\u00e9 "\r\n\xff'


@pytest.fixture
def app(own_topics):
    class Frames(Topic):
        pattern = "frames:<slug:name>"
        history = History(size=10, ttl=60)
        permission_classes = [AllowAny]
        message = bytes
        subscribers_only = False
        presence = Presence.PER_CONNECTION

        async def can_publish(self, user):
            return True

    class Reversed(Topic):
        pattern = "reversed"
        permission_classes = [AllowAny]
        message = bytes

        async def on_publish(self, user, message):
            assert isinstance(message, bytes)
            return None if message == b"nothing" else message[::-1]

    class Texts(Topic):
        pattern = "texts"
        permission_classes = [AllowAny]

        async def can_publish(self, user):
            return True

    return TopicsEndpoint.as_asgi()


@pytest.fixture
def memory(settings):
    settings.ALLOWED_HOSTS = ["testserver"]
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }


def device(app):
    return AsyncTopicsClient(application=app, protobuf=True)


async def test_bytes_of_a_client_and_of_the_server_arrive_as_they_are(
    engine, app, settings
):
    settings.ALLOWED_HOSTS = ["testserver"]
    async with device(app) as one, device(app) as other:
        mine = await one.subscribe("frames:a")
        theirs = await other.subscribe("frames:a")

        await mine.publish(DATA)
        await apublish("frames:a", memoryview(DATA[::-1]))

        assert [await theirs.receive() for _ in range(2)] == [DATA, DATA[::-1]]
        assert (await theirs.history()).messages == [DATA, DATA[::-1]]
        assert (await ahistory("frames:a")).messages == [DATA, DATA[::-1]]


async def test_missed_bytes_are_recovered(engine, app, settings):
    settings.ALLOWED_HOSTS = ["testserver"]
    async with device(app) as client:
        position = (await client.subscribe("frames:a")).position
    await apublish("frames:a", b"boom")
    await apublish("frames:a", DATA)

    async with device(app) as client:
        topic = await client.subscribe("frames:a", since=position)

        assert topic.recovered
        assert [await topic.receive() for _ in range(2)] == [b"boom", DATA]


async def test_on_publish_takes_and_returns_bytes(memory, app):
    async with device(app) as client:
        topic = await client.subscribe("reversed")
        await topic.publish(b"nothing")
        await topic.publish(b"boom")

        assert await topic.receive() == b"moob"


async def test_json_clients_are_refused_with_a_sentence(memory, app):
    async with WireClient(app) as client:
        for method, fields in (
            ("subscribe", {}),
            ("publish", {"data": 1}),
            ("history", {"limit": 1}),
            ("presence", {}),
        ):
            reply = await client.ask(method, channel="frames:a", **fields)
            assert reply["error"] == {
                "code": 108,
                "message": "not available: its publications are bytes, which JSON does "
                "not carry; use Protobuf",
            }


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (rb'"half \ud83d"', "half \ufffd"),
        (b'{"a":\n 1}', {"a": 1}),
        (b'{\r\n"a": 1\n}', {"a": 1}),
    ],
)
async def test_json_of_protobuf_clients_is_made_well_formed_and_one_line(
    memory, app, sent, received
):
    async with device(app) as sender, WireClient(app) as receiver:
        await sender.subscribe("texts")
        await receiver.subscribe("texts")
        request = PublishRequest("texts", Raw(sent))
        await sender._ask("publish", request, "publish")

        # A line break would be the end of a frame.
        assert await receiver.publications(1) == [received]


async def test_a_page_with_server_sent_events_is_refused(memory, app):
    answer = await request(app, "GET", "/connection/events", query="topic=frames:a")

    assert answer.status == 406


async def test_data_that_is_not_bytes_is_refused_with_its_type(memory, app):
    with pytest.raises(TypeError, match=r"is a dict, and Frames.message is bytes"):
        await apublish("frames:a", {"no": "bytes"})


@pytest.mark.parametrize("option", ["whispers", "growing"])
def test_an_option_that_needs_json_is_refused_where_the_class_is_defined(option):
    value = {"whispers": True, "growing": Growing()}[option]
    attributes = {
        "message": bytes,
        "history": History(),
        option: value,
        "__module__": __name__,
    }
    with pytest.raises(ImproperlyConfigured, match=f"has {option} and message = bytes"):
        type("Frames", (Topic,), attributes)


async def test_the_http_api_takes_and_returns_base64(memory, app, settings):
    settings.TIDERACE = {"TOPICS": {"API_KEYS": ["a-key-of-the-tests-alone"]}}
    text = base64.b64encode(DATA).decode()

    async def call(method, **params):
        return await request(
            app,
            "POST",
            f"/connection/api/{method}",
            body=json.dumps(params).encode(),
            headers=((b"x-api-key", b"a-key-of-the-tests-alone"),),
        )

    await call("publish", channel="frames:a", b64data=text)
    page = (await call("history", channel="frames:a", limit=10)).json["result"]

    assert [each["b64data"] for each in page["publications"]] == [text]
    assert page["offset"] == page["publications"][0]["offset"] == 1
    assert (await ahistory("frames:a")).messages == [DATA]
