"""Topics over a WebSocket, as their clients and their applications meet them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import msgspec
import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ImproperlyConfigured
from django.urls import register_converter
from django.urls.converters import (
    REGISTERED_CONVERTERS,
    StringConverter,
    get_converters,
)
from django.utils.functional import lazystr

from support.clients.wire_client import WireClient
from support.waiting import settle, within
from tiderace.layers import channel_layers, get_channel_layer
from tiderace.presence.store import PresenceConfig
from tiderace.testing import WebsocketCommunicator
from tiderace.topics import (
    AllowAny,
    History,
    IsAuthenticated,
    Presence,
    Refuse,
    Topic,
    TopicsEndpoint,
    UnknownTopic,
    adisconnect,
    ahistory,
    apresence,
    apresence_stats,
    apublish,
    arefresh,
    asend_to,
    asubscribe,
    aunsubscribe,
    publish,
    rpc,
    topic_group,
)
from tiderace.topics.client.heartbeat import Heartbeat
from tiderace.topics.declaration.topic import declared
from tiderace.topics.hub import close as close_process
from tiderace.topics.hub import current
from tiderace.topics.names import Pattern, publication_key


@pytest.fixture(autouse=True)
def fresh_layer(settings):
    """A layer of this test's own."""
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }


@pytest.fixture
def app(own_topics):
    """Topics of every kind that the tests below need."""

    class Room(Topic):
        pattern = "room:<slug:name>"
        history = History(size=5, ttl=60)
        permission_classes = [AllowAny]

        async def can_publish(self, user):
            return True

        @rpc
        async def add(self, user, a: int, b: int = 1):
            return {"sum": a + b, "room": self.kwargs["name"]}

        @rpc
        def fail(self):
            raise Refuse("not today", code=499)

        @rpc
        def break_(self):
            raise RuntimeError("a bug of the application")

        def secret(self):
            raise AssertionError("nobody may call this")

    class Feed(Topic):
        pattern = "feed:<int:pk>"
        permission_classes = [AllowAny]

    class Members(Topic):
        pattern = "members"
        permission_classes = [IsAuthenticated]
        history = History()

    class Closed(Topic):
        pattern = "closed"

    return TopicsEndpoint.as_asgi()


def user(pk=1):
    return SimpleNamespace(
        pk=pk, is_authenticated=True, is_active=True, is_anonymous=False
    )


# Connect


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


# Subscribe


async def test_a_subscriber_gets_publications(app):
    async with WireClient(app) as client:
        await client.subscribe("room:tea")
        await apublish("room:tea", {"text": "hi"})

        push = await client.push()
        assert abs(push["pub"].pop("time") / 1000 - time.time()) < 60
        assert push == {
            "channel": "room:tea",
            "pub": {"data": {"text": "hi"}, "offset": 1},
        }


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("subscribe", {"type": 1}),
        ("publish", {"type": 1, "data": 1}),
        ("sub_refresh", {"type": 1, "token": "x"}),
    ],
)
async def test_a_kind_of_request_that_is_not_served_is_refused(app, method, fields):
    async with WireClient(app) as client:
        if method != "subscribe":
            await client.subscribe("room:tea")

        assert await client.refused(method, channel="room:tea", **fields) == 108


async def test_the_data_of_a_subscribe_command_reaches_on_subscribe(own_topics):
    class Asking(Topic):
        pattern = "asking"
        permission_classes = [AllowAny]

        async def on_subscribe(self, user, data):
            return {"asked": data}

    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        result = await client.subscribe("asking", data={"page": 2})

        assert result["data"] == {"asked": {"page": 2}}


async def test_a_client_without_a_subscription_gets_no_publications(app):
    async with WireClient(app) as client:
        await client.subscribe("room:tea")
        await apublish("room:coffee", {"text": "hi"})

        assert await client.quiet()


async def test_earlier_publications_are_sent_only_on_request(app):
    await apublish("room:tea", 1)
    async with WireClient(app) as client:
        result = await client.subscribe("room:tea")

        assert result["offset"] == 1
        assert "publications" not in result
        assert await client.quiet()


async def test_a_topic_without_history_has_no_positions(app):
    async with WireClient(app) as client:
        assert await client.subscribe("feed:1") == {}
        await apublish("feed:1", "news")

        assert (await client.push())["pub"].keys() == {"data", "time"}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("nowhere", 102),
        ("feed:x", 102),
        ("room:with space", 102),
        ("closed", 103),
        ("members", 103),
        ("", 107),
        ("room:" + "x" * 251, 107),
    ],
)
async def test_a_refused_subscription_has_an_error_code(app, name, code):
    async with WireClient(app) as client:
        assert await client.refused("subscribe", channel=name) == code


async def test_a_user_may_subscribe_where_the_permission_allows_it(app):
    async with WireClient(app, user=user()) as client:
        await client.subscribe("members")


async def test_a_second_subscription_to_a_topic_is_refused(app):
    async with WireClient(app) as client:
        await client.subscribe("room:a")
        assert await client.refused("subscribe", channel="room:a") == 105


async def test_a_refused_subscription_may_be_tried_again(app):
    async with WireClient(app) as client:
        assert await client.refused("subscribe", channel="closed") == 103
        assert await client.refused("subscribe", channel="closed") == 103


