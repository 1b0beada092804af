"""A client subscribes and unsubscribes, also while a subscription begins."""

from __future__ import annotations

import asyncio
import time

import pytest

from support.clients.wire_client import WireClient
from support.topics.rooms import user
from support.waiting import settle, within
from tiderace.layers import get_channel_layer
from tiderace.topics import (
    AllowAny,
    History,
    Presence,
    Topic,
    TopicsEndpoint,
    apresence,
    apublish,
    asubscribe,
    aunsubscribe,
    topic_group,
)

pytestmark = pytest.mark.usefixtures("fresh_layer")


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
