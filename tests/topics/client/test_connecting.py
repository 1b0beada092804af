"""A client connects; malformed commands, and connects that fail."""

from __future__ import annotations

import json

import pytest

from support.clients.wire_client import WireClient
from support.topics.rooms import user
from support.waiting import settle
from tiderace.topics import (
    AllowAny,
    Presence,
    Refuse,
    Topic,
    TopicsEndpoint,
    ahistory,
    apresence,
    apublish,
    asend_to,
)
from tiderace.topics.hub import current

pytestmark = pytest.mark.usefixtures("fresh_layer")


async def test_the_reply_to_connect_has_the_client_id_and_the_ping_interval(app):
    async with WireClient(app) as client:
        result = client.connected["connect"]

    assert len(result["client"]) == 32
    assert result["ping"] == 25
    assert result["pong"] is True
    assert result["version"].startswith("tiderace ")


async def test_a_websocket_connection_gets_no_session(app):
    async with WireClient(app) as client:
        assert "session" not in client.connected["connect"]


async def test_a_command_before_connect_ends_the_connection(app):
    async with WireClient(app, connect=None) as client:
        await client.say({"id": 1, "subscribe": {"channel": "room:a"}})
        assert await client.closed() == (3501, "bad request")


async def test_a_second_connect_ends_the_connection(app):
    async with WireClient(app) as client:
        await client.say({"id": 2, "connect": {}})
        assert (await client.closed())[0] == 3501


@pytest.mark.parametrize(
    "text",
    [" ", "nonsense", "[]", "{", '{"id": "x"}'],
)
async def test_malformed_text_ends_the_connection_with_bad_request(app, text):
    async with WireClient(app) as client:
        await client.socket.send_to(text)
        assert (await client.closed())[0] == 3501


@pytest.mark.parametrize(
    "request_",
    ["3", '{"channel": 3}', '{"data": ' + "[" * 9000 + "]" * 9000 + "}"],
    ids=["number", "wrong type", "deep"],
)
async def test_a_malformed_request_is_refused_and_the_connection_goes_on(app, request_):
    async with WireClient(app) as client:
        await client.socket.send_to(f'{{"send": {request_}}}')
        await client.socket.send_to(f'{{"id": 70, "subscribe": {request_}}}')
        reply = json.loads(await client.socket.receive_from())

        assert (reply["id"], reply["error"]["code"]) == (70, 107)
        assert await client.done("ping") == {}


async def test_a_lone_surrogate_reaches_subscribers_as_a_replacement_character(app):
    async with WireClient(app) as client, WireClient(app) as other:
        await client.subscribe("room:a")
        await other.subscribe("room:a")
        await client.done("publish", channel="room:a", data={"text": "half \ud83d"})
        await apublish("room:a", {"text": "half \ud83d"})

        assert await other.publications(2) == [{"text": "half \ufffd"}] * 2
        assert (await ahistory("room:a")).messages == [{"text": "half \ufffd"}] * 2


async def test_malformed_bytes_end_the_connection_with_bad_request(app):
    async with WireClient(app) as client:
        await client.socket.send_to(bytes_data=b"\xff\xfe\x00")
        assert (await client.closed())[0] == 3501


async def test_a_command_without_an_id_ends_the_connection(app):
    async with WireClient(app) as client:
        await client.say({"subscribe": {"channel": "room:a"}})
        assert (await client.closed())[0] == 3501


async def test_unknown_fields_of_a_command_are_ignored(app):
    async with WireClient(app) as client:
        await client.say(
            {"id": 7, "subscribe": {"channel": "room:a", "new": 1}, "x": 2}
        )
        await client._read()

        assert "subscribe" in client._replies.pop()


@pytest.mark.parametrize("error", [Refuse("not now"), RuntimeError("a bug")])
async def test_a_client_that_on_connect_refuses_runs_no_command(app, error):
    class Endpoint(TopicsEndpoint):
        async def on_connect(self, user, data):
            raise error

    async with WireClient(Endpoint.as_asgi()) as client:
        temporary = client.connected["error"].get("temporary")

        for method in ("subscribe", "publish", "history", "presence", "rpc", "refresh"):
            error = (await client.ask(method, channel="room:a"))["error"]
            assert (error["code"], error.get("temporary")) == (103, temporary)


async def test_a_connect_that_fails_late_leaves_nothing_of_the_client(own_topics):
    bugs = [RuntimeError("a bug")]

    class Kept(Topic):
        pattern = "kept"
        permission_classes = [AllowAny]
        presence = Presence.PER_CONNECTION

        @classmethod
        def topics_for(cls, user):
            return ["kept", "broken"]

    class Broken(Topic):
        pattern = "broken"
        permission_classes = [AllowAny]

        async def on_subscribe(self, user):
            if bugs:
                raise bugs.pop()

    app = TopicsEndpoint.as_asgi()
    connect = {"headers": {"authorization": "Bearer x"}}
    async with WireClient(app, user=user(1), connect=connect) as client:
        assert client.connected["error"]["code"] == 100
        await settle()
        [served] = current()

        assert await apresence("kept") == []
        assert (served.topics, set(served.groups), served.user.is_anonymous) == (
            (),
            set(),
            True,
        )
        assert served.context.scope["headers"] == []
        await asend_to(1, "for users")
        await apublish("kept", "for subscribers")
        assert list((await client.done("connect"))["subs"]) == ["kept", "broken"]
        assert await client.quiet()