async def test_a_client_gets_nothing_after_unsubscribe(app):
    async with WireClient(app) as client:
        await client.subscribe("room:a")
        assert await client.done("unsubscribe", channel="room:a") == {}
        await apublish("room:a", 1)

        assert await client.quiet()


async def test_unsubscribing_without_a_subscription_is_no_error(app):
    async with WireClient(app) as client:
        assert await client.done("unsubscribe", channel="room:a") == {}


async def test_commands_of_one_message_are_answered_in_order(app):
    async with WireClient(app) as client:
        await client.say(
            {"id": 11, "subscribe": {"channel": "room:a"}},
            {"id": 12, "publish": {"channel": "room:a", "data": 1}},
            {"id": 13, "unsubscribe": {"channel": "room:a"}},
        )
        while len(client._replies) < 3:
            await client._read()

        assert [reply["id"] for reply in client._replies] == [11, 12, 13]


# Recovery


async def test_a_returning_client_gets_exactly_what_it_missed(app):
    async with WireClient(app) as client:
        result = await client.subscribe("room:a")
    for number in range(3):
        await apublish("room:a", number)
    async with WireClient(app) as client:
        result = await client.subscribe(
            "room:a", recover=True, offset=0, epoch=result["epoch"]
        )

        assert result["recovered"] is True
        assert result["was_recovering"] is True
        assert [pub["data"] for pub in result["publications"]] == [0, 1, 2]
        assert [pub["offset"] for pub in result["publications"]] == [1, 2, 3]


async def test_a_client_that_missed_nothing_is_recovered_without_publications(app):
    position = await apublish("room:a", 1)
    async with WireClient(app) as client:
        result = await client.subscribe(
            "room:a", recover=True, offset=position.offset, epoch=position.epoch
        )

        assert result["recovered"] is True
        assert "publications" not in result


async def test_a_client_that_missed_more_than_is_kept_is_not_recovered(app):
    position = await apublish("room:a", 0)
    for number in range(6):
        await apublish("room:a", number)
    async with WireClient(app) as client:
        result = await client.subscribe(
            "room:a", recover=True, offset=position.offset, epoch=position.epoch
        )

        assert "recovered" not in result
        assert result["was_recovering"] is True
        assert "publications" not in result
        assert result["offset"] == 7


async def test_a_client_with_the_flag_is_refused_instead_of_unrecovered(app):
    position = await apublish("room:a", 0)
    async with WireClient(app) as client:
        code = await client.refused(
            "subscribe",
            channel="room:a",
            recover=True,
            offset=position.offset,
            epoch="another",
            flag=2,
        )
        assert code == 112
        await client.subscribe("room:a")


async def test_an_epoch_of_another_stream_recovers_nothing(app):
    await apublish("room:a", 0)
    async with WireClient(app) as client:
        result = await client.subscribe("room:a", recover=True, offset=1, epoch="other")

        assert "recovered" not in result


async def test_a_position_beyond_the_end_recovers_nothing(app):
    position = await apublish("room:a", 0)
    async with WireClient(app) as client:
        result = await client.subscribe(
            "room:a", recover=True, offset=9, epoch=position.epoch
        )

        assert "recovered" not in result


async def test_more_than_the_limit_is_not_recovered(app, settings):
    settings.TIDERACE = {"TOPICS": {"RECOVERED": 2}}
    position = await apublish("room:a", 0)
    for number in range(3):
        await apublish("room:a", number)
    async with WireClient(app) as client:
        result = await client.subscribe(
            "room:a", recover=True, offset=position.offset, epoch=position.epoch
        )

        assert "recovered" not in result


async def test_publications_during_a_subscribe_come_once(app):
    layer = get_channel_layer()
    read = layer.stream_read

    async def publishes_meanwhile(*args, **kwargs):
        await apublish("room:a", "before")
        answer = await read(*args, **kwargs)
        await apublish("room:a", "after")
        return answer

    layer.stream_read = publishes_meanwhile
    try:
        async with WireClient(app) as client:
            result = await client.subscribe("room:a", recover=True, offset=0, epoch="")
            assert [pub["data"] for pub in result["publications"]] == ["before"]
            assert await client.publications(1) == ["after"]
            assert await client.quiet()
    finally:
        layer.stream_read = read


async def test_no_publication_comes_before_the_reply_to_subscribe(
    own_topics, monkeypatch
):
    """Entering takes a while, in which much may be published."""

    class Busy(Topic):
        pattern = "busy"
        history = History()
        presence = Presence.PER_CONNECTION
        push_joins = True
        permission_classes = [AllowAny]

    store = get_channel_layer().presence
    add = store.add

    async def add_amid_publications(group, member, **options):
        for n in range(3):
            await apublish("busy", n)
        notices = await add(group, member, **options)
        await apublish("busy", 3)
        return notices

    monkeypatch.setattr(store, "add", add_amid_publications)
    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        await client.say({"id": 9, "subscribe": {"channel": "busy"}})
        text = (await client.socket.receive_output())["text"]
        first = json.loads(text.split("\n")[0])
        client._sort(text)

        assert first["id"] == 9
        assert await client.publications(4) == [0, 1, 2, 3]


