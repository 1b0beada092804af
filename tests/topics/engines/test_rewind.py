"""The last publications of a topic, with the subscription."""

from __future__ import annotations

import pytest

from support.clients.wire_client import WireClient
from tiderace.layers import get_channel_layer
from tiderace.topics import AllowAny, History, Topic, apublish, asubscribe, topic_group


@pytest.fixture(autouse=True)
def prices(app):
    class Price(Topic):
        pattern = "price:<slug:name>"
        history = History(size=3, ttl=60)
        rewind = 2
        permission_classes = [AllowAny]


async def publish(*values, topic="price:tea"):
    for value in values:
        await apublish(topic, value)


def data(result):
    return [each["data"] for each in result.get("publications", ())]


async def test_a_new_subscriber_gets_the_last_publications_with_the_reply(app):
    await publish(1, 2, 3)

    async with WireClient(app) as client:
        result = await client.subscribe("price:tea")
        await publish(4)

        assert data(result) == [2, 3]
        assert [each["offset"] for each in result["publications"]] == [2, 3]
        assert "recovered" not in result
        assert await client.publications(1) == [4]


async def test_the_position_of_the_reply_is_before_its_publications(app):
    await publish(1, 2, 3)

    async with WireClient(app) as client:
        result = await client.subscribe("price:tea")

    assert result.get("offset", 0) == 1


async def test_a_topic_without_publications_has_nothing_to_rewind(app):
    async with WireClient(app) as client:
        result = await client.subscribe("price:tea")

        assert data(result) == []
        assert result.get("offset", 0) == 0


async def test_a_deleted_history_is_not_sent(app):
    await publish(1, 2)
    await get_channel_layer().stream_delete(topic_group("price:tea"))

    async with WireClient(app) as client:
        result = await client.subscribe("price:tea")

        assert data(result) == []
        assert result["offset"] == 2


async def test_a_client_that_recovers_gets_what_it_has_missed_and_no_more(app):
    await publish(1, 2)
    async with WireClient(app) as client:
        result = await client.subscribe("price:tea")
        await client.done("unsubscribe", channel="price:tea")
        await publish(3)

        again = await client.subscribe(
            "price:tea", recover=True, epoch=result["epoch"], offset=2
        )

    assert again["recovered"] is True
    assert data(again) == [3]


async def test_a_client_that_cannot_recover_gets_the_last_publications(app):
    await publish(1)
    async with WireClient(app) as client:
        result = await client.subscribe("price:tea")
        await client.done("unsubscribe", channel="price:tea")
        await publish(2, 3, 4, 5)

        again = await client.subscribe(
            "price:tea", recover=True, epoch=result["epoch"], offset=1
        )
        await publish(6)

        assert again["was_recovering"] is True
        assert "recovered" not in again
        assert data(again) == [4, 5]
        assert await client.publications(1) == [6]


async def test_a_client_that_prefers_an_error_gets_no_last_publications(app):
    await publish(1, 2, 3, 4, 5)

    async with WireClient(app) as client:
        refused = await client.refused(
            "subscribe", channel="price:tea", recover=True, offset=1, flag=2
        )

    assert refused == 112


async def test_the_position_zero_recovers_the_whole_history(app):
    await publish(1, 2, 3)

    async with WireClient(app) as client:
        result = await client.subscribe("price:tea", recover=True, offset=0)

    assert result["recovered"] is True
    assert data(result) == [1, 2, 3]


async def test_a_client_that_may_not_read_the_history_gets_none_of_it(app):
    class Secret(Topic):
        pattern = "secret"
        history = History(size=3, ttl=60)
        rewind = 2
        permission_classes = [AllowAny]

        async def can_read_history(self, user):
            return False

    await publish(1, 2, topic="secret")

    async with WireClient(app) as client:
        first = await client.subscribe("secret")
        await client.done("unsubscribe", channel="secret")
        again = await client.subscribe("secret", recover=True, offset=1)

    assert data(first) == data(again) == []
    assert first["offset"] == again["offset"] == 2


async def test_a_client_subscribed_on_connect_gets_the_last_ones_after_the_reply(app):
    class Board(Topic):
        pattern = "board"
        history = History()
        rewind = 1
        permission_classes = [AllowAny]

        @classmethod
        def topics_for(cls, user):
            return ["board"]

    await publish("old", "last", topic="board")

    async with WireClient(app) as client:
        result = client.connected["connect"]["subs"]["board"]
        await publish("next", topic="board")

        assert data(result) == []
        assert result["offset"] == 1
        assert await client.publications(2) == ["last", "next"]


async def test_a_client_that_the_server_subscribes_gets_the_last_ones_too(
    app, django_user_model
):
    user = django_user_model(pk=7, username="ada")
    await publish("old", "last")

    async with WireClient(app, user=user) as client:
        await asubscribe(user, "price:tea")
        await client.push("subscribe")

        assert await client.publications(2) == ["old", "last"]
