"""``channels_redis.pubsub``: the layer with the methods and classes of channels_redis."""

from __future__ import annotations

import asyncio
from typing import Any

from tiderace.compat.channels_redis.core import ChannelsRedisMethods, RedisLoopLayer
from tiderace.layers import redis

__all__ = [
    "RedisPubSubChannelLayer",
    "RedisPubSubLoopLayer",
    "RedisSingleShardConnection",
]


class RedisPubSubLoopLayer(RedisLoopLayer):
    """The same for the pub/sub layer."""


class RedisSingleShardConnection:
    """The connections to one of ``hosts``."""

    def __init__(self, broker: Any) -> None:
        self._broker = broker

    @property
    def _redis(self) -> RedisSingleShardConnection:
        return self

    async def aclose(self, close_connection_pool: bool = True) -> None:
        """Break the connections of the running loop; the layer opens new ones."""
        await self._broker.drop_connections()


class RedisPubSubChannelLayer(ChannelsRedisMethods, redis.RedisPubSubChannelLayer):
    """``tiderace.layers.redis.RedisPubSubChannelLayer`` with channels_redis' methods."""

    def _get_layer(self) -> RedisPubSubLoopLayer:
        return RedisPubSubLoopLayer(self)

    @property
    def _layers(self) -> dict[asyncio.AbstractEventLoop, RedisPubSubLoopLayer]:
        brokers: Any = self._brokers
        loops = {loop for broker in brokers for loop in broker.pool.loops}
        return {loop: self._get_layer() for loop in loops}

    @property
    def _shards(self) -> list[RedisSingleShardConnection]:
        return [RedisSingleShardConnection(broker) for broker in self._brokers]
