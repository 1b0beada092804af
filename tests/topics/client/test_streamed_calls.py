"""Calls whose results are streamed to the caller, who may stop them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from django.core.exceptions import ImproperlyConfigured

from support.waiting import settle, until, within
from tiderace.protocol.codec import JSON
from tiderace.testing import AsyncTopicsClient, Refusal, TopicsClient
from tiderace.topics import AllowAny, Refuse, Topic, TopicsEndpoint, rpc
from tiderace.topics.client.streamed_calls import StreamedCalls
from tiderace.topics.declaration.topic import declared
from tiderace.topics.fanout.outbox import ClientOutbox
from tiderace.topics.hub import current

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def closed():
    """The generators that were closed."""
    return []


class Cleaning:
    """The cleaning of a closed generator, which takes until a test lets it end."""

    def __init__(self):
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()


@pytest.fixture
def cleaning():
    return Cleaning()


@pytest.fixture
def endpoint(settings, closed, cleaning):
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }

    class Room(Topic):
        pattern = "streams:<slug:name>"
        permission_classes = [AllowAny]

        @rpc
        async def count(self, to: int) -> AsyncIterator[int]:
            for number in range(to):
                yield number

        @rpc
        async def tick(self) -> AsyncIterator[str]:
            try:
                yield "tick"
                await asyncio.Event().wait()
            finally:
                closed.append(self.topic)

        @rpc
        async def refuse(self) -> AsyncIterator[str]:
            yield "first"
            raise Refuse("not today", code=499)

        @rpc
        async def fail(self) -> AsyncIterator[str]:
            yield "first"
            raise RuntimeError("a bug of the application")

        @rpc
        async def clean_up(self) -> AsyncIterator[str]:
            try:
                yield "begun"
                await asyncio.Event().wait()
            finally:
                cleaning.begun.set()
                await cleaning.may_end.wait()
                closed.append(self.topic)

        @rpc
        async def endless(self) -> AsyncIterator[str]:
            while not cleaning.may_end.is_set():
                yield "again"

        @rpc
        async def plain(self) -> str:
            return "plain"

    yield TopicsEndpoint.as_asgi()
    declared.remove(Room)


@pytest.fixture
async def client(endpoint):
    async with AsyncTopicsClient(application=endpoint) as client:
        yield client


async def everything(generator):
    return [item async for item in generator]


async def test_the_caller_gets_what_a_generator_yields_in_order(client):
    room = await client.subscribe("streams:a")

    assert await everything(room.stream("count", to=1000)) == list(range(1000))


async def test_an_item_arrives_while_the_generator_runs(client, closed):
    room = await client.subscribe("streams:a")

    async with aclosing(room.stream("tick")) as ticks:
        assert await within(anext(ticks)) == "tick"
        assert closed == []


async def test_leaving_the_loop_stops_the_generator(client, closed):
    room = await client.subscribe("streams:a")

    async with aclosing(room.stream("tick")) as ticks:
        await anext(ticks)
    await until(lambda: closed)

    assert closed == ["streams:a"]


async def test_the_end_of_the_subscription_stops_the_generator(client, closed):
    room = await client.subscribe("streams:a")
    ticks = room.stream("tick")
    await anext(ticks)

    await room.unsubscribe()
    await until(lambda: closed)

    assert closed == ["streams:a"]


async def test_the_end_of_the_connection_stops_the_generator(client, closed):
    room = await client.subscribe("streams:a")
    ticks = room.stream("tick")
    await anext(ticks)

    await client.disconnect()
    await until(lambda: closed)

    assert closed == ["streams:a"]


async def test_streams_of_one_client_are_kept_apart(client):
    room = await client.subscribe("streams:a")
    other = await client.subscribe("streams:b")

    results = await asyncio.gather(
        everything(room.stream("count", to=100)),
        everything(room.stream("count", to=50)),
        everything(other.stream("count", to=70)),
    )

    assert results == [list(range(100)), list(range(50)), list(range(70))]


@pytest.mark.parametrize(("method", "code"), [("refuse", 499), ("fail", 100)])
async def test_an_error_of_the_generator_ends_the_stream_after_its_items(
    client, method, code
):
    room = await client.subscribe("streams:a")
    stream = room.stream(method)

    assert await anext(stream) == "first"
    with pytest.raises(Refusal) as refusal:
        await anext(stream)

    assert refusal.value.code == code


async def test_a_plain_call_of_a_generator_returns_a_list(client):
    room = await client.subscribe("streams:a")

    assert await room.call("count", to=3) == [0, 1, 2]


@pytest.mark.parametrize(
    ("method", "arguments", "code"),
    [
        ("plain", {}, 104),
        ("missing", {}, 104),
        ("count", {"to": "many"}, 422),
        ("count", {}, 422),
    ],
)
async def test_a_call_that_cannot_be_streamed_is_refused(
    client, method, arguments, code
):
    room = await client.subscribe("streams:a")

    with pytest.raises(Refusal) as refusal:
        await anext(room.stream(method, **arguments))

    assert refusal.value.code == code


async def test_only_a_subscriber_may_stream(client):
    with pytest.raises(Refusal) as refusal:
        await anext(client.topic("streams:a").stream("count", to=3))

    assert refusal.value.code == 103


async def test_a_client_has_at_most_sixteen_streams(client):
    room = await client.subscribe("streams:a")
    ticks = [room.stream("tick") for _ in range(16)]
    for each in ticks:
        await anext(each)

    with pytest.raises(Refusal) as refusal:
        await anext(room.stream("tick"))

    assert refusal.value.code == 106
    for each in ticks:
        await each.aclose()
    assert await everything(room.stream("count", to=1)) == [0]


async def test_a_generator_waits_for_a_client_that_does_not_read():
    reads, made, too_slow = asyncio.Event(), [], []

    async def send(message):
        await reads.wait()

    async def numbers():
        for number in range(3000):
            made.append(number)
            yield "x" * 1000

    limit = 300_000
    outbox = ClientOutbox(
        JSON, send, writer=None, limit=limit, on_slow=lambda: too_slow.append(1)
    )
    outbox.start()
    calls = StreamedCalls()
    calls.start("1", numbers(), channel="streams:a", outbox=outbox, scope={})
    await settle()

    assert 0 < len(made) * 1000 < limit

    reads.set()
    await until(lambda: len(made) == 3000)
    assert not too_slow
    await calls.close()
    await outbox.finish()


def test_sync_tests_read_streams_too(endpoint):
    with TopicsClient(application=endpoint) as client:
        room = client.subscribe("streams:a")

        assert list(room.stream("count", to=3)) == [0, 1, 2]


def test_a_generator_that_is_not_async_is_refused_where_it_is_defined():
    with pytest.raises(ImproperlyConfigured, match="write async def"):

        class Room(Topic):
            @rpc
            def count(self):
                yield 1


async def test_the_finally_of_a_stopped_generator_is_not_interrupted_by_the_disconnect(
    endpoint, closed, cleaning
):
    async with AsyncTopicsClient(application=endpoint) as client:
        topic = await client.subscribe("streams:a")
        async with aclosing(topic.stream("clean_up")) as items:
            assert await anext(items) == "begun"
        await within(cleaning.begun.wait())
        leaving = asyncio.create_task(client.disconnect())
        await settle()
        cleaning.may_end.set()
        await leaving

    assert closed == ["streams:a"]


async def test_the_finally_of_a_generator_is_cancelled_some_time_after_its_client_left(
    client, settings, cleaning, caplog
):
    settings.TIDERACE = {"DISCONNECT_TIMEOUT": 0.01}
    room = await client.subscribe("streams:a")
    stream = room.stream("clean_up")
    await anext(stream)

    await within(client.disconnect())

    assert cleaning.begun.is_set()
    assert "1 hooks or methods go on 0.01 s after their client has left" in caplog.text
    assert not current()


async def test_a_call_of_an_endless_generator_that_never_waits_ends_by_the_time_limit(
    settings, endpoint, cleaning
):
    settings.TIDERACE = {"TOPICS": {"CALL_TIMEOUT": 0.05}}
    async with AsyncTopicsClient(application=endpoint) as client:
        topic = await client.subscribe("streams:a")
        # Else the loop would be blocked for good, and with it the test.
        stop = threading.Timer(5.0, cleaning.may_end.set)
        stop.start()
        try:
            with pytest.raises(Refusal, match="too long"):
                await topic.call("endless")
        finally:
            stop.cancel()
