"""Topics that deliver the newest value of each key at a pace."""

from __future__ import annotations

import asyncio

import pytest

from support.clients.wire_client import WireClient
from tiderace.layers import get_channel_layer
from tiderace.topics import (
    AllowAny,
    History,
    Latest,
    Presence,
    Topic,
    ahistory,
    apublish,
    topic_group,
)
from tiderace.topics.declaration.topic import declared
from tiderace.topics.fanout.listening import feed_of


@pytest.fixture(autouse=True)
def topics(app):
    class Fleet(Topic):
        pattern = "fleet"
        history = History(size=50, ttl=60)
        presence = Presence.PER_CONNECTION
        rewind = 4
        deliver = Latest(rate="50/s", key="car")
        permission_classes = [AllowAny]

    class Meter(Topic):
        pattern = "meter"
        deliver = Latest(rate="50/s")
        permission_classes = [AllowAny]


async def drive(*moves):
    for car, at in moves:
        await apublish("fleet", {"car": car, "at": at})


async def until(client, **last):
    """Return what a client gets, up to the given place of each car."""
    seen, places = [], {}
    while places != last:
        data = (await client.push("pub"))["pub"]["data"]
        seen.append(data)
        places[data["car"]] = data["at"]
    return seen


def data(result):
    return [each["data"] for each in result.get("publications", ())]


async def test_every_subscriber_ends_with_the_newest_value_of_each_key(app):
    async with WireClient(app) as one, WireClient(app) as two:
        await one.subscribe("fleet")
        await two.subscribe("fleet")
        await drive(*((car, at) for at in range(200) for car in ("a", "b")))

        seen = [await until(each, a=199, b=199) for each in (one, two)]

    for each in seen:
        places = [move["at"] for move in each if move["car"] == "a"]
        assert places == sorted(set(places))
        assert len(each) < 400


async def test_a_topic_without_history_delivers_the_newest_too(app):
    async with WireClient(app) as client:
        await client.subscribe("meter")
        for value in range(100):
            await apublish("meter", value)

        seen = await client.publications(1)
        while seen[-1] != 99:
            seen += await client.publications(1)

    assert seen == sorted(set(seen))
    assert len(seen) < 100


async def test_the_history_has_every_publication(app):
    async with WireClient(app) as client:
        await client.subscribe("fleet")
        await drive(*(("a", at) for at in range(20)))

    assert [each["at"] for each in (await ahistory("fleet")).messages] == [*range(20)]


async def test_a_recovery_has_the_newest_missed_publication_of_each_key(app):
    async with WireClient(app) as client:
        result = await client.subscribe("fleet")
        await client.done("unsubscribe", channel="fleet")
        await drive(("a", 1), ("b", 1), ("a", 2), ("a", 3))

        again = await client.subscribe("fleet", recover=True, epoch=result["epoch"])
        await drive(("b", 2))

        assert again["recovered"] is True
        assert data(again) == [{"car": "b", "at": 1}, {"car": "a", "at": 3}]
        assert [each["offset"] for each in again["publications"]] == [2, 4]
        assert await until(client, b=2) == [{"car": "b", "at": 2}]


async def test_a_client_recovers_from_the_last_publication_that_it_got(app):
    async with WireClient(app) as client:
        result = await client.subscribe("fleet")
        await drive(*(("a", at) for at in range(10)))
        await until(client, a=9)
        await client.done("unsubscribe", channel="fleet")
        await drive(("a", 10))

        again = await client.subscribe(
            "fleet", recover=True, epoch=result["epoch"], offset=10
        )

    assert again["recovered"] is True
    assert data(again) == [{"car": "a", "at": 10}]


async def test_a_new_subscriber_gets_the_newest_of_each_key_among_the_last(app):
    await drive(("c", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2))

    async with WireClient(app) as client:
        result = await client.subscribe("fleet")

    assert data(result) == [{"car": "a", "at": 2}, {"car": "b", "at": 2}]


async def test_a_client_that_subscribes_under_load_ends_with_the_newest(app):
    async def publish_all():
        for at in range(300):
            await apublish("fleet", {"car": "a", "at": at})
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(publish_all())
        for _ in range(5):
            await asyncio.sleep(0)
            async with WireClient(app) as client:
                result = await client.subscribe("fleet")
                (last,) = data(result)[-1:] or [{"car": "a", "at": -1}]
                seen = [last, *(await until(client, a=299))] if last["at"] < 299 else []

                places = [move["at"] for move in seen]
                assert places == sorted(set(places))


async def test_joins_are_pushed_to_its_subscribers(app):
    async with WireClient(app) as stays, WireClient(app) as comes:
        await stays.subscribe("fleet", join_leave=True)
        await stays.push("join")
        await comes.subscribe("fleet")

        assert (await stays.push("join"))["join"]["info"]["client"] == comes.id


async def test_nothing_follows_the_end_of_a_subscription(app):
    async with WireClient(app) as client:
        await client.subscribe("fleet")
        await drive(("a", 1), ("a", 2))
        await client.done("unsubscribe", channel="fleet")
        while not await client.quiet():
            await client.push("pub")  # from before

        await drive(("a", 3))

        assert await client.quiet()
        assert feed_of(declared.resolve("fleet")) is None


async def test_the_number_of_listeners_counts_all_subscribers(app):
    async with WireClient(app) as one, WireClient(app) as two:
        await one.subscribe("meter")
        await two.subscribe("meter")

        stats = await get_channel_layer().stats()

    (process,) = stats.processes
    assert process.members[topic_group("meter")] == 2
