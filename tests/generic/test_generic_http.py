"""The HTTP consumer: one request, answered in its own time and in parts."""

from __future__ import annotations

import threading

import pytest
from asgiref.sync import sync_to_async

from support.clients.asgi_client import Client
from support.waiting import settle, until
from tiderace.generic.http import AsyncHttpConsumer
from tiderace.testing import HttpCommunicator

pytestmark = pytest.mark.usefixtures("layer")


def request(consumer, **scope):
    """A connection for one request."""
    scope = {"type": "http", "method": "GET", "path": "/", **scope}
    return Client(consumer.as_asgi(), **scope)


async def test_a_response_is_sent_whole():
    class Consumer(AsyncHttpConsumer):
        async def handle(self, body):
            await self.send_response(
                201, b"made " + body, headers=[(b"content-type", b"text/plain")]
            )

    communicator = HttpCommunicator(Consumer.as_asgi(), "POST", "/", b"it")
    response = await communicator.get_response()

    assert response == {
        "status": 201,
        "headers": [(b"content-type", b"text/plain")],
        "body": b"made it",
    }


async def test_a_request_in_parts_is_handled_once_and_whole():
    bodies = []

    class Consumer(AsyncHttpConsumer):
        async def handle(self, body):
            bodies.append(body)
            await self.send_response(200, b"")

    client = request(Consumer)
    client.say("http.request", body=b"one ", more_body=True)
    client.say("http.request", more_body=True)
    client.say("http.request", body=b"two")
    await client.end()

    assert bodies == [b"one two"]


async def test_a_body_above_the_limit_is_answered_413(settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 10
    calls = []

    class Consumer(AsyncHttpConsumer):
        async def handle(self, body):
            calls.append("handle")

        async def disconnect(self):
            calls.append("disconnect")

    communicator = HttpCommunicator(Consumer.as_asgi(), "POST", "/", b"x" * 11)
    response = await communicator.get_response()
    await communicator.wait()

    assert response["status"] == 413
    assert calls == ["disconnect"]


@pytest.mark.parametrize("limit", [11, None])
async def test_a_body_up_to_the_limit_is_handled(settings, limit):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = limit

    class Consumer(AsyncHttpConsumer):
        async def handle(self, body):
            await self.send_response(200, body)

    communicator = HttpCommunicator(Consumer.as_asgi(), "POST", "/", b"x" * 11)
    response = await communicator.get_response()

    assert response["body"] == b"x" * 11


async def test_a_request_without_a_body_has_an_empty_one():
    bodies = []

    class Consumer(AsyncHttpConsumer):
        async def handle(self, body):
            bodies.append(body)

    client = request(Consumer)
    client.say("http.request")
    await client.end()

    assert bodies == [b""]


async def test_a_response_may_be_sent_in_parts():
    class Consumer(AsyncHttpConsumer):
        async def handle(self, body):
            await self.send_headers(headers={b"content-type": b"text/event-stream"})
            await self.send_body(b"one", more_body=True)
            await self.send_body(b"two")

    client = request(Consumer)
    client.say("http.request")
    await client.end()

    assert client.sent == [
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/event-stream")],
        },
        {"type": "http.response.body", "body": b"one", "more_body": True},
        {"type": "http.response.body", "body": b"two", "more_body": False},
    ]


async def test_a_response_needs_no_headers():
    class Consumer(AsyncHttpConsumer):
        async def handle(self, body):
            await self.send_headers()

    client = request(Consumer)
    client.say("http.request")
    await client.end()

    assert client.sent == [
        {"type": "http.response.start", "status": 200, "headers": []}
    ]


async def test_a_body_that_is_not_bytes_fails_an_assertion():
    class Consumer(AsyncHttpConsumer):
        async def handle(self, body):
            await self.send_body("text")

    client = request(Consumer)
    client.say("http.request")
    error = await client.error()

    assert isinstance(error, AssertionError)
    assert str(error) == "Body is not bytes"


async def test_handle_must_be_overridden():
    client = request(AsyncHttpConsumer)
    client.say("http.request")
    error = await client.error()

    assert isinstance(error, NotImplementedError)
    assert str(error) == (
        "Subclasses of AsyncHttpConsumer must provide a handle() method."
    )


class Noting(AsyncHttpConsumer):
    """Notes how often it was told that the request is over."""

    def __init__(self):
        super().__init__()
        self.disconnects = 0

    async def handle(self, body):
        await self.send_response(200, b"done")

    async def disconnect(self):
        self.disconnects += 1


