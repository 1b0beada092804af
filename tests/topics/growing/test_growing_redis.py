"""Growing messages while Redis is restarted, emptied or away."""

from __future__ import annotations

import pytest

from support.contracts.growing_contract import LEASE, Device, declare
from support.waiting import until
from tiderace.topics import agrow
from tiderace.topics.declaration.topic import declared
from tiderace.topics.hub import close as close_hub
from tiderace.topics.hub import current

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def app(settings, own_server, prefix):
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "tiderace.layers.redis.RedisChannelLayer",
            "CONFIG": {"hosts": [own_server.url], "prefix": prefix},
        }
    }
    before = set(declared)
    yield declare()
    await close_hub()
    for topic in set(declared) - before:
        declared.remove(topic)


async def test_a_message_survives_a_server_that_is_restarted_empty(app, own_server):
    async with Device(app, "grow-room:a") as device:
        async with agrow("grow-room:a", {"by": "ai"}) as answer:
            await answer.append("before ")
            await device.has(answer, "before ")
            own_server.restart()
            await answer.append("after")
            await device.has(answer, "before after")

            async with Device(app, "grow-room:a") as late:
                await late.has(answer, "before after")

        while device.messages[answer.id]["state"] == "growing":
            await device.read()
        end = device.messages[answer.id]
        assert end["state"] == "finished"
        assert end["data"] == {"by": "ai", "text": "before after"}


async def test_a_late_subscriber_of_another_process_asks_for_a_text_that_was_lost(
    app, own_server
):
    async with agrow("grow-room:a") as answer:
        await answer.append("Hello")
        await answer.flush()
        own_server.call("FLUSHALL")
        await answer.append("!")
        await answer.flush()

        async with Device(app, "grow-room:a") as late:
            await late.has(answer, "Hello!")


async def test_a_message_outlasts_a_server_that_is_away_for_longer_than_the_lease(
    app, own_server
):
    async with Device(app, "grow-room:a") as device:
        async with agrow("grow-room:a") as answer:
            await answer.append("one ")
            await device.has(answer, "one ")
            (feed,) = current()._growing._feeds.values()
            seen_at = feed.log.messages[answer.id].seen_at
            own_server.pause()
            await until(lambda: feed._loop.time() - seen_at > LEASE * 2)
            own_server.resume()
            await until(lambda: feed.log.messages[answer.id].seen_at > seen_at)
            await answer.append("two")

        end = await device.ended(answer)
        assert (end["state"], end["data"]["text"]) == ("finished", "one two")


async def test_appends_while_the_server_is_away_are_sent_when_it_is_back(
    app, own_server
):
    async with Device(app, "grow-room:a") as device:
        async with agrow("grow-room:a") as answer:
            await answer.append("one ")
            await device.has(answer, "one ")
            own_server.pause()
            for _ in range(100):
                await answer.append("two ")
            own_server.resume()
            await until(lambda: not answer._unsent)

        assert (await device.ended(answer))["data"]["text"] == "one " + "two " * 100
