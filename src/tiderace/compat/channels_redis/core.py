"""``channels_redis.core``: the layer with the methods and classes of channels_redis."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from functools import cached_property
from typing import Any

from tiderace.exceptions import ChannelFull
from tiderace.layers import redis
from tiderace.layers.pubsub.layer import PubSubLayer
from tiderace.layers.redis import hosts as hosts_

__all__ = [
    "BoundedQueue",
    "ChannelFull",
    "ChannelLock",
    "ChannelsRedisMethods",
    "RedisChannelLayer",
    "RedisLoopLayer",
]


class BoundedQueue(asyncio.Queue[Any]):
    """A queue that drops its oldest item when a new one finds it full."""

    def put_nowait(self, item: Any) -> None:
        """Put an item in; never raises ``QueueFull``."""
        if self.full():
            self.get_nowait()
        super().put_nowait(item)


class ChannelsRedisMethods(PubSubLayer):
    """The methods that both layers of channels_redis have."""

    hosts: list[dict[str, Any]]
    prefix: str

    @property
    def client_prefix(self) -> str:
        """The part of channel names that stands for this process and layer."""
        return self._local.process

    def _group_key(self, group: str) -> bytes:
        # The named channels of a group are under this key; for sockets use
        # group_channels() and group_count().
        return f"{self.prefix}:group:{group}".encode()

    def create_pool(self, index: int) -> Any:
        """Return a new pool of redis-py connections to one of ``hosts``."""
        return hosts_.create_pool(self.hosts[index])

    async def close_pools(self) -> None:
        """Close the running loop's connections; the layer may be used again."""
        for broker in self._brokers:
            await broker.close()

    async def wait_received(self) -> None:
        """Do nothing: there are no tasks to wait for."""


class RedisChannelLayer(ChannelsRedisMethods, redis.RedisChannelLayer):
    """``tiderace.layers.redis.RedisChannelLayer`` with channels_redis' methods."""

    brpop_timeout = 5

    async def receive_single(self, channel: str) -> tuple[str, Any]:
        """Return ``channel`` and its next message; see ``receive``."""
        return channel, await self.receive(channel)

    @cached_property
    def receive_buffer(self) -> defaultdict[str, BoundedQueue]:
        """Bounded queues by channel name; the layer itself does not use them."""
        return defaultdict(lambda: BoundedQueue(self.capacity))


class RedisLoopLayer:
    """A layer as one event loop sees it: it has all attributes of the layer."""

    def __init__(self, channel_layer: Any) -> None:
        self.channel_layer = channel_layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.channel_layer, name)

    def get_connection(self, index: int) -> Any:
        """Return a client; see ``RedisChannelLayer.connection``."""
        return self.channel_layer.connection(index)

    async def flush(self) -> None:
        """Close the running loop's connections."""
        await self.channel_layer.close_pools()


class ChannelLock:
    """One ``asyncio.Lock`` per name, kept while it is held or waited for."""

    def __init__(self) -> None:
        self.locks: dict[str, asyncio.Lock] = {}
        self.wait_counts: dict[str, int] = {}

    async def acquire(self, channel: str) -> bool:
        """Wait for the lock of ``channel``, take it and return True."""
        lock = self.locks.setdefault(channel, asyncio.Lock())
        self.wait_counts[channel] = self.wait_counts.get(channel, 0) + 1
        try:
            return await lock.acquire()
        except BaseException:
            self._remove_unused(channel)
            raise

    def locked(self, channel: str) -> bool:
        """Return whether the lock of ``channel`` is held."""
        return channel in self.locks and self.locks[channel].locked()

    def release(self, channel: str) -> None:
        """Release the lock of ``channel``."""
        self.locks[channel].release()
        self._remove_unused(channel)

    def _remove_unused(self, channel: str) -> None:
        self.wait_counts[channel] -= 1
        if not self.wait_counts[channel]:
            del self.locks[channel]
            del self.wait_counts[channel]