class Failing(Noting):
    async def handle(self, body):
        raise LookupError("nothing there")


def serve(consumer):
    """A request to one consumer object, to look at it afterwards."""
    return Client(consumer, type="http", method="GET", path="/")


async def test_disconnect_is_called_once_after_the_response():
    consumer = Noting()
    client = serve(consumer)
    client.say("http.request")
    client.say("http.disconnect")
    await client.end()

    assert consumer.disconnects == 1


async def test_disconnect_is_called_when_the_client_leaves_before_its_request_is_whole():
    consumer = Noting()
    client = serve(consumer)
    client.say("http.request", body=b"half", more_body=True)
    client.say("http.disconnect")
    await client.end()

    assert consumer.disconnects == 1
    assert client.sent == []


async def test_an_error_of_handle_reaches_the_server_after_disconnect():
    consumer = Failing()
    client = serve(consumer)
    client.say("http.request")

    assert isinstance(await client.error(), LookupError)
    assert consumer.disconnects == 1
    assert client.sent == []


async def test_disconnect_is_called_once_after_an_error_that_on_error_passes():
    class Answering(Failing):
        async def on_error(self, error):
            await self.send_response(500, b"sorry")

    consumer = Answering()
    client = serve(consumer)
    client.say("http.request")
    await client.until("http.response.body")
    client.say("http.disconnect")
    await client.end()

    assert client.sent[0]["status"] == 500
    assert consumer.disconnects == 1


async def test_a_cancelled_request_disconnects_once(layer):
    class Waiting(Noting):
        async def handle(self, body):
            await self.channel_layer.group_add("room", self.channel_name)
            await self.channel_receive()

    consumer = Waiting()
    client = serve(consumer)
    client.say("http.request")
    await until(lambda: layer.groups)
    await settle()
    await client.cancel()

    assert consumer.disconnects == 1
    assert layer.groups == {}
    assert layer.channels == {}


async def test_a_handle_may_wait_for_a_message_of_the_layer(layer):
    """Long polling: no other event is handled while it waits."""

    class Polling(AsyncHttpConsumer):
        async def handle(self, body):
            await self.channel_layer.group_add("room", self.channel_name)
            message = await self.channel_receive()
            await self.send_response(200, message["text"].encode())

    client = request(Polling)
    client.say("http.request")
    await until(lambda: layer.groups)
    await layer.group_send("room", {"type": "news", "text": "tide is in"})
    await client.end()

    assert client.sent[-1]["body"] == b"tide is in"
    assert layer.groups == {}


async def test_a_plain_handle_runs_in_a_thread():
    seen = []

    class Plain(AsyncHttpConsumer):
        def handle(self, body):
            seen.append(threading.get_ident())
            self.send_response(200, b"from a thread")

        def disconnect(self):
            seen.append(threading.get_ident())

    client = request(Plain)
    client.say("http.request")
    await client.end()

    assert client.sent[-1]["body"] == b"from a thread"
    assert threading.get_ident() not in seen
    assert len(seen) == 2


async def test_a_decorated_handle_may_return_a_coroutine():
    class Plain(AsyncHttpConsumer):
        @sync_to_async
        def handle(self, body):
            self.send_response(200, b"decorated")

    client = request(Plain)
    client.say("http.request")
    await client.end()

    assert client.sent[-1]["body"] == b"decorated"


async def test_consumers_do_not_share_a_body():
    first, second = AsyncHttpConsumer(), AsyncHttpConsumer()
    first.body.append(b"mine")

    assert second.body == []


@pytest.mark.parametrize("kind", ["handle", "body", "send.headers", "http.request"])
async def test_no_message_of_the_layer_calls_a_method_of_the_base_class(layer, kind):
    handled = []

    class Streaming(AsyncHttpConsumer):
        async def http_request(self, event):
            await self.channel_layer.group_add("room", self.channel_name)

        async def handle(self, body):
            handled.append(body)

        async def done(self, event):
            await self.send_response(200, b"done")

    client = request(Streaming)
    client.say("http.request")
    await until(lambda: layer.groups)
    await layer.group_send("room", {"type": kind})
    await layer.group_send("room", {"type": "done"})
    await client.until("http.response.body")
    client.say("http.disconnect")
    await client.end()

    assert handled == []
    assert len(client.sent) == 2
