"""Publishes messages of this process to groups, named queues and other processes."""

from __future__ import annotations

import time
from collections.abc import Collection

from tiderace import metrics
from tiderace.exceptions import RateExceeded
from tiderace.layers.broker import KEY_TTL, Published, Retention
from tiderace.layers.local import DropLog
from tiderace.layers.pubsub.brokers import Brokers
from tiderace.layers.pubsub.cursors import StreamCursors
from tiderace.layers.pubsub.inbox import inbox_name
from tiderace.layers.pubsub.queues import Queues
from tiderace.layers.pubsub.reporter import Reporter
from tiderace.ratelimit import Rate


class Publisher:
    """Publishes serialized messages, and measures how long the broker takes.

    Args:
        brokers: the brokers.
        cursors: the streams that this process reads.
        queues: named queues.
        reporter: reports the round trip.
        keep: what is kept of a stream for processes that are disconnected.
        members_age: seconds a named queue stays in a group.
        drop_log: logs messages to full queues.
    """

    def __init__(
        self,
        brokers: Brokers,
        cursors: StreamCursors,
        queues: Queues,
        reporter: Reporter,
        *,
        keep: Retention,
        members_age: float,
        drop_log: DropLog,
    ) -> None:
        self._brokers = brokers
        self._cursors = cursors
        self._queues = queues
        self._reporter = reporter
        self._keep = keep
        self._members_age = members_age
        self._drop_log = drop_log

    async def publish(
        self,
        group: str,
        data: bytes,
        history: Retention | None = None,
        key: str = "",
        key_ttl: float = KEY_TTL,
        limit: tuple[str, Rate] | None = None,
    ) -> Published:
        """Publish to a group; see ``StreamStore.publish``.

        The bucket of ``limit`` may be at another broker than the group.
        """
        broker = self._brokers.broker_of(group)
        if limit is not None:
            limiting = self._brokers.broker_of(limit[0])
            if limiting is not broker:
                if wait := await limiting.take_token(*limit):
                    raise RateExceeded(wait)
                limit = None
        begun = time.perf_counter()
        published = await broker.streams.publish(
            group,
            data,
            keep=self._keep,
            members_age=self._members_age,
            history=history,
            key=key,
            key_ttl=key_ttl,
            limit=limit,
        )
        took = self._reporter.round_trip = time.perf_counter() - begun
        metrics.PUBLISH_DURATION.observe(took)
        if (cursor := self._cursors.get(group)) is not None:
            cursor.published = published.position
        return published

    async def send_to_queues(
        self, queues: Collection[str], groups: Collection[str], data: bytes
    ) -> None:
        """Put a message to ``groups`` into the named queues that are in them."""
        full = await self._queues.push_to_each(queues, data)
        if full:
            metrics.MESSAGES_DROPPED_FULL.add(full)
            self._drop_log.queues_full(full, len(queues), groups)

    async def send_to_process(self, process: str, data: bytes) -> None:
        """Send a message to the inbox of another process."""
        name = inbox_name(process)
        await self._brokers.broker_of(name).streams.publish(
            name, data, keep=self._keep, members_age=0
        )
