"""The broker over a database of any vendor."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from functools import cached_property
from typing import Any

from tiderace import metrics
from tiderace.exceptions import LayerUnavailable
from tiderace.history import Position
from tiderace.layers.backoff import backoff
from tiderace.layers.broker import QueueReady, Reconnected, StreamMessage
from tiderace.layers.database.executor import Executor
from tiderace.layers.database.memberships import DatabaseMemberships
from tiderace.layers.database.presence import DatabasePresenceStore
from tiderace.layers.database.queues import DatabaseQueues
from tiderace.layers.database.rates import take_token
from tiderace.layers.database.streams import DatabaseStreams
from tiderace.layers.database.sweeping import sweep
from tiderace.layers.database.vendor import Cursor, Feed, FeedRow, Vendor, Wanted
from tiderace.presence.store import PresenceConfig
from tiderace.ratelimit import Rate
from tiderace.runtime.forks import after_fork, keep_alive

logger = logging.getLogger("tiderace.layers")

_SWEEP_INTERVAL = 5.0  # seconds, and up to as much again at random

# Tables by the column that begins with the layer's prefix.
_TABLES = {
    "stream": "subject",
    "entry": "subject",
    "once": "subject",
    "member": "subject",
    "membership": "subject",
    "process": "name",
    "queue": "queue",
    "bucket": "name",
    "presence_group": "name",
    "presence_connection": "group_name",
    "presence_user": "group_name",
}


class DatabaseBroker:
    """A ``Broker`` over a database.

    Args:
        vendor: the database.
        prefix: the beginning of every name in its tables.
        publish_timeout: seconds a call waits for a database that is away or busy.
        max_bytes: bytes of a group's messages that are kept.
        crypter: encrypts the info of members of presence; None for no encryption.
    """

    # The feed reads all rows, those of new subscriptions as those of others.
    delivers_earlier = True

    def __init__(
        self,
        vendor: Vendor,
        *,
        prefix: str,
        publish_timeout: float,
        max_bytes: int,
        crypter: Any = None,
    ) -> None:
        self.publish_timeout = publish_timeout
        self.executor = Executor(vendor, timeout=publish_timeout)
        self._vendor = vendor
        self._prefix = f"{prefix}:"
        self._crypter = crypter
        self.streams = DatabaseStreams(self.executor, self._prefix, max_bytes=max_bytes)
        self.queues = DatabaseQueues(self.executor, self._prefix)
        self.memberships = DatabaseMemberships(self.executor, self._prefix)
        self._start_empty()
        after_fork(self._forget_parent)

    def _start_empty(self) -> None:
        self._wanted = Wanted()
        self._feed: Feed | None = None
        self._connected = False

    def _forget_parent(self) -> None:
        keep_alive((self._wanted, self._feed))
        self._start_empty()

    @cached_property
    def presence(self) -> DatabasePresenceStore:
        """Presence in the groups that this broker serves, with the project's settings."""
        return DatabasePresenceStore(
            PresenceConfig.from_settings(),
            self.executor,
            self._prefix,
            crypter=self._crypter,
        )

    async def take_token(self, key: str, rate: Rate) -> float:
        name = self._prefix + key
        return await self.executor.write(
            take_token, name, rate, lock=(f"bucket {name}",)
        )

    async def subscribe(
        self, subjects: Collection[str], queues: Collection[str] = ()
    ) -> None:
        # The feed reads all rows; from now on it returns those of these streams too.
        self._wanted.add(self._stored(subjects), self._stored(queues))

    async def unsubscribe(
        self, subjects: Collection[str], queues: Collection[str] = ()
    ) -> None:
        self._wanted.remove(self._stored(subjects), self._stored(queues))

    async def messages(
        self,
    ) -> AsyncGenerator[Sequence[StreamMessage | QueueReady | Reconnected], None]:
        sweeping = asyncio.create_task(self._sweep_regularly())
        metrics.BROKERS_AWAY.add()
        try:
            while True:
                feed = await self._open_feed()
                self._set_connected(True)
                yield [Reconnected()]
                try:
                    while True:
                        rows = await feed.read()
                        if items := list(self._items(rows)):
                            yield items
                except Exception as error:
                    if self._vendor.explain(error) is None:
                        raise
                    metrics.LAYER_INTERRUPTIONS.add()
                    logger.warning(
                        "the connection to the layer's broker broke; opening another",
                        extra={"reason": "broker_lost"},
                    )
                finally:
                    self._set_connected(False)
                    await self._close_feed()
        finally:
            sweeping.cancel()
            metrics.BROKERS_AWAY.add(-1)

    @property
    def is_connected(self) -> bool:
        return self._connected

    async def flush(self) -> None:
        await self.executor.write(_flush, self._prefix)

    async def close(self) -> None:
        await self.executor.close()

    async def drop_connections(self) -> None:
        if self._feed is not None:
            self._feed.drop()
        self.executor.drop_connections()

    async def _open_feed(self) -> Feed:
        """Open a feed; try again until it succeeds."""
        tries = 0
        while True:
            feed = self._feed = self._vendor.open_feed(self._wanted)
            try:
                await feed.open()
            except BaseException as error:
                # A cancellation too: a thread may go on and open the connection.
                await self._close_feed()
                if (
                    not isinstance(error, Exception)
                    or self._vendor.explain(error) is None
                ):
                    raise
                if tries == 0:
                    logger.warning(
                        "the layer's broker is away: %s; trying on",
                        error,
                        extra={"reason": "broker_away"},
                    )
                tries += 1
                await asyncio.sleep(backoff(tries))
                continue
            if tries:
                logger.warning(
                    "the layer's broker is back after %d tries",
                    tries,
                    extra={"reason": "broker_back"},
                )
            return feed

    async def _close_feed(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            await feed.close()

    def _set_connected(self, connected: bool) -> None:
        if connected != self._connected:
            self._connected = connected
            metrics.BROKERS_AWAY.add(-1 if connected else 1)

    def _items(self, rows: Sequence[FeedRow]) -> Iterator[StreamMessage | QueueReady]:
        start = len(self._prefix)
        for subject, epoch, offset, before, data, _ in rows:
            if offset is None:
                yield QueueReady(subject[start:])
            else:
                yield StreamMessage(
                    subject[start:], Position(epoch, offset), before, data
                )

    async def _sweep_regularly(self) -> None:
        is_failing = False
        while True:
            await asyncio.sleep(_SWEEP_INTERVAL * (1 + random.random()))  # noqa: S311
            try:
                await sweep(self.executor)
                is_failing = False
            except LayerUnavailable as error:
                if not is_failing:
                    is_failing = True
                    logger.warning("expired rows cannot be deleted yet: %s", error)

    def _stored(self, names: Collection[str]) -> list[str]:
        return [self._prefix + name for name in names]


def _flush(cursor: Cursor, prefix: str) -> None:
    for table, column in _TABLES.items():
        cursor.execute(
            f"DELETE FROM tiderace_layer_{table} "
            f"WHERE substr({column}, 1, {len(prefix)}) = %s",
            (prefix,),
        )
