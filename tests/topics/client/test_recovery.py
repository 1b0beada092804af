"""A client that returns with a position gets what it has missed, once and in order."""

from __future__ import annotations

import json

import pytest

from support.clients.wire_client import WireClient
from tiderace.layers import get_channel_layer
from tiderace.topics import (
    AllowAny,
    History,
    Presence,
    Topic,
    TopicsEndpoint,
    apublish,
)
from tiderace.topics.hub import current

pytestmark = pytest.mark.usefixtures("fresh_layer")


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
