"""The numbers of members of a topic, as a topic of its own."""

from __future__ import annotations

import pytest

from support.clients.wire_client import WireClient
from tiderace.topics import AllowAny, Latest, Occupancy, Presence, Topic
from tiderace.topics.declaration.topic import declared
from tiderace.topics.fanout.listening import feed_of


@pytest.fixture(autouse=True)
def topics(app):
    class Room(Topic):
        pattern = "room:<slug:name>"
        permission_classes = [AllowAny]
        presence = Presence.PER_CONNECTION

    class RoomOccupancy(Occupancy):
        pattern = "occupancy:<slug:name>"
        permission_classes = [AllowAny]
        deliver = Latest(rate="100/s")

        def counted(self):
            return f"room:{self.kwargs['name']}"


async def until(client, connections):
    """Return when a client has got this number of connections."""
    while True:
        data = (await client.push("pub"))["pub"]["data"]
        assert data.keys() == {"connections", "users"}
        if data["connections"] == connections:
            return data


async def test_a_subscriber_gets_the_numbers_with_its_subscription(app):
    async with WireClient(app) as one, WireClient(app) as two:
        await one.subscribe("room:tea")
        await two.subscribe("room:tea")
        async with WireClient(app) as watcher:
            await watcher.subscribe("occupancy:tea")

            first = (await watcher.push("pub"))["pub"]

    assert first["data"] == {"connections": 2, "users": 2}
    assert "info" not in first
    assert "offset" not in first


async def test_a_further_subscriber_gets_them_without_another_change(app):
    async with WireClient(app) as one, WireClient(app) as two:
        await one.subscribe("occupancy:tea")
        await until(one, 0)
        await two.subscribe("occupancy:tea")

        assert await until(two, 0) == {"connections": 0, "users": 0}
        assert await one.quiet()


async def test_joins_and_leaves_change_the_numbers(app):
    async with WireClient(app) as watcher:
        await watcher.subscribe("occupancy:tea")
        await until(watcher, 0)
        async with WireClient(app) as one:
            await one.subscribe("room:tea")
            await until(watcher, 1)
            async with WireClient(app) as two:
                await two.subscribe("room:tea")
                await until(watcher, 2)
            await until(watcher, 1)
        await until(watcher, 0)


async def test_members_of_another_topic_do_not_count(app):
    async with WireClient(app) as watcher, WireClient(app) as one:
        await watcher.subscribe("occupancy:tea")
        await one.subscribe("room:coffee")
        await one.subscribe("room:tea")

        assert (await until(watcher, 1))["users"] == 1


async def test_the_last_watcher_that_leaves_ends_the_reading(app):
    async with WireClient(app) as watcher:
        await watcher.subscribe("occupancy:tea")
        await until(watcher, 0)
        await watcher.done("unsubscribe", channel="occupancy:tea")

        assert feed_of(declared.resolve("occupancy:tea")) is None


async def test_a_topic_without_presence_cannot_be_counted(app):
    class Wall(Topic):
        pattern = "wall"
        permission_classes = [AllowAny]

    class WallOccupancy(Occupancy):
        pattern = "wall-occupancy"
        permission_classes = [AllowAny]

        def counted(self):
            return "wall"

    async with WireClient(app) as watcher:
        assert await watcher.refused("subscribe", channel="wall-occupancy") == 108


async def test_a_topic_that_is_not_declared_cannot_be_counted(app):
    class NoOccupancy(Occupancy):
        pattern = "no-occupancy"
        permission_classes = [AllowAny]

        def counted(self):
            return "nowhere"

    async with WireClient(app) as watcher:
        assert await watcher.refused("subscribe", channel="no-occupancy") == 102


async def test_the_permissions_are_those_of_the_topic_of_the_numbers(app):
    class Closed(Occupancy):
        pattern = "closed-occupancy"

        def counted(self):
            return "room:tea"

    async with WireClient(app) as watcher:
        assert await watcher.refused("subscribe", channel="closed-occupancy") == 103
