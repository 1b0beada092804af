"""Positions of topics whose history not every subscriber may read."""

from __future__ import annotations

import pytest

from support.wire_client import WireClient
from tiderace.topics import (
    AllowAny,
    History,
    Topic,
    TopicsEndpoint,
    ahistory,
    apositions,
    apublish,
)
from tiderace.topics.topic import declared


@pytest.fixture
def app(settings):
    """A topic whose history may not be read, and one whose history may."""
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }
    before = list(declared)

    class Inbox(Topic):
        pattern = "inbox:<slug:name>"
        history = History()
        permission_classes = [AllowAny]

        async def can_read_history(self, user):
            return False

    class News(Topic):
        pattern = "news"
        history = History()
        permission_classes = [AllowAny]

    yield TopicsEndpoint.as_asgi()
    for topic in list(declared):
        if topic not in before:
            declared.remove(topic)


async def subscribe(app, channel, **position):
    async with WireClient(app) as client:
        reply = await client.ask("subscribe", channel=channel, **position)
    return reply.get("subscribe", reply.get("error"))


def texts(result):
    return [each["data"] for each in result.get("publications", ())]


@pytest.mark.parametrize("epoch", ["", "raw", "forged", "other"])
async def test_a_position_that_the_server_has_not_given_recovers_nothing(app, epoch):
    place = await apublish("inbox:a", "before")
    given = await subscribe(app, "inbox:a")
    other = await subscribe(app, "inbox:b")
    forged = given["epoch"].replace(".1.", ".0.")
    epochs = {"raw": place.epoch, "forged": forged, "other": other["epoch"]}

    result = await subscribe(
        app, "inbox:a", recover=True, epoch=epochs.get(epoch, ""), offset=0
    )

    assert texts(result) == []
    assert not result.get("recovered")


async def test_a_client_continues_from_the_position_of_its_subscription(app):
    await apublish("inbox:a", "before")
    given = await subscribe(app, "inbox:a")
    await apublish("inbox:a", "missed")

    result = await subscribe(
        app, "inbox:a", recover=True, epoch=given["epoch"], offset=given["offset"]
    )

    assert result["recovered"]
    assert texts(result) == ["missed"]


async def test_a_client_continues_from_an_offset_that_it_has_counted_itself(app):
    given = await subscribe(app, "inbox:a")
    await apublish("inbox:a", "received")
    await apublish("inbox:a", "missed")

    result = await subscribe(
        app, "inbox:a", recover=True, epoch=given["epoch"], offset=1
    )

    assert result["recovered"]
    assert texts(result) == ["missed"]


async def test_an_offset_before_the_given_position_recovers_nothing(app):
    await apublish("inbox:a", "before")
    given = await subscribe(app, "inbox:a")

    result = await subscribe(
        app, "inbox:a", recover=True, epoch=given["epoch"], offset=0
    )

    assert texts(result) == []
    assert not result.get("recovered")


async def test_a_position_for_a_page_is_one_that_the_server_gave(app):
    await apublish("inbox:a", "before")
    place = (await apositions("inbox:a"))["inbox:a"]
    await apublish("inbox:a", "missed")

    result = await subscribe(
        app, "inbox:a", recover=True, epoch=place.epoch, offset=place.offset
    )

    assert texts(result) == ["missed"]
    assert (await ahistory("inbox:a", since=place)).messages == ["missed"]


async def test_a_position_signed_with_the_key_before_is_accepted(app, settings):
    settings.SECRET_KEY = "before"
    given = await subscribe(app, "inbox:a")
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "after", ["before"]

    result = await subscribe(app, "inbox:a", recover=True, epoch=given["epoch"])

    assert result["recovered"]


async def test_positions_of_a_topic_that_all_subscribers_may_read_are_not_signed(app):
    place = await apublish("news", "first")
    given = await subscribe(app, "news")

    result = await subscribe(app, "news", recover=True)

    assert given["epoch"] == place.epoch
    assert texts(result) == ["first"]