async def test_no_publication_comes_before_the_reply_to_connect(own_topics):
    class First(Topic):
        pattern = "first"
        history = History()
        permission_classes = [AllowAny]

        @classmethod
        def topics_for(cls, user):
            return ["first", "second"]

    class Second(Topic):
        pattern = "second"
        permission_classes = [AllowAny]

        async def on_subscribe(self, user):
            await apublish("first", "early")

    async with WireClient(TopicsEndpoint.as_asgi(), connect=None) as client:
        await client.say({"id": 9, "connect": {}})
        text = (await client.socket.receive_output())["text"]
        first = json.loads(text.split("\n")[0])
        client._sort(text)

        assert first["id"] == 9
        assert await client.publications(1) == ["early"]


async def test_a_gap_before_the_reply_ends_the_subscription_after_it(
    own_topics, monkeypatch
):
    class Lost(Topic):
        pattern = "lost"
        history = History()
        presence = Presence.PER_CONNECTION
        permission_classes = [AllowAny]

    store = get_channel_layer().presence
    add = store.add

    async def add_amid_a_loss(group, member, **options):
        [served] = current()
        served.context.subscriptions["lost"].on_gap("")
        return await add(group, member, **options)

    monkeypatch.setattr(store, "add", add_amid_a_loss)
    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        await client.subscribe("lost")

        assert (await client.push("unsubscribe"))["unsubscribe"]["code"] == 2500


# Publish


async def test_a_subscribers_publication_reaches_all_subscribers(app):
    async with WireClient(app, user=user(7)) as one, WireClient(app) as two:
        await one.subscribe("room:a")
        await two.subscribe("room:a")
        assert await one.done("publish", channel="room:a", data={"a": 1.0}) == {}

        push = await two.push()
        assert push["pub"]["data"] == {"a": 1.0}
        assert push["pub"]["info"] == {"user": "7", "client": one.id}
        assert await one.push() == push


async def test_only_subscribers_may_publish(app):
    async with WireClient(app) as client:
        assert await client.refused("publish", channel="room:a", data=1) == 103


@pytest.fixture
def hall(app):
    """A topic whose visitors may speak from the door."""

    class Hall(Topic):
        pattern = "hall:<slug:name>"
        history = History(size=5, ttl=60)
        subscribers_only = False

        async def can_subscribe(self, user):
            return self.kwargs["name"] != "locked"

        async def can_publish(self, user):
            return True

        @rpc
        async def ask(self, user):
            return "yes"

    return app


async def test_a_topic_may_allow_clients_without_a_subscription(hall):
    async with WireClient(hall) as client:
        await client.done("publish", channel="hall:a", data=1)
        page = await client.done("history", channel="hall:a", limit=-1)
        call = {"channel": "hall:a", "method": "ask"}
        answer = await client.done("rpc", method="$call", data=call)

        assert [each["data"] for each in page["publications"]] == [1]
        assert answer["data"] == "yes"
        assert await client.quiet()


@pytest.mark.parametrize("method", ["publish", "history"])
async def test_a_client_that_may_not_subscribe_may_not_publish_either(hall, method):
    async with WireClient(hall) as client:
        code = await client.refused(method, channel="hall:locked", data=1)

        assert code == 103


async def test_a_topic_takes_no_publications_by_default(app):
    async with WireClient(app) as client:
        await client.subscribe("feed:1")
        assert await client.refused("publish", channel="feed:1", data=1) == 103


async def test_a_publish_without_data_is_a_bad_request(app):
    async with WireClient(app) as client:
        await client.subscribe("room:a")
        assert await client.refused("publish", channel="room:a") == 107


async def test_a_key_that_comes_twice_is_published_once(app):
    async with WireClient(app, user=user()) as client:
        await client.subscribe("room:a")
        for _ in range(2):
            await client.done(
                "rpc",
                method="$publish",
                data={"channel": "room:a", "data": "hi", "key": "k1"},
            )

        assert await client.publications(1) == ["hi"]
        assert await client.quiet()


async def test_a_key_that_comes_twice_runs_the_applications_hook_once(own_topics):
    ran = []

    class Stored(Topic):
        pattern = "stored"
        permission_classes = [AllowAny]

        async def on_publish(self, user, message):
            ran.append(message)
            return message

    data = {"channel": "stored", "data": "hi", "key": "k1"}
    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        await client.subscribe("stored")
        for _ in range(2):
            await client.done("rpc", method="$publish", data=data)

    assert ran == ["hi"]


async def test_a_repeated_key_waits_for_the_first_publish(own_topics):
    begun, may_end = asyncio.Event(), asyncio.Event()
    ran = []

    class Slow(Topic):
        pattern = "slow"
        permission_classes = [AllowAny]

        async def on_publish(self, user, message):
            ran.append(message)
            begun.set()
            await may_end.wait()
            return message

    data = {"channel": "slow", "data": "hi", "key": "k1"}
    endpoint = TopicsEndpoint.as_asgi()
    async with (
        WireClient(endpoint, user=user(1)) as one,
        WireClient(endpoint, user=user(1)) as two,
    ):
        for client in (one, two):
            await client.subscribe("slow")
        first = asyncio.create_task(one.done("rpc", method="$publish", data=data))
        await begun.wait()
        second = asyncio.create_task(two.done("rpc", method="$publish", data=data))
        # The second is carried out as far as it goes, which takes it no time.
        for _ in range(50):
            await asyncio.sleep(0)
        may_end.set()
        await asyncio.gather(first, second)

        assert await two.publications(1) == ["hi"]
        assert await two.quiet()
    assert ran == ["hi"]


