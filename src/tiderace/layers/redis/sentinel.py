"""Redis Sentinel: pools of connections to the primary that the sentinels name."""

from __future__ import annotations

import asyncio
from typing import Any

from tiderace.layers.redis.options import (
    CONNECT_TIMEOUT,
    UNLIMITED_CONNECTIONS,
    Host,
    RedisPy,
    refuse_unknown,
    set_defaults,
)

_SENTINEL_OPTIONS = {"address", "master_name", "sentinels", "sentinel_kwargs", "ssl"}


def create_sentinel_pool(options: Host, redis_py: RedisPy, timeout: float) -> Any:
    """Return a pool of connections to the primary that the sentinels name.

    Raises:
        TypeError: for an unknown option, with the nearest known one.
        ValueError: without a name or without sentinels.
    """
    name, addresses = options.pop("master_name", None), options.pop("sentinels", None)
    if not name or not addresses:
        raise ValueError(
            "hosts names "
            + (
                "master_name without sentinels"
                if name
                else "sentinels without master_name"
            )
            + '; Sentinel needs both: {"sentinels": [("host", 26379)], '
            '"master_name": "main"}'
        )
    module = redis_py.sentinel
    connection_class = options.get("connection_class") or (
        module.SentinelManagedSSLConnection
        if options.get("ssl")
        else module.SentinelManagedConnection
    )
    pool_class = module.SentinelConnectionPool
    sentinel_options = dict(options.pop("sentinel_kwargs", None) or {})
    refuse_unknown(options, [connection_class, pool_class], _SENTINEL_OPTIONS)
    refuse_unknown(sentinel_options, [redis_py.client], set())
    set_defaults(options, connection_class, timeout)
    options.setdefault("max_connections", UNLIMITED_CONNECTIONS)
    # Short, so that a dead sentinel leaves time to query the next one.
    set_defaults(sentinel_options, connection_class, min(timeout, CONNECT_TIMEOUT))
    sentinel_options.setdefault("retry", no_retry(redis_py))
    return pool_class(
        name,
        _sentinel_class(module, sync=redis_py.sync)(
            [tuple(address) for address in addresses], sentinel_kwargs=sentinel_options
        ),
        **options,
    )


def _sentinel_class(module: Any, *, sync: bool) -> Any:
    """Return a Sentinel client that reads the primary's address and then disconnects.

    redis-py's own client reads the list of primaries, which has the old one until all
    replicas follow the new one.
    """
    from redis import exceptions

    unreachable = (exceptions.ConnectionError, exceptions.TimeoutError)

    class Blocking(module.Sentinel):  # type: ignore[misc]
        def discover_master(self, service_name: str) -> Any:
            replies: list[Exception | str] = []
            for client in self.sentinels:
                try:
                    address = client.execute_command(*_GET_PRIMARY, service_name)
                except unreachable as error:
                    replies.append(error)
                else:
                    if address:
                        return _text(address[0]), int(address[1])
                    replies.append("has no such primary")
                finally:
                    client.connection_pool.disconnect(inuse_connections=False)
            raise _not_found(module, service_name, replies)

    class Asyncio(module.Sentinel):  # type: ignore[misc]
        async def discover_master(self, service_name: str) -> Any:
            replies: list[Exception | str] = []
            for client in self.sentinels:
                # The pool is not used: closing it is awaited, which a cancellation skips.
                connection = client.connection_pool.make_connection()
                address = None
                try:
                    await connection.connect()
                    await connection.send_command(*_GET_PRIMARY, service_name)
                    address = await connection.read_response()
                    replies.append("has no such primary")
                except unreachable as error:
                    replies.append(error)
                except (asyncio.CancelledError, exceptions.RedisError):
                    await connection.disconnect(nowait=True)
                    raise
                # Not in a finally clause: a finalized coroutine must not await.
                await connection.disconnect(nowait=True)
                if address:
                    return _text(address[0]), int(address[1])
            raise _not_found(module, service_name, replies)

    return Blocking if sync else Asyncio


# redis-py's own method for it fails with asyncio in 6.x.
_GET_PRIMARY = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME")


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _not_found(module: Any, name: str, replies: list[Exception | str]) -> Exception:
    from redis.exceptions import AuthenticationError

    # Waiting does not help where a sentinel refuses the password.
    is_denied = any(isinstance(each, AuthenticationError) for each in replies)
    kind: type[Exception] = module.MasterNotFoundError
    return (AuthenticationError if is_denied else kind)(
        f"no sentinel has a primary {name!r}; replies: "
        f"{'; '.join(map(str, replies))}. Compare master_name, sentinels and "
        "sentinel_kwargs in hosts with the sentinels' configuration"
    )


def no_retry(redis_py: RedisPy) -> Any:
    """Return redis-py's retry policy for no retries."""
    from redis.backoff import NoBackoff

    return redis_py.retry(NoBackoff(), 0)
