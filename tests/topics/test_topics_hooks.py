"""The hooks ``user_joined`` and ``user_left``, over a layer in memory."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from support.clients.wire_client import WireClient
from support.waiting import PATIENCE
from tiderace.topics import AllowAny, Presence, Topic, TopicsEndpoint
from tiderace.topics.declaration.topic import declared
from tiderace.topics.hub import close


@pytest.fixture
async def told(settings):
    """The calls of the hooks of the topic ``lounge``, as a queue."""
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }
    queue = asyncio.Queue()
    loop = asyncio.get_running_loop()

    class Lounge(Topic):
        pattern = "lounge:<slug:name>"
        permission_classes = [AllowAny]
        presence = Presence.PER_USER
        presence_grace = 0.05

        async def user_joined(self, user_id):
            queue.put_nowait(("joined", self.kwargs["name"], user_id))
            if self.kwargs["name"] == "broken":
                raise RuntimeError("a bug of the application")

        def user_left(self, user_id):
            loop.call_soon_threadsafe(
                queue.put_nowait, ("left", self.kwargs["name"], user_id)
            )

    yield queue
    await close()
    declared.remove(Lounge)


async def next_of(queue):
    async with asyncio.timeout(PATIENCE):
        return await queue.get()


def person(pk):
    return SimpleNamespace(pk=pk, is_authenticated=True, is_active=True)


async def test_the_hooks_of_a_topic_are_called_for_joins_and_leaves(told):
    async with WireClient(TopicsEndpoint.as_asgi(), user=person("7")) as client:
        await client.subscribe("lounge:a")
        assert await next_of(told) == ("joined", "a", "7")

    assert await next_of(told) == ("left", "a", "7")


async def test_unsubscribing_calls_the_leave_hook(told):
    async with WireClient(TopicsEndpoint.as_asgi(), user=person("7")) as client:
        await client.subscribe("lounge:a")
        await client.done("unsubscribe", channel="lounge:a")

        assert [await next_of(told) for _ in range(2)] == [
            ("joined", "a", "7"),
            ("left", "a", "7"),
        ]


async def test_a_second_connection_of_a_user_calls_no_hook(told):
    app = TopicsEndpoint.as_asgi()
    async with WireClient(app, user=person("7")) as one:
        await one.subscribe("lounge:a")
        async with WireClient(app, user=person("7")) as two:
            await two.subscribe("lounge:a")
        await one.done("unsubscribe", channel="lounge:a")

        assert [await next_of(told) for _ in range(2)] == [
            ("joined", "a", "7"),
            ("left", "a", "7"),
        ]
    assert told.empty()


async def test_a_failing_hook_does_not_stop_the_subscription(told, caplog):
    async with WireClient(TopicsEndpoint.as_asgi(), user=person("7")) as client:
        await client.subscribe("lounge:broken")
        assert await next_of(told) == ("joined", "broken", "7")

    assert await next_of(told) == ("left", "broken", "7")
    assert "a bug of the application" in caplog.text