@pytest.mark.parametrize("message", ["half \ud83d", lazystr("half \ufffd")])
def test_a_refusal_has_a_message_that_every_codec_can_encode(message):
    assert Refuse(message).failure.message == "half \ufffd"


async def test_a_repeated_key_is_published_when_the_first_publish_failed(own_topics):
    errors = [Refuse("not now", code=400)]

    class Picky(Topic):
        pattern = "picky"
        permission_classes = [AllowAny]

        async def on_publish(self, user, message):
            if errors:
                raise errors.pop()
            return message

    data = {"channel": "picky", "data": "hi", "key": "k1"}
    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        await client.subscribe("picky")
        assert await client.refused("rpc", method="$publish", data=data) == 400
        await client.done("rpc", method="$publish", data=data)

        assert await client.publications(1) == ["hi"]


async def test_another_user_may_have_the_same_key(app):
    async with (
        WireClient(app, user=user(1)) as one,
        WireClient(app, user=user(2)) as two,
    ):
        for client in (one, two):
            await client.subscribe("room:a")
        for client in (one, two):
            await client.done(
                "rpc",
                method="$publish",
                data={"channel": "room:a", "data": client.id, "key": "k1"},
            )

        assert await one.publications(2) == [one.id, two.id]


class Message(msgspec.Struct):
    text: str
    size: int = 1


async def test_a_message_of_another_type_is_refused_with_the_reason(own_topics):
    class Typed(Topic):
        pattern = "typed"
        permission_classes = [AllowAny]
        message = Message

        async def on_publish(self, user, message):
            return message

    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        await client.subscribe("typed")
        reply = await client.ask("publish", channel="typed", data={"text": 3})

        assert reply["error"]["code"] == 422
        assert "$.text" in reply["error"]["message"]


async def test_the_result_of_on_publish_is_published(own_topics):
    class Typed(Topic):
        pattern = "typed"
        permission_classes = [AllowAny]
        message = Message

        def on_publish(self, user, message):
            message.text = message.text.upper()
            return message

    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        await client.subscribe("typed")
        await client.done("publish", channel="typed", data={"text": "hi"})

        assert await client.publications(1) == [{"text": "HI", "size": 1}]


async def test_nothing_is_published_when_on_publish_returns_none(own_topics):
    class Silent(Topic):
        pattern = "silent"
        permission_classes = [AllowAny]

        async def on_publish(self, user, message):
            return None

    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        await client.subscribe("silent")
        await client.done("publish", channel="silent", data=1)

        assert await client.quiet()


async def test_a_hook_that_fails_is_an_error_and_no_traceback(own_topics, caplog):
    class Broken(Topic):
        pattern = "broken"
        permission_classes = [AllowAny]

        async def on_publish(self, user, message):
            raise RuntimeError("a bug with a secret")

    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        await client.subscribe("broken")
        reply = await client.ask("publish", channel="broken", data=1)

        assert reply["error"] == {
            "code": 100,
            "message": "internal server error",
            "temporary": True,
        }
    assert "a bug with a secret" in caplog.text


async def test_publishing_too_often_is_a_temporary_error(own_topics):
    class Slow(Topic):
        pattern = "slow"
        permission_classes = [AllowAny]
        publish_rate = "2/h"

        async def can_publish(self, user):
            return True

    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        await client.subscribe("slow")
        for _ in range(2):
            await client.done("publish", channel="slow", data=1)
        reply = await client.ask("publish", channel="slow", data=1)

        assert reply["error"]["code"] == 111
        assert reply["error"]["temporary"] is True


async def test_a_user_has_one_allowance_over_all_connections(own_topics):
    class Shared(Topic):
        pattern = "shared:<int:pk>"
        permission_classes = [AllowAny]
        user_rate = "3/h"

        async def can_publish(self, user):
            return True

    app = TopicsEndpoint.as_asgi()
    async with (
        WireClient(app, user=user(1)) as one,
        WireClient(app, user=user(1)) as two,
        WireClient(app, user=user(2)) as other,
    ):
        for number, client in enumerate((one, two, other)):
            await client.subscribe(f"shared:{number}")
        await one.done("publish", channel="shared:0", data=1)
        await two.done("publish", channel="shared:1", data=1)
        await one.done("publish", channel="shared:0", data=1)
        assert await two.refused("publish", channel="shared:1", data=1) == 111
        await other.done("publish", channel="shared:2", data=1)


async def test_anonymous_visitors_of_one_address_share_an_allowance(own_topics):
    class Shared(Topic):
        pattern = "shared"
        permission_classes = [AllowAny]
        user_rate = "2/h"

        async def can_publish(self, user):
            return True

    app = TopicsEndpoint.as_asgi()
    for code in (None, None, 111):
        async with WireClient(app) as client:
            await client.subscribe("shared")
            reply = await client.ask("publish", channel="shared", data=1)

            assert reply.get("error", {}).get("code") == code


