"""The channel layers over Redis and Valkey, with the two class names of channels_redis.

Both are the same engine (``tiderace.layers.pubsub`` over ``RedisBroker``). They differ
only in behaviour that existing applications rely on.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from tiderace.asgi import printable
from tiderace.layers.broker import GROUP_MAX_BYTES, Retention
from tiderace.layers.local import DropLog
from tiderace.layers.messages import ChannelMailbox, require_unreserved
from tiderace.layers.options import refuse_unknown_options
from tiderace.layers.pubsub.layer import PubSubLayer
from tiderace.layers.redis import hosts as hosts_
from tiderace.layers.redis.broker import RedisBroker
from tiderace.layers.serializers import make_serializer

logger = logging.getLogger("channels_redis.core")


class _ChannelsRedisDropLog(DropLog):
    """Logs in the words and at the level of channels_redis, for existing log filters."""

    def mailbox_full(
        self, group: str, mailbox: ChannelMailbox, *, drops: int, members: int
    ) -> None:
        self._log(1, members or 1, group)

    def queues_full(self, full: int, queues: int, groups: Collection[str]) -> None:
        self._log(full, queues, ", ".join(groups))

    def _log(self, full: int, channels: int, group: str) -> None:
        logger.info(
            "%s of %s channels over capacity in group %s",
            full,
            channels,
            printable(group),
        )


class RedisChannelLayer(PubSubLayer):
    """The channel layer for production, over Redis or Valkey.

    Args:
        hosts: the servers, in a format of ``tiderace.layers.redis.hosts``; groups and
            queues are spread over them by name.
        prefix: the beginning of every key.
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
        group_max_bytes: bytes of a group's messages that are kept, histories included.
        lease: seconds after which a process that was killed no longer counts.
        cluster: whether ``hosts`` are nodes of one Redis Cluster.
        compress_above: messages of more bytes are compressed; None for none.
        compression: the algorithm.

    Raises:
        TypeError: for any other option, with the nearest known one.
    """

    _drop_log_class: type[DropLog] = _ChannelsRedisDropLog

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
        group_max_bytes: int = GROUP_MAX_BYTES,
        lease: float = 30.0,
        cluster: bool = False,
        compress_above: int | None = None,
        compression: str = "zlib",
        **unknown: Any,
    ) -> None:
        refuse_unknown_options(self, unknown)
        if not isinstance(prefix, str):
            raise AssertionError(
                f"Prefix must be unicode, not a {type(prefix).__qualname__}; give a string"
            )
        self.hosts = hosts_.decode_hosts(hosts, cluster=cluster)
        self.ring_size = len(self.hosts)
        self.prefix = prefix
        serializer = make_serializer(
            serializer_format,
            compress_above,
            expiry=expiry,
            symmetric_encryption_keys=symmetric_encryption_keys,
            random_prefix_length=random_prefix_length,
            compression=compression,
        )
        super().__init__(
            [
                RedisBroker(
                    host,
                    prefix=prefix,
                    publish_timeout=publish_timeout,
                    max_bytes=group_max_bytes,
                    # Registered serializers may have none.
                    crypter=getattr(serializer, "crypter", None),
                )
                for host in self.hosts
            ],
            index_of=self.consistent_hash,
            serializer=serializer,
            group_expiry=group_expiry,
            capacity=capacity,
            channel_capacity=channel_capacity,
            keep=Retention(group_capacity, expiry),
            lease=lease,
            drop_log=self._drop_log_class(),
        )

    def __str__(self) -> str:
        return f"{type(self).__name__}(hosts={self.hosts})"

    def consistent_hash(self, value: str | bytes) -> int:
        """Return which of ``hosts`` serves the group, queue or process ``value``."""
        return hosts_.consistent_hash(value, self.ring_size)

    def connection(self, index: int) -> Any:
        """Return a new redis-py client of one of ``hosts``, for your own commands.

        Close it with ``await client.aclose()``.

        Raises:
            ValueError: when there is no such host.
        """
        if not 0 <= index < self.ring_size:
            raise ValueError(
                f"There are only {self.ring_size} hosts - you asked for {index}!"
            )
        return hosts_.create_client(self.hosts[index])


class RedisPubSubChannelLayer(RedisChannelLayer):
    """The same engine with the behaviour of channels_redis' pub/sub layer.

    Any value may be a message, names are not checked, and ``new_channel(prefix)`` joins
    the prefix without a separator. A channel holds 10,000 unread messages; that of
    channels_redis has no limit.
    """

    channel_name_regex = group_name_regex = re.compile(".*", re.DOTALL)
    _drop_log_class = DropLog

    def __init__(
        self,
        *args: Any,
        hosts: Iterable[Any] | None = None,
        on_disconnect: Callable[..., Any] | None = None,
        on_reconnect: Callable[..., Any] | None = None,
        capacity: int = 10_000,
        random_prefix_length: int = 0,
        **options: Any,
    ) -> None:
        if args:
            hosts, *_ = args
        self.on_disconnect = on_disconnect
        self.on_reconnect = on_reconnect
        super().__init__(
            hosts,
            capacity=capacity,
            random_prefix_length=random_prefix_length,
            **options,
        )

    async def new_channel(self, prefix: str = "specific.") -> str:
        return f"{self.prefix}{prefix}.{self._local.process}!{secrets.token_hex(8)}"

    def match_type_and_length(self, name: object) -> bool:
        return isinstance(name, str)

    def _require_message(self, message: object) -> None:
        require_unreserved(message)
