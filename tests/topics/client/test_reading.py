"""A client reads the history of a topic."""

from __future__ import annotations

import pytest

from support.clients.wire_client import WireClient
from tiderace.topics import (
    apublish,
)

pytestmark = pytest.mark.usefixtures("fresh_layer")


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