async def test_a_clients_key_cannot_use_up_a_key_of_the_application(app):
    async with WireClient(app, user=user(7)) as client:
        await client.subscribe("room:a")
        for key in ("news", "7:news", "application:news"):
            data = {"channel": "room:a", "data": "client", "key": key}
            await client.done("rpc", method="$publish", data=data)
        for key in ("news", "7:news", "1:7:news"):
            await apublish("room:a", "application", key=key)

    assert (await ahistory("room:a")).messages[-3:] == ["application"] * 3


async def test_a_key_of_any_length_costs_the_same():
    key = publication_key("k" * 60_000, user_id="7")

    assert len(key) == len(publication_key("k")) == 64


# Asking


async def test_history_is_read_with_a_limit_and_backwards(app):
    async with WireClient(app) as client:
        await client.subscribe("room:a")
        for number in range(4):
            await apublish("room:a", number)

        async def numbers(**request):
            result = await client.done("history", channel="room:a", **request)
            assert result["offset"] == 4
            return [pub["data"] for pub in result.get("publications", [])]

        assert await numbers() == []
        assert await numbers(limit=2) == [0, 1]
        assert await numbers(limit=-1) == [0, 1, 2, 3]
        assert await numbers(limit=2, reverse=True) == [3, 2]
        assert await numbers(limit=10, since={"offset": 2, "epoch": ""}) == [2, 3]


async def test_history_of_another_epoch_is_refused(app):
    async with WireClient(app) as client:
        await client.subscribe("room:a")
        since = {"offset": 1, "epoch": "other"}
        code = await client.refused("history", channel="room:a", limit=1, since=since)

        assert code == 112


async def test_history_of_a_topic_without_one_is_not_available(app):
    async with WireClient(app) as client:
        await client.subscribe("feed:1")
        assert await client.refused("history", channel="feed:1") == 108


@pytest.mark.parametrize("method", ["history", "presence", "presence_stats"])
async def test_only_subscribers_may_read(app, method):
    async with WireClient(app) as client:
        assert await client.refused(method, channel="room:a") == 103
        assert await client.refused(method, channel="nowhere") == 102


@pytest.mark.parametrize("method", ["presence", "presence_stats"])
async def test_presence_of_a_topic_without_it_is_not_available(app, method):
    async with WireClient(app) as client:
        await client.subscribe("room:a")
        assert await client.refused(method, channel="room:a") == 108


# Calls


async def test_a_method_of_a_topic_is_called_with_arguments_by_name(app):
    async with WireClient(app) as client:
        await client.subscribe("room:a")
        call = {"channel": "room:a", "method": "add", "data": {"a": 2}}

        assert await client.done("rpc", method="$call", data=call) == {
            "data": {"sum": 3, "room": "a"}
        }


@pytest.mark.parametrize(
    ("method", "data", "code"),
    [
        ("add", {"a": "two"}, 422),
        ("add", {}, 422),
        ("add", {"a": 1, "c": 3}, 422),
        ("add", {"a": 1, "user": 3}, 422),
        ("add", [1, 2], 422),
        ("secret", {}, 104),
        ("topic", {}, 104),
        ("__init__", {}, 104),
        ("nothing", {}, 104),
        ("fail", {}, 499),
        ("break_", {}, 100),
    ],
)
async def test_a_wrong_call_is_an_error_with_a_code(app, method, data, code):
    async with WireClient(app) as client:
        await client.subscribe("room:a")
        call = {"channel": "room:a", "method": method, "data": data}

        assert await client.refused("rpc", method="$call", data=call) == code


async def test_only_subscribers_may_call(app):
    async with WireClient(app) as client:
        call = {"channel": "room:a", "method": "add", "data": {"a": 1}}

        assert await client.refused("rpc", method="$call", data=call) == 103


async def test_a_connection_has_methods_of_its_own():
    class Endpoint(TopicsEndpoint):
        @rpc
        def whoami(self, user):
            return str(user.pk)

        async def on_connect(self, user, data):
            return {"you sent": data}

    async with WireClient(
        Endpoint.as_asgi(), user=user(9), connect={"data": [1]}
    ) as client:
        assert client.connected["connect"]["data"] == {"you sent": [1]}
        assert await client.done("rpc", method="whoami") == {"data": "9"}
        assert await client.refused("rpc", method="on_connect") == 104
        assert await client.refused("rpc", method="other") == 104


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
        assert (served.topics, served.groups, served.user.is_anonymous) == (
            (),
            set(),
            True,
        )
        assert served.context.scope["headers"] == []
        await asend_to(1, "for users")
        await apublish("kept", "for subscribers")
        assert list((await client.done("connect"))["subs"]) == ["kept", "broken"]
        assert await client.quiet()


async def test_others_see_the_user_info_of_a_client(people):
    class Endpoint(TopicsEndpoint):
        def user_info(self, user, scope):
            return {"name": f"no. {user.pk}"}

    app = Endpoint.as_asgi()
    async with WireClient(app, user=user(3)) as client:
        await client.subscribe("people", join_leave=True)
        result = await client.done("presence", channel="people")
        async with WireClient(app, user=user(4)) as other:
            await other.subscribe("people")
            while (push := await client.push("join"))["join"]["info"]["user"] != "4":
                pass

    assert result["presence"][client.id]["conn_info"] == {"name": "no. 3"}
    assert push["join"]["info"]["conn_info"] == {"name": "no. 4"}


