"""The broker over Redis and Valkey: standalone, Sentinel or Cluster.

Every verb is a line here and done in the room of its kind. It knows how what is heard is
read, and no group, mailbox or consumer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, Collection, Sequence
from functools import cached_property
from typing import Any

from tiderace.layers.broker import (
    Delivery,
    Entry,
    Position,
    Published,
    QueueReady,
    Reconnected,
    Retention,
    StreamMessage,
)
from tiderace.layers.redis import hosts as hosts_
from tiderace.layers.redis.commands import CommandRunner
from tiderace.layers.redis.keys import KeySchema
from tiderace.layers.redis.members import RedisMembers
from tiderace.layers.redis.pool import RedisPool
from tiderace.layers.redis.presence import RedisPresenceStore
from tiderace.layers.redis.queues import RedisQueues
from tiderace.layers.redis.streams import RedisStreams
from tiderace.layers.redis.subscriber import Subscriber
from tiderace.presence.store import PresenceConfig, PresenceStore
from tiderace.ratelimit import Rate

__all__ = ["RedisBroker"]

logger = logging.getLogger("tiderace.layers")

# Seconds a server may be silent when it owes an answer, whatever else is waited for.
_SILENT_AT_MOST = 5.0

_FLUSH = """
for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end
"""


class RedisBroker:
    """The broker's verbs over one server, Sentinel set-up or cluster.

    Args:
        host: one entry of ``hosts``, decoded.
        prefix: what every key and pub/sub channel begins with.
        publish_timeout: seconds a call waits for a server that is away.
        randomness: for the jitter of waits.
    """

    def __init__(
        self,
        host: dict[str, Any],
        *,
        prefix: str,
        publish_timeout: float,
        randomness: random.Random | None = None,
    ) -> None:
        timeout = min(publish_timeout, _SILENT_AT_MOST)
        self._prefix = prefix
        self.pool = RedisPool(host, timeout=timeout)
        self._cluster = self.pool.cluster
        self.commands = CommandRunner(
            self.pool, timeout=publish_timeout, randomness=randomness
        )
        self.keys = KeySchema(
            prefix, database=hosts_.database(host), cluster=self._cluster
        )
        self._streams = RedisStreams(self.commands, self.keys)
        self._queues = RedisQueues(self.commands, self.keys)
        self._members = RedisMembers(self.commands, self.keys, cluster=self._cluster)
        self._subscriber = Subscriber(
            host, timeout=timeout, backoff=self.commands.backoff
        )

    # Publications

    async def publish(
        self,
        subject: str,
        data: bytes,
        *,
        keep: Retention,
        members_age: float,
        history: Retention | None = None,
        key: str = "",
    ) -> Published:
        """See ``Broker.publish``."""
        return await self._streams.publish(
            subject,
            data,
            keep=keep,
            members_age=members_age,
            history=history,
            key=key,
        )

    async def find_published(self, subject: str, key: str) -> Position | None:
        """See ``Broker.find_published``."""
        return await self._streams.find_published(subject, key)

    async def position(self, subject: str) -> Position | None:
        """See ``Broker.position``."""
        end, _ = await self._streams.read_after(subject, None)
        return end

    async def read_after(
        self, subject: str, offset: int
    ) -> tuple[Position | None, Sequence[Entry]]:
        """See ``Broker.read_after``."""
        return await self._streams.read_after(subject, offset)

    async def read(
        self,
        subject: str,
        *,
        history: Retention,
        keep: Retention,
        since: Position | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> tuple[Position, Sequence[Entry]]:
        """See ``Broker.read``."""
        return await self._streams.read(
            subject,
            history=history,
            keep=keep,
            since=since,
            limit=limit,
            reverse=reverse,
        )

    async def delete_history(self, subject: str) -> None:
        """See ``Broker.delete_history``."""
        await self._streams.delete_history(subject)

    # Queues

    async def push(self, queue: str, data: bytes, *, size: int, seconds: float) -> bool:
        """See ``Broker.push``."""
        return await self._queues.push(queue, data, size=size, seconds=seconds)

    async def take(self, queue: str, *, lease: float) -> Delivery | None:
        """See ``Broker.take``."""
        return await self._queues.take(queue, lease=lease)

    async def ack(self, delivery: Delivery) -> None:
        """See ``Broker.ack``."""
        await self._queues.ack(delivery)

    async def nack(self, delivery: Delivery, *, acked: bool = False) -> None:
        """See ``Broker.nack``."""
        await self._queues.nack(delivery, acked=acked)

    # Members and processes

    async def join(self, subject: str, member: str, *, seconds: float) -> None:
        """See ``Broker.join``."""
        await self._members.join(subject, member, seconds=seconds)

    async def leave(self, subject: str, member: str) -> None:
        """See ``Broker.leave``."""
        await self._members.leave(subject, member)

    async def announce(
        self,
        process: str,
        joined: Collection[tuple[str, str]],
        left: Collection[tuple[str, str]],
        *,
        lease: float,
    ) -> None:
        """See ``Broker.announce``."""
        await self._members.announce(process, joined, left, lease=lease)

    async def refresh(
        self, process: str, subjects: Collection[str], *, lease: float
    ) -> list[str]:
        """See ``Broker.refresh``."""
        return await self._members.refresh(process, subjects, lease=lease)

    async def remove_process(self, process: str, subjects: Collection[str]) -> None:
        """See ``Broker.remove_process``."""
        await self._members.remove_process(process, subjects)

    async def members(self, subject: str) -> list[str]:
        """See ``Broker.members``."""
        return await self._members.members(subject)

    async def count(self, subject: str) -> int:
        """See ``Broker.count``."""
        return await self._members.count(subject)

    async def report(self, process: str, data: bytes, *, lease: float) -> None:
        """See ``Broker.report``."""
        await self._members.report(process, data, lease=lease)

    async def reports(self) -> list[bytes]:
        """See ``Broker.reports``."""
        return await self._members.reports()

    @cached_property
    def presence(self) -> PresenceStore:
        """Who is present in the groups that this broker serves."""
        return RedisPresenceStore(
            PresenceConfig.from_settings(),
            self.commands.run_script,
            self._prefix,
            cluster=self._cluster,
        )

    async def take_token(self, key: str, rate: Rate) -> float:
        """See ``Broker.take_token``."""
        wait: int = await self.commands.run_script(
            "take_token",
            [self.keys.rate(key)],
            [rate.count, int(rate.seconds * 1000)],
        )
        return wait / 1000

    # Hearing

    async def subscribe(
        self, subjects: Collection[str], queues: Collection[str] = ()
    ) -> None:
        """See ``Broker.subscribe``."""
        channels = self.keys.channels(subjects, queues)
        await self.commands.call_with_retry(
            lambda is_retry: self._subscriber.subscribe(channels)
        )

    async def unsubscribe(
        self, subjects: Collection[str], queues: Collection[str] = ()
    ) -> None:
        """See ``Broker.unsubscribe``."""
        channels = self.keys.channels(subjects, queues)
        await self.commands.call_with_retry(
            lambda is_retry: self._subscriber.unsubscribe(channels)
        )

    async def messages(
        self,
    ) -> AsyncGenerator[Sequence[StreamMessage | QueueReady | Reconnected], None]:
        """See ``Broker.messages``."""
        async with contextlib.aclosing(self._subscriber.messages()) as batches:
            async for batch in batches:
                if batch is None:
                    yield [Reconnected()]
                    continue
                items = [self._parsed(*pushed) for pushed in batch]
                yield [item for item in items if item is not None]

    @property
    def is_connected(self) -> bool:
        """See ``Broker.is_connected``."""
        return self._subscriber.is_connected

    def _parsed(
        self, channel: bytes, payload: bytes
    ) -> StreamMessage | QueueReady | None:
        kind, name = self.keys.split(channel)
        if kind == b"queue":
            return QueueReady(name.decode())
        try:
            epoch, offset, data = payload.split(b" ", 2)
            return StreamMessage(name.decode(), epoch.decode(), int(offset), data)
        except ValueError:
            logger.error(
                "what somebody published on %s is no message of this layer; let other "
                "programs use other names",
                channel.decode(errors="replace"),
            )
            return None

    # The connections

    async def flush(self) -> None:
        """See ``Broker.flush``."""
        if self._cluster:
            await self.pool.delete_cluster_keys(self.keys.pattern)
        else:
            await self.commands.execute("EVAL", _FLUSH, 0, self.keys.pattern)

    async def close(self) -> None:
        """See ``Broker.close``."""
        await self.pool.close()

    async def drop_connections(self) -> None:
        """Break the connections of the running loop, as a network would; for tests."""
        self._subscriber.drop_connections()
        await self.pool.close()

    @property
    def loops(self) -> list[asyncio.AbstractEventLoop]:
        """The event loops that keep a connection for commands here."""
        return self.pool.loops
