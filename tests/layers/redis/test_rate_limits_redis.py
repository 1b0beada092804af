"""Rate limits that all processes share, on a real server."""

from __future__ import annotations

import asyncio

from tiderace.exceptions import RateExceeded
from tiderace.layers import Retention
from tiderace.layers.redis import RedisChannelLayer
from tiderace.ratelimit import Rate


async def test_two_processes_share_a_rate_limit(redis_url, prefix):
    layers = [RedisChannelLayer([redis_url], prefix=prefix) for _ in range(2)]
    try:
        rate = Rate(5, 3600.0)
        waits = await asyncio.gather(
            *(layer.take_token("somebody", rate) for layer in layers * 5)
        )
        assert sorted(wait == 0 for wait in waits) == [False] * 5 + [True] * 5
        assert all(0 <= wait <= 720 for wait in waits)
        assert await layers[0].take_token("another key", rate) == 0
    finally:
        for layer in layers:
            await layer.close()


async def test_publications_to_several_servers_share_a_rate_limit(
    own_server, redis_url, prefix
):
    layer = RedisChannelLayer([redis_url, own_server.url], prefix=prefix)
    groups = [f"room-{number}" for number in range(20)]
    limit = ("somebody", Rate(10, 3600.0))
    options = {"keep": Retention(10, 60.0), "limit": limit}
    try:
        results = await asyncio.gather(
            *(layer.stream_publish(each, {"data": "1"}, **options) for each in groups),
            return_exceptions=True,
        )

        assert {layer.consistent_hash(each) for each in groups} == {0, 1}
        assert sum(isinstance(each, RateExceeded) for each in results) == 10
        assert await layer.take_token(*limit) > 0
    finally:
        await layer.close()


async def test_a_bucket_fills_up_with_time(redis_url, prefix):
    layer = RedisChannelLayer([redis_url], prefix=prefix)
    try:
        rate = Rate(1, 0.05)
        assert await layer.take_token("k", rate) == 0
        assert 0 < await layer.take_token("k", rate) <= 0.05
        async with asyncio.timeout(10):
            while await layer.take_token("k", rate):
                pass
    finally:
        await layer.close()