# Presence


@pytest.fixture
def people(own_topics):
    class People(Topic):
        pattern = "people"
        permission_classes = [AllowAny]
        presence = Presence.PER_CONNECTION

    return TopicsEndpoint.as_asgi()


async def test_presence_lists_the_clients_of_a_topic(people):
    async with WireClient(people, user=user(3)) as client:
        await client.subscribe("people")

        result = await client.done("presence", channel="people")
        assert result == {"presence": {client.id: {"user": "3", "client": client.id}}}
        assert await client.done("presence_stats", channel="people") == {
            "num_clients": 1,
            "num_users": 1,
        }
        [info] = await apresence("people")
        assert (info.client, info.user_id) == (client.id, "3")
        assert await apresence_stats("people") == (1, 1)


async def test_a_client_that_asked_for_joins_gets_joins_and_leaves(people):
    async with WireClient(people) as one:
        await one.subscribe("people", join_leave=True)
        async with WireClient(people, user=user(3)) as two:
            await two.subscribe("people")
            while (push := await one.push("join"))["join"]["info"]["client"] != two.id:
                pass
            assert push["join"]["info"]["user"] == "3"
            assert await two.quiet()
        push = await one.push("leave")
        assert push["leave"]["info"] == {"user": "3", "client": two.id}


async def test_a_client_that_left_is_no_longer_present(people):
    async with WireClient(people) as one:
        await one.subscribe("people", join_leave=True)
        async with WireClient(people) as two:
            await two.subscribe("people")
            await two.done("unsubscribe", channel="people")
            await one.push("leave")
            result = await one.done("presence", channel="people")

            assert list(result["presence"]) == [one.id]


async def test_a_client_without_permission_for_presence_gets_no_joins(own_topics):
    class Secret(Topic):
        pattern = "secret"
        permission_classes = [AllowAny]
        presence = Presence.PER_CONNECTION

        async def can_see_presence(self, user):
            return user.is_authenticated

    app = TopicsEndpoint.as_asgi()
    async with WireClient(app) as curious, WireClient(app, user=user(3)) as one:
        await curious.subscribe("secret", join_leave=True)
        await one.subscribe("secret", join_leave=True)

        async with WireClient(app, user=user(4)) as two:
            await two.subscribe("secret")
            while (await one.push("join"))["join"]["info"]["user"] != "4":
                pass
        await one.push("leave")

        assert await curious.quiet()


async def test_a_client_gets_no_joins_after_unsubscribe(people):
    async with WireClient(people) as client, WireClient(people) as other:
        await client.subscribe("people", join_leave=True)
        await client.push("join")
        await client.done("unsubscribe", channel="people")
        await settle()
        await client.quiet()
        client._pushes.clear()
        await other.subscribe("people", join_leave=True)
        await other.push("join")

        assert await client.quiet()


@pytest.mark.parametrize("what", ["history", "presence"])
async def test_can_read_history_and_can_see_presence_are_called(own_topics, what):
    class Blind(Topic):
        pattern = "blind"
        permission_classes = [AllowAny]
        history = History()
        presence = Presence.PER_CONNECTION

        def can_read_history(self, user):
            return False

        async def can_see_presence(self, user):
            return False

    async with WireClient(TopicsEndpoint.as_asgi()) as client:
        await client.subscribe("blind")

        assert await client.refused(what, channel="blind") == 103


async def test_a_topic_may_push_joins_to_all_subscribers(own_topics):
    class Open(Topic):
        pattern = "open"
        permission_classes = [AllowAny]
        presence = Presence.PER_CONNECTION
        push_joins = True

        async def can_see_presence(self, user):
            return False

    app = TopicsEndpoint.as_asgi()
    async with WireClient(app) as one, WireClient(app) as two:
        await one.subscribe("open")
        await two.subscribe("open")

        while (await one.push("join"))["join"]["info"]["client"] != two.id:
            pass


async def much_changes(topic):
    """Announce that presence has changed, without single joins and leaves."""
    await current().trackers.get("default")._announcer._announce(topic, "changed", None)


async def test_a_client_that_asked_for_joins_gets_the_change_push(people):
    async with WireClient(people) as one, WireClient(people) as two:
        await one.subscribe("people", join_leave=True)
        await two.subscribe("people")

        await much_changes("people")

        assert await one.push("changed") == {"channel": "people", "changed": {}}
        assert await two.quiet()


async def test_presence_uses_the_settings(people, settings):
    settings.TIDERACE = {
        "PRESENCE_TTL": 30,
        "PRESENCE_REFRESH": 5,
        "PRESENCE_LEASE": 7,
        "PRESENCE_PUSHES": 11,
    }
    channel_layers.backends.clear()
    await close_process()

    tracker = current().trackers.get("default")

    assert tracker._store.config == PresenceConfig(ttl=30, lease=7, pushes=11)
    assert tracker._schedule._refresh == 5


async def test_joins_beyond_the_limit_become_one_change_push(people, settings):
    settings.TIDERACE = {"PRESENCE_PUSHES": 1}
    channel_layers.backends.clear()
    await close_process()
    async with WireClient(people) as one:
        await one.subscribe("people", join_leave=True)
        for _ in range(3):
            async with WireClient(people) as other:
                await other.subscribe("people")

        await one.push("changed")


