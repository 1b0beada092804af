"""The layers over Redis and Valkey, under the two names that Channels projects know.

    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "tiderace.layers.redis.RedisChannelLayer",
            "CONFIG": {"hosts": ["redis://localhost:6379/0"]},
        },
    }

Both names are one engine (``tiderace.layers.pubsub.layer`` over
``tiderace.layers.redis.broker``); they differ in what existing applications and suites
pin of channels_redis. It knows their settings, and no more.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from tiderace.exceptions import ChannelFull
from tiderace.layers import serializers
from tiderace.layers.local import Box, refuse_unknown
from tiderace.layers.pubsub.layer import PubSubLayer
from tiderace.layers.redis import hosts as hosts_
from tiderace.layers.redis.broker import RedisBroker

__all__ = [
    "BoundedQueue",
    "ChannelFull",
    "ChannelLock",
    "RedisChannelLayer",
    "RedisLoopLayer",
    "RedisPubSubChannelLayer",
    "RedisPubSubLoopLayer",
    "RedisSingleShardConnection",
]

logger = logging.getLogger("channels_redis.core")

_OPTIONS = (
    "hosts",
    "prefix",
    "expiry",
    "group_expiry",
    "capacity",
    "channel_capacity",
    "symmetric_encryption_keys",
    "random_prefix_length",
    "serializer_format",
    "publish_timeout",
    "group_capacity",
    "lease",
    "cluster",
    "compress_above",
    "compression",
)


class BoundedQueue(asyncio.Queue[Any]):
    """A queue that drops its oldest item when a new one finds it full."""

    def put_nowait(self, item: Any) -> None:
        """Put an item in; never raises ``QueueFull``."""
        if self.full():
            self.get_nowait()
        super().put_nowait(item)


class _RedisLayer(PubSubLayer):
    """What both names have in common."""

    _brokers: Sequence[RedisBroker]

    def __init__(
        self,
        hosts: Iterable[Any] | None,
        prefix: str,
        *,
        expiry: float,
        group_expiry: float,
        capacity: int,
        channel_capacity: Mapping[Any, int] | None,
        serializer: Mapping[str, Any],
        serializer_format: str,
        publish_timeout: float,
        group_capacity: int,
        lease: float,
        cluster: bool,
    ) -> None:
        if not isinstance(prefix, str):
            raise AssertionError(
                f"Prefix must be unicode, not a {type(prefix).__qualname__}; "
                "give a string"
            )
        self.hosts = hosts_.decode_hosts(hosts, cluster=cluster)
        self.ring_size = len(self.hosts)
        self.prefix = prefix
        brokers = [
            RedisBroker(host, prefix=prefix, publish_timeout=publish_timeout)
            for host in self.hosts
        ]
        super().__init__(
            brokers,
            expiry=expiry,
            group_expiry=group_expiry,
            capacity=capacity,
            channel_capacity=channel_capacity,
            group_capacity=group_capacity,
            lease=lease,
        )
        self._serializer = serializers.registry.get_serializer(
            serializer_format, expiry=expiry, **serializer
        )

    @property
    def client_prefix(self) -> str:
        """The part of channel names that says which process and layer they belong to."""
        return self._process

    def consistent_hash(self, value: str | bytes) -> int:
        """Which of ``hosts`` serves the group, queue or process ``value``."""
        return hosts_.consistent_hash(value, self.ring_size)

    def _index(self, name: str) -> int:
        return self.consistent_hash(name)

    def serialize(self, message: Any) -> bytes:
        """``message`` as the bytes that travel."""
        data: bytes = self._serializer.serialize(message)
        return data

    def deserialize(self, message: bytes) -> Any:
        """The message that travelled as these bytes."""
        return self._serializer.deserialize(message)

    def _group_key(self, group: str) -> bytes:
        # Named channels in a group stand under this key; sockets do not: ask
        # group_channels() and group_count().
        return f"{self.prefix}:group:{group}".encode()

    def create_pool(self, index: int) -> Any:
        """A new pool of redis-py connections to one of ``hosts``."""
        return hosts_.create_pool(self.hosts[index])

    def connection(self, index: int) -> Any:
        """A redis-py client for one of ``hosts``, for commands of the application's own.

        A new one at each call: close it with ``await client.aclose()``.

        Raises:
            ValueError: when there is no such host.
        """
        if not 0 <= index < self.ring_size:
            raise ValueError(
                f"There are only {self.ring_size} hosts - you asked for {index}!"
            )
        return hosts_.create_client(self.hosts[index])

    async def close_pools(self) -> None:
        """Close the running loop's connections; the layer may be used again."""
        for broker in self._brokers:
            await broker.close()

    async def wait_received(self) -> None:
        """For code written for channels_redis: there is nothing to wait for."""


