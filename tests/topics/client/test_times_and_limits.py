"""Pings, timeouts, rates, sizes and slow clients."""

from __future__ import annotations

import asyncio
import time

import pytest

from support.clients.wire_client import WireClient
from support.topics.rooms import user
from tiderace.testing import WebsocketCommunicator
from tiderace.topics import (
    AllowAny,
    Presence,
    Topic,
    TopicsEndpoint,
    apresence,
    apublish,
    rpc,
)
from tiderace.topics.client.heartbeat import Heartbeat
from tiderace.topics.hub import current

pytestmark = pytest.mark.usefixtures("fresh_layer")


async def test_a_client_that_never_connects_is_closed_as_stale(app, settings):
    settings.TIDERACE = {"TOPICS": {"CONNECT_TIMEOUT": 0.01}}
    async with WireClient(app, connect=None) as client:
        assert await client.closed() == (3502, "stale")


async def test_a_connect_that_came_while_the_loop_was_blocked_is_in_time(app, settings):
    settings.TIDERACE = {"TOPICS": {"CONNECT_TIMEOUT": 0.05}}
    async with WireClient(app, connect=None) as client:
        time.sleep(0.4)  # noqa: ASYNC251
        # The timers that are due run, and then the sockets are read.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

        assert "connect" in await client.ask("connect")


async def test_a_client_is_not_stale_while_on_connect_runs(app, settings):
    settings.TIDERACE = {"TOPICS": {"CONNECT_TIMEOUT": 0.02, "PONG_TIMEOUT": 0.02}}

    class Endpoint(TopicsEndpoint):
        async def on_connect(self, user, data):
            await asyncio.sleep(0.2)

    async with WireClient(Endpoint.as_asgi()) as client:
        assert await client.done("ping") == {}


@pytest.fixture
def slow_topic(own_topics, monkeypatch):
    """A topic with a hook that waits, in whose presence clients are."""
    monkeypatch.setattr("tiderace.topics.client.reader._READ_AHEAD_AFTER", 0)

    class Slow(Topic):
        pattern = "slow"
        permission_classes = [AllowAny]
        presence = Presence.PER_CONNECTION
        begun, release, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def on_publish(self, user, data):
            self.begun.set()
            try:
                await self.release.wait()
            finally:
                self.ended.set()
            return data

    return Slow


PUBLISH_SLOWLY = {"id": 70, "publish": {"channel": "slow", "data": 1}}


async def test_a_client_that_leaves_during_a_command_is_released_at_once(slow_topic):
    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        await client.done("subscribe", channel="slow")
        await client.say(PUBLISH_SLOWLY)
        await slow_topic.begun.wait()
        await client.say({"id": 71, "presence": {"channel": "slow"}})
        await client.socket.send_input({"type": "websocket.disconnect", "code": 1006})

        while await apresence("slow"):  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert not slow_topic.ended.is_set()
        slow_topic.release.set()


async def test_a_command_is_cancelled_some_time_after_its_client_has_left(
    slow_topic, settings, caplog
):
    settings.TIDERACE = {"DISCONNECT_TIMEOUT": 0.01}
    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        await client.done("subscribe", channel="slow")
        await client.say(PUBLISH_SLOWLY)
        await slow_topic.begun.wait()
        await client.socket.send_input({"type": "websocket.disconnect", "code": 1006})

        await slow_topic.ended.wait()
    [record] = [each for each in caplog.records if each.levelname == "WARNING"]
    assert "goes on 0.01 s after the client has left" in record.getMessage()
    assert not current()


async def test_commands_behind_a_slow_one_are_answered_in_order(slow_topic):
    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        await client.done("subscribe", channel="slow")
        await client.say(PUBLISH_SLOWLY)
        await slow_topic.begun.wait()
        for number in range(71, 171):
            await client.say({"id": number, "history": {"channel": "slow"}})
        slow_topic.release.set()

        answered = []
        while len(answered) < 101:
            await client._read()
            answered += [client._replies.popleft()["id"] for _ in [*client._replies]]
    assert answered == [*range(70, 171)]


async def test_a_pong_that_waits_behind_a_command_is_in_time(app, settings):
    settings.TIDERACE = {"TOPICS": {"PING": 0.03, "PONG_TIMEOUT": 0.02}}
    release = asyncio.Event()

    class Endpoint(TopicsEndpoint):
        @rpc
        async def wait(self):
            await release.wait()

    async with WireClient(Endpoint.as_asgi()) as client:
        await client.say({"id": 70, "rpc": {"method": "wait"}})
        while client.pings < 5:
            await client._read()
        await client.say({})
        release.set()
        while not client._replies:
            await client._read()

        assert client._replies.pop() == {"id": 70, "rpc": {"data": None}}