# From the server's side


async def test_only_the_given_user_is_disconnected(app):
    async with (
        WireClient(app, user=user(1)) as one,
        WireClient(app, user=user(2)) as two,
    ):
        await adisconnect(user(1), reason="bye")

        assert await one.closed() == (3503, "bye")
        assert await two.quiet()


async def test_a_refresh_makes_the_client_reconnect(app):
    async with WireClient(app, user=user(1)) as client:
        await arefresh(1)

        assert (await client.closed())[0] == 3014


async def test_a_user_gets_a_message_on_all_connections(app):
    async with (
        WireClient(app, user=user(1)) as one,
        WireClient(app, user=user(1)) as two,
    ):
        await asend_to(1, {"hello": "you"})

        for client in (one, two):
            assert await client.push() == {"message": {"data": {"hello": "you"}}}


async def test_a_user_is_subscribed_and_unsubscribed_from_the_server(app):
    async with WireClient(app, user=user(1)) as client:
        await asubscribe(1, "closed")
        assert "subscribe" in await client.push()
        await apublish("closed", "for you")
        assert await client.publications(1) == ["for you"]
        await aunsubscribe(1, "closed")
        push = await client.push()
        assert push["unsubscribe"] == {"code": 2000, "reason": "server unsubscribe"}
        await apublish("closed", "too late")
        assert await client.quiet()


async def test_a_client_that_unsubscribes_from_a_beginning_subscription_is_not_present(
    people, monkeypatch
):
    reading, may_go_on = asyncio.Event(), asyncio.Event()
    layer = get_channel_layer()
    add = layer.presence.add

    async def slow_add(*args, **kwargs):
        reading.set()
        await may_go_on.wait()
        return await add(*args, **kwargs)

    monkeypatch.setattr(layer.presence, "add", slow_add)
    async with WireClient(people, user=user(1)) as client:
        await asubscribe(1, "people")
        await within(reading.wait())
        await client.done("unsubscribe", channel="people")
        may_go_on.set()
        await settle()

        assert await apresence("people") == []


@pytest.mark.parametrize("late", ["stream_subscribe", "stream_read"])
async def test_a_client_may_subscribe_again_while_a_subscription_begins(
    own_topics, monkeypatch, late
):
    class Late(Topic):
        pattern = "late"
        history = History()
        permission_classes = [AllowAny]
        presence = Presence.PER_CONNECTION

    reached, go_on = asyncio.Event(), asyncio.Event()
    layer = get_channel_layer()
    call = getattr(layer, late)

    async def slow(group, *args, **kwargs):
        if group == topic_group("late") and not reached.is_set():
            reached.set()
            await go_on.wait()
        return await call(group, *args, **kwargs)

    monkeypatch.setattr(layer, late, slow)
    async with WireClient(TopicsEndpoint.as_asgi(), user=user(1)) as client:
        await asubscribe(1, "late")
        await within(reached.wait())
        await client.done("unsubscribe", channel="late")
        await client.subscribe("late")
        go_on.set()
        await settle()
        await apublish("late", "to the second one")

        assert await client.publications(1) == ["to the second one"]
        assert await client.quiet()
        assert [each.client for each in await apresence("late")] == [client.id]
        await client.done("unsubscribe", channel="late")
        await settle()
        assert await apresence("late") == []


async def test_a_subscription_ended_while_it_begins_ends_after_its_reply(
    own_topics,
):
    reached, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Topic):
        pattern = "slow"
        permission_classes = [AllowAny]
        history = History()

        async def on_subscribe(self, user):
            return None

    layer = get_channel_layer()
    read = layer.stream_read

    async def slowly(*args, **kwargs):
        reached.set()
        await go_on.wait()
        return await read(*args, **kwargs)

    layer.stream_read = slowly
    try:
        async with WireClient(TopicsEndpoint.as_asgi(), user=user(1)) as client:
            await client.say({"id": 9, "subscribe": {"channel": "slow"}})
            await reached.wait()
            await aunsubscribe(1, "slow")
            go_on.set()
            push = await client.push("unsubscribe")

            assert "subscribe" in client._replies.popleft()
            assert push["unsubscribe"]["code"] == 2000
            await apublish("slow", 1)
            assert await client.quiet()
    finally:
        layer.stream_read = read


@pytest.mark.parametrize("code", [1000, 2999, 5000])
async def test_a_close_code_outside_the_range_is_refused(app, code):
    with pytest.raises(ValueError, match="use 3000 to 4999"):
        await adisconnect(1, code=code)


async def test_an_anonymous_user_cannot_be_disconnected(app):
    with pytest.raises(ValueError, match="has no id"):
        await adisconnect(AnonymousUser())


async def test_history_is_read_from_the_servers_side(app):
    await apublish("room:a", 1)
    page = await ahistory("room:a")

    assert page.messages == [1]
    assert page.position.offset == 1


async def test_publishing_to_an_undeclared_topic_names_the_declared_ones(app):
    with pytest.raises(
        UnknownTopic, match=r"no topic matches 'nowhere'.*room:<slug:name>"
    ):
        await apublish("nowhere", 1)