class RedisChannelLayer(_RedisLayer):
    """The channel layer for production, over Redis or Valkey.

    Args:
        hosts: where the servers are, see ``tiderace.layers.redis.hosts``; several share the
            groups and queues among them.
        prefix: what every key begins with.
        expiry: seconds a message waits for its reader, and in which a process that
            was cut off misses nothing; 60.
        group_expiry: seconds a named channel stays in a group; one day. Sockets stay
            until they leave or end, however old.
        capacity: unread messages per channel; 100.
        channel_capacity: capacities by glob pattern of the full channel name.
        symmetric_encryption_keys: the first encrypts, all of them decrypt.
        random_prefix_length: random bytes before each message.
        serializer_format: ``"msgpack"``, ``"json"`` or one that is registered.
        publish_timeout: seconds a call waits for a server that is away; 5.
        group_capacity: messages of a group kept for processes that are cut off.
        lease: seconds after which a process that was killed no longer counts.
        cluster: whether ``hosts`` are nodes of one Redis Cluster.
        compress_above: messages of more bytes are compressed; None for none.
        compression: the algorithm.

    Raises:
        TypeError: for any other option, with the nearest known one.
    """

    brpop_timeout = 5

    def __init__(
        self,
        hosts: Iterable[Any] | None = None,
        prefix: str = "asgi",
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
        symmetric_encryption_keys: Iterable[str | bytes] | None = None,
        random_prefix_length: int = 12,
        serializer_format: str = "msgpack",
        *,
        publish_timeout: float = 5.0,
        group_capacity: int = 10_000,
        lease: float = 30.0,
        cluster: bool = False,
        compress_above: int | None = None,
        compression: str = "zlib",
        **unknown: Any,
    ) -> None:
        refuse_unknown(type(self).__name__, unknown, _OPTIONS)
        super().__init__(
            hosts,
            prefix,
            expiry=expiry,
            group_expiry=group_expiry,
            capacity=capacity,
            channel_capacity=channel_capacity,
            serializer={
                "symmetric_encryption_keys": symmetric_encryption_keys,
                "random_prefix_length": random_prefix_length,
                **_compression(compress_above, compression),
            },
            serializer_format=serializer_format,
            publish_timeout=publish_timeout,
            group_capacity=group_capacity,
            lease=lease,
            cluster=cluster,
        )

    def __str__(self) -> str:
        return f"{type(self).__name__}(hosts={self.hosts})"

    async def receive_single(self, channel: str) -> tuple[str, Any]:
        """``channel`` and its next message, as one tuple; see ``receive``."""
        return channel, await self.receive(channel)

    @property
    def receive_buffer(self) -> Any:
        """Bounded queues by channel name, for code that looks into channels_redis.

        The layer itself keeps what is unread in ``channels``.
        """
        if "_receive_buffer" not in self.__dict__:
            self.__dict__["_receive_buffer"] = defaultdict(
                lambda: BoundedQueue(self.capacity)
            )
        return self.__dict__["_receive_buffer"]

    def _log_drops(self, group: str, box: Box, drops: int) -> None:
        # The words and the level that channels_redis uses, for those who look for them.
        logger.info(
            "%s of %s channels over capacity in group %s",
            1,
            len(self._hub.members(group)) or 1,
            group,
        )

    def _log_full_queues(self, full: int, of: int, groups: Collection[str]) -> None:
        logger.info(
            "%s of %s channels over capacity in group %s", full, of, ", ".join(groups)
        )