async def test_a_client_that_does_not_answer_a_ping_is_closed(app, settings):
    settings.TIDERACE = {"TOPICS": {"PING": 0.1, "PONG_TIMEOUT": 0.01}}
    async with WireClient(app) as client:
        assert await client.closed() == (3012, "no pong")
        assert client.pings == 1


async def test_pings_come_as_often_as_announced(app, monkeypatch):
    loop = asyncio.get_running_loop()
    call_at, beats = loop.call_at, []

    def take_beats(when, callback, *args, **kwargs):
        if isinstance(getattr(callback, "__self__", None), Heartbeat):
            beats.append((when, callback))
            callback = beats.clear
        return call_at(when, callback, *args, **kwargs)

    async def pass_time(until):
        while beats[0][0] < until:
            beats.pop(0)[1]()
        await client.done("ping")
        return client.pings

    monkeypatch.setattr(loop, "call_at", take_beats)
    started = loop.time()
    async with WireClient(app) as client:
        announced = client.connected["connect"]["ping"]

        assert await pass_time(started + announced) == 0
        assert await pass_time(started + announced * 1.05) == 1
        assert await pass_time(started + announced * 2.05) == 2


async def test_a_client_that_answers_pings_stays(app, settings):
    settings.TIDERACE = {"TOPICS": {"PING": 0.01, "PONG_TIMEOUT": 5.0}}
    async with WireClient(app) as client:
        while client.pings < 3:
            before = client.pings
            while client.pings == before:
                await client._read()
            await client.say({})

        assert (await client.ask("ping")) == {"ping": {}}


async def test_a_frame_that_is_too_long_ends_the_connection(app, settings):
    settings.TIDERACE = {"TOPICS": {"FRAME_SIZE": 100}}
    async with WireClient(app) as client:
        await client.say({"id": 5, "rpc": {"method": "x", "data": "y" * 100}})

        assert await client.closed() == (1009, "message too big")


async def test_topics_beyond_the_limit_are_refused(app, settings):
    settings.TIDERACE = {"TOPICS": {"SUBSCRIPTIONS": 2}}
    async with WireClient(app) as client:
        await client.subscribe("room:a")
        await client.subscribe("room:b")

        assert await client.refused("subscribe", channel="room:c") == 106


async def test_commands_beyond_the_rate_are_refused_then_end_the_connection(
    app, settings
):
    settings.TIDERACE = {"TOPICS": {"COMMANDS": "3/h"}}
    async with WireClient(app) as client:
        for _ in range(2):
            await client.done("ping")
        assert await client.refused("ping") == 111
        for _ in range(100):
            await client.say({"id": 1, "ping": {}})

        assert (await client.closed())[0] == 3013


async def test_connections_beyond_the_rate_are_a_temporary_error(app, settings):
    settings.TIDERACE = {"TOPICS": {"CONNECTS": "1/h"}}
    endpoint = TopicsEndpoint.as_asgi()
    async with WireClient(endpoint), WireClient(endpoint) as second:
        assert second.connected["error"]["code"] == 111


async def test_an_anonymous_client_is_refused_by_the_setting(app, settings):
    settings.TIDERACE = {"TOPICS": {"ANONYMOUS": False}}
    async with WireClient(app) as client:
        assert client.connected["error"]["code"] == 101
    async with WireClient(app, user=user()) as client:
        assert "connect" in client.connected


async def test_a_client_that_does_not_read_is_closed_as_slow(app, settings):
    settings.TIDERACE = {"OUTBOX_LIMIT": 1000}
    subscribed = asyncio.Event()
    written = []

    async def receive():
        return await incoming.get()

    async def send(event):
        written.append(event)
        if '"id":2' in event.get("text", ""):
            subscribed.set()
        elif subscribed.is_set() and event["type"] == "websocket.send":
            await asyncio.Event().wait()

    incoming: asyncio.Queue[dict] = asyncio.Queue()
    for event in (
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": '{"id":1,"connect":{}}'},
        {
            "type": "websocket.receive",
            "text": '{"id":2,"subscribe":{"channel":"feed:1"}}',
        },
    ):
        incoming.put_nowait(event)
    scope = WebsocketCommunicator(app, "/connection/websocket").scope
    serving = asyncio.ensure_future(app(scope, receive, send))
    await subscribed.wait()
    for _ in range(30):
        await apublish("feed:1", "x" * 100)
        await asyncio.sleep(0)
    await serving

    assert written[-1] == {"type": "websocket.close", "code": 3008, "reason": "slow"}
