"""Positions of topics whose history not every subscriber may read, over every engine."""

from __future__ import annotations

import json

import pytest

from support.clients.wire_client import WireClient
from tiderace.history import Position
from tiderace.topics import (
    AllowAny,
    History,
    Topic,
    TopicsEndpoint,
    ahistory,
    apositions,
    apublish,
    topic_group,
)
from tiderace.topics.declaration.topic import declared
from tiderace.topics.positions import client_position
from tiderace.topics.streams import record_of


@pytest.fixture
def inbox(own_topics):
    """A topic whose history may not be read, and one whose history may."""

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

    return TopicsEndpoint.as_asgi()


@pytest.fixture
def app(engine, inbox):
    """The endpoint of these topics, over each engine."""
    return inbox


async def subscribe(app, channel, **position):
    async with WireClient(app) as client:
        reply = await client.ask("subscribe", channel=channel, **position)
    return reply.get("subscribe", reply.get("error"))


def texts(result):
    return [each["data"] for each in result.get("publications", ())]


@pytest.mark.parametrize("epoch", ["empty", "raw", "forged", "other"])
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


async def test_a_position_of_another_topic_recovers_nothing(app):
    # In one layer topics may have epochs of the same name.
    topic, other = declared.resolve("inbox:a"), declared.resolve("inbox:b")
    place = await apublish("inbox:a", "before")
    stolen = client_position(other, Position(place.epoch, 0))
    own = client_position(topic, Position(place.epoch, 0))

    result = await subscribe(app, "inbox:a", recover=True, epoch=stolen.epoch)
    allowed = await subscribe(app, "inbox:a", recover=True, epoch=own.epoch)

    assert texts(result) == []
    assert texts(allowed) == ["before"]


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


# Over several processes


async def publish_in(layer, channel, data):
    """Publish as another process does."""
    record = record_of(channel, json.dumps(data))
    keep = declared.resolve(channel).keep()
    await layer.stream_publish(topic_group(channel), record, keep=keep)


async def test_a_client_continues_with_what_another_process_has_published(
    elsewhere, inbox
):
    await publish_in(elsewhere, "inbox:a", "before")
    given = await subscribe(inbox, "inbox:a")
    await publish_in(elsewhere, "inbox:a", "missed")

    result = await subscribe(
        inbox, "inbox:a", recover=True, epoch=given["epoch"], offset=given["offset"]
    )

    assert result["recovered"]
    assert texts(result) == ["missed"]


async def test_the_epoch_of_the_broker_recovers_nothing(elsewhere, inbox):
    await publish_in(elsewhere, "inbox:a", "before")
    keep = declared.resolve("inbox:a").keep()
    top, _ = await elsewhere.stream_read(topic_group("inbox:a"), keep=keep, limit=0)

    result = await subscribe(inbox, "inbox:a", recover=True, epoch=top.epoch, offset=0)

    assert texts(result) == []
    assert not result.get("recovered")