class RedisPubSubChannelLayer(_RedisLayer):
    """The same engine under the name of channels_redis' pub/sub layer.

    It differs in what applications rely on there: any value may be a message, names
    are not checked, ``new_channel(prefix)`` joins the prefix without a separator, and
    a channel holds 10,000 unread messages, for there it has no bound.
    """

    def __init__(
        self,
        *args: Any,
        symmetric_encryption_keys: Iterable[str | bytes] | None = None,
        serializer_format: str = "msgpack",
        hosts: Iterable[Any] | None = None,
        prefix: str = "asgi",
        on_disconnect: Callable[..., Any] | None = None,
        on_reconnect: Callable[..., Any] | None = None,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 10_000,
        channel_capacity: Mapping[Any, int] | None = None,
        random_prefix_length: int = 0,
        publish_timeout: float = 5.0,
        group_capacity: int = 10_000,
        lease: float = 30.0,
        cluster: bool = False,
        compress_above: int | None = None,
        compression: str = "zlib",
        **unknown: Any,
    ) -> None:
        refuse_unknown(
            type(self).__name__, unknown, (*_OPTIONS, "on_disconnect", "on_reconnect")
        )
        if args:
            hosts, *_ = args
        super().__init__(
            hosts,
            prefix,
            expiry=expiry,
            group_expiry=group_expiry,
            capacity=capacity,
            channel_capacity=channel_capacity,
            serializer={
                "symmetric_encryption_keys": symmetric_encryption_keys,
                "random_prefix_length": random_prefix_length,
                **_compression(compress_above, compression),
            },
            serializer_format=serializer_format,
            publish_timeout=publish_timeout,
            group_capacity=group_capacity,
            lease=lease,
            cluster=cluster,
        )
        self.on_disconnect = on_disconnect
        self.on_reconnect = on_reconnect

    # The names are functions that know themselves to be coroutine functions, and the
    # layer has no others per loop; ``_get_layer`` answers for those who ask.

    async def new_channel(self, prefix: str = "specific.") -> str:
        """A channel name that nobody else has."""
        self._check_fork()
        return f"{self.prefix}{prefix}.{self._process}!{secrets.token_hex(8)}"

    def match_type_and_length(self, name: object) -> bool:
        """Any string is a name here, as in channels_redis."""
        return isinstance(name, str)

    def require_valid_channel_name(self, name: object, receive: bool = False) -> bool:
        """True for any string."""
        if not isinstance(name, str):
            raise self._name_error("Channel", name)
        return True

    def require_valid_group_name(self, name: object) -> bool:
        """True for any string."""
        if not isinstance(name, str):
            raise self._name_error("Group", name)
        return True

    def _require_message(self, message: object) -> None:
        """Any value that can be encoded is a message here."""

    def _get_layer(self) -> RedisPubSubLoopLayer:
        return RedisPubSubLoopLayer(self)

    @property
    def _layers(self) -> dict[asyncio.AbstractEventLoop, RedisPubSubLoopLayer]:
        loops = {loop for broker in self._brokers for loop in broker.pool.loops}
        return {loop: self._get_layer() for loop in loops}

    @property
    def _shards(self) -> list[RedisSingleShardConnection]:
        return [RedisSingleShardConnection(broker) for broker in self._brokers]


# Names of channels_redis that suites and applications import. There they are the parts
# of the machine; here they are views of it.


class RedisLoopLayer:
    """A layer as one event loop sees it, which is as it is: it has what the layer has."""

    def __init__(self, channel_layer: _RedisLayer) -> None:
        self.channel_layer = channel_layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.channel_layer, name)

    def get_connection(self, index: int) -> Any:
        """See ``RedisChannelLayer.connection``."""
        return self.channel_layer.connection(index)

    async def flush(self) -> None:
        """Close the running loop's connections."""
        await self.channel_layer.close_pools()


class RedisPubSubLoopLayer(RedisLoopLayer):
    """The same for the pub/sub name."""


class RedisSingleShardConnection:
    """The connections to one of ``hosts``; closing them breaks them, as a network would."""

    def __init__(self, broker: RedisBroker) -> None:
        self._broker = broker

    @property
    def _redis(self) -> RedisSingleShardConnection:
        return self

    async def aclose(self, close_connection_pool: bool = True) -> None:
        """Break the connections of the running loop; the layer makes new ones."""
        await self._broker.drop_connections()


class ChannelLock:
    """One ``asyncio.Lock`` per name, kept for as long as somebody holds or awaits it."""

    def __init__(self) -> None:
        self.locks: dict[str, asyncio.Lock] = {}
        self.wait_counts: dict[str, int] = {}

    async def acquire(self, channel: str) -> bool:
        """Wait for the lock of ``channel`` and take it; True."""
        lock = self.locks.setdefault(channel, asyncio.Lock())
        self.wait_counts[channel] = self.wait_counts.get(channel, 0) + 1
        try:
            return await lock.acquire()
        except BaseException:
            self._forget(channel)
            raise

    def locked(self, channel: str) -> bool:
        """Whether somebody holds the lock of ``channel``."""
        return channel in self.locks and self.locks[channel].locked()

    def release(self, channel: str) -> None:
        """Give the lock of ``channel`` back."""
        self.locks[channel].release()
        self._forget(channel)

    def _forget(self, channel: str) -> None:
        self.wait_counts[channel] -= 1
        if not self.wait_counts[channel]:
            del self.locks[channel]
            del self.wait_counts[channel]


def _compression(above: int | None, algorithm: str) -> dict[str, Any]:
    # Left out when off, so that serializers which know nothing of it can be registered.
    return {} if above is None else {"compress_above": above, "compression": algorithm}
