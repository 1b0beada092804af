"""The broker over Redis and Valkey: standalone, Sentinel or Cluster."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Collection, Sequence
from functools import cached_property, lru_cache
from typing import Any

from tiderace.history import Position
from tiderace.layers.broker import (
    GROUP_MAX_BYTES,
    QueueReady,
    Reconnected,
    StreamMessage,
)
from tiderace.layers.redis import hosts as hosts_
from tiderace.layers.redis.commands import CommandRunner
from tiderace.layers.redis.keys import KeySchema
from tiderace.layers.redis.memberships import RedisMemberships
from tiderace.layers.redis.pool import RedisPool
from tiderace.layers.redis.presence import RedisPresenceStore
from tiderace.layers.redis.queues import RedisQueues
from tiderace.layers.redis.streams import RedisStreams
from tiderace.layers.redis.subscriber import Subscriber
from tiderace.presence.store import PresenceConfig
from tiderace.ratelimit import Rate

logger = logging.getLogger("tiderace.layers")

# Seconds to wait for a reply, however long the publish timeout is.
_MAX_REPLY_TIMEOUT = 5.0

# Channels whose names are cached, which a message on each of them needs.
_CACHED_CHANNELS = 8192

_FLUSH = """
for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end
"""


class RedisBroker:
    """A ``Broker`` over one server, Sentinel set-up or cluster.

    Args:
        host: one entry of ``hosts``, decoded.
        prefix: the beginning of every key and pub/sub channel.
        publish_timeout: seconds a call waits for a server that is away.
        max_bytes: bytes of a group's messages that are kept.
        crypter: encrypts the info of members of presence; None for no encryption.
    """

    delivers_earlier = False

    def __init__(
        self,
        host: dict[str, Any],
        *,
        prefix: str,
        publish_timeout: float,
        max_bytes: int = GROUP_MAX_BYTES,
        crypter: Any = None,
    ) -> None:
        self._crypter = crypter
        self.publish_timeout = publish_timeout
        timeout = min(publish_timeout, _MAX_REPLY_TIMEOUT)
        cluster = hosts_.is_cluster(host)
        self.pool = RedisPool(host, timeout=timeout)
        self.commands = CommandRunner(self.pool, timeout=publish_timeout)
        self.keys = KeySchema(prefix, database=hosts_.database(host), cluster=cluster)
        self.streams = RedisStreams(self.commands, self.keys, max_bytes=max_bytes)
        self.queues = RedisQueues(self.commands, self.keys)
        self.memberships = RedisMemberships(self.commands, self.keys, cluster=cluster)
        self._split = lru_cache(maxsize=_CACHED_CHANNELS)(self.keys.split)
        self._prefix = prefix
        self._cluster = cluster
        self._subscriber = Subscriber(host, timeout=timeout)

    @cached_property
    def presence(self) -> RedisPresenceStore:
        """Presence in the groups that this broker serves, with the project's settings."""
        return RedisPresenceStore(
            PresenceConfig.from_settings(),
            self.commands.run_script,
            self._prefix,
            cluster=self._cluster,
            crypter=self._crypter,
        )

    async def take_token(self, key: str, rate: Rate) -> float:
        return await self.streams.take_token(key, rate)

    async def subscribe(
        self, subjects: Collection[str], queues: Collection[str] = ()
    ) -> None:
        channels = self.keys.channels(subjects, queues)
        await self.commands.call_with_retry(
            lambda is_retry: self._subscriber.subscribe(channels)
        )

    async def unsubscribe(
        self, subjects: Collection[str], queues: Collection[str] = ()
    ) -> None:
        channels = self.keys.channels(subjects, queues)
        await self.commands.call_with_retry(
            lambda is_retry: self._subscriber.unsubscribe(channels)
        )

    async def messages(
        self,
    ) -> AsyncGenerator[Sequence[StreamMessage | QueueReady | Reconnected], None]:
        async with contextlib.aclosing(self._subscriber.messages()) as batches:
            async for batch in batches:
                if batch is None:
                    yield [Reconnected()]
                    continue
                items = [self._parse(*message) for message in batch]
                yield [item for item in items if item is not None]

    @property
    def is_connected(self) -> bool:
        return self._subscriber.is_connected

    def _parse(
        self, channel: bytes, payload: bytes
    ) -> StreamMessage | QueueReady | None:
        kind, name = self._split(channel)
        if kind == "queue":
            return QueueReady(name)
        try:
            epoch, offset, data = payload.split(b" ", 2)
            position = Position(epoch.decode(), int(offset))
            return StreamMessage(name, position, position.offset - 1, data)
        except ValueError:
            logger.error(
                "a message on %s was not published by a layer and is dropped; let other "
                "programs use other channel names",
                channel.decode(errors="replace"),
            )
            return None

    async def flush(self) -> None:
        if self._cluster:
            await self.pool.delete_cluster_keys(self.keys.pattern)
        else:
            await self.commands.execute("EVAL", _FLUSH, 0, self.keys.pattern)

    async def close(self) -> None:
        await self.pool.close()

    async def drop_connections(self) -> None:
        self._subscriber.drop_connections()
        await self.pool.close()