@pytest.mark.parametrize(
    "pattern",
    [
        "<slug:a>-<slug:b>-<slug:c>",
        "<a>:<b>:<c>",
        "<int:a>1<int:b>1<int:c>",
        "<a><b><c>",
    ],
)
def test_a_pattern_that_splits_a_name_in_too_many_ways_is_refused(pattern):
    with pytest.raises(ImproperlyConfigured, match="separate them by text"):
        Pattern(pattern)


@pytest.fixture
def converter():
    """Registers a converter with an expression, as ``own``, until the test's end."""

    def register(regex):
        kind = type("Own", (StringConverter,), {"regex": regex})
        register_converter(kind, "own")

    yield register
    REGISTERED_CONVERTERS.pop("own", None)
    get_converters.cache_clear()


@pytest.mark.parametrize(
    "regex", ["([a-z]+)+", r"(\w*\w*)*", "(a|a)*", "(?:(?:tide)+)+", r"\w*\w*\w*\w*\w*"]
)
def test_a_converter_that_takes_long_for_a_name_is_refused(regex, converter):
    converter(regex)

    with pytest.raises(ImproperlyConfigured, match="repetitions of repetitions"):
        Pattern("room:<own:name>")


@pytest.mark.parametrize(
    "regex", ["[a-z]+(?:-[a-z0-9]+)*", r"[^/:]+", r"\d{4}-\d\d", "(?:ab|ac)+", ".*"]
)
def test_a_converter_of_the_application_is_taken(regex, converter):
    converter(regex)

    assert Pattern("room:<own:name>").match("room:") in (None, {"name": ""})


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("<slug:a>-<slug:b>", "-" * 254 + "!"),
        ("<slug:a>:<slug:b>:<slug:c>", "-" * 250 + "::!"),
        ("<int:year>-<int:month>-<int:day>-<slug:title>", "1" * 254 + "!"),
    ],
)
def test_a_pattern_with_separators_outside_its_values_is_taken(pattern, name):
    assert Pattern(pattern).match(name) is None


async def test_a_name_that_is_too_long_is_compared_with_no_pattern(app, monkeypatch):
    compared = []
    monkeypatch.setattr(Pattern, "match", lambda self, name: compared.append(name))

    with pytest.raises(UnknownTopic, match="256 characters is longer than 255"):
        await apublish("room:" + "x" * 251, 1)

    assert compared == []


@pytest.mark.parametrize("method", ["publish", "history", "presence"])
async def test_a_command_with_a_name_that_is_too_long_is_refused(app, method):
    async with WireClient(app) as client:
        body = {"channel": "room:" + "x" * 251, "data": 1}

        assert await client.refused(method, **body) == 102


def test_a_name_with_a_nul_belongs_to_no_topic(own_topics):
    class AnyName(Topic):
        pattern = "any:<str:name>"

    with pytest.raises(UnknownTopic, match="NUL"):
        declared.resolve("any:\0")


async def test_publish_is_refused_where_a_loop_runs(app):
    with pytest.raises(RuntimeError, match=r"await apublish\(\)"):
        publish("room:a", 1)


def test_publish_from_sync_code_returns_the_position(app):
    assert publish("room:a", 1).offset == 1


# Consumers beside it


async def test_a_group_message_reaches_subscribers(app):
    async with WireClient(app) as client:
        await client.subscribe("room:a")
        await get_channel_layer().group_send(
            topic_group("room:a"), {"type": "chat.message", "text": "hi"}
        )

        push = await client.push()
        assert push["pub"]["data"] == {"type": "chat.message", "text": "hi"}
        assert push["pub"]["offset"] == 1


async def test_a_consumer_in_the_group_gets_publications(app):
    layer = get_channel_layer()
    name = await layer.new_channel()
    await layer.group_add(topic_group("room:a"), name)
    await apublish("room:a", {"text": "hi"})
    event = await layer.receive(name)

    assert event["type"] == "topic.publication"
    assert event["topic"] == "room:a"
    assert event["data"] == {"text": "hi"}


# Declaring


def test_two_classes_cannot_have_one_pattern(own_topics):
    class One(Topic):
        pattern = "same"

    with pytest.raises(ImproperlyConfigured, match="same pattern 'same'"):

        class Two(Topic):
            pattern = "same"


def test_a_wrong_rate_is_found_when_the_class_is_made(own_topics):
    with pytest.raises(ImproperlyConfigured, match="'often' is no rate"):

        class Wrong(Topic):
            pattern = "wrong"
            publish_rate = "often"


def test_a_history_that_keeps_nothing_is_refused():
    with pytest.raises(ImproperlyConfigured, match="leave history = None"):
        History(size=0)


def test_the_most_specific_pattern_wins(own_topics):
    class Anything(Topic):
        pattern = "<str:name>"

    class Exactly(Topic):
        pattern = "exactly"

    assert isinstance(declared.resolve("exactly"), Exactly)
    assert isinstance(declared.resolve("other"), Anything)


# Time


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


def test_importing_topics_needs_neither_settings_nor_apps():
    """An app's ``__init__`` or ``apps.py`` may import ``publish``."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import tiderace.topics"],
        env={k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert done.returncode == 0, done.stderr
