"""Where the Redis or Valkey servers are: the ``hosts`` of a layer, and clients for them.

It knows redis-py and how it wants to be called, and nothing of groups and messages.

An entry of ``hosts`` is one of::

    "redis://user:password@host:6379/0"       also rediss://, unix://, valkey://, valkeys://
    ("host", 6379)
    {"address": "rediss://host:6379", "ssl_ca_certs": "ca.pem"}     a URL and options
    {"host": "host", "port": 6379, "db": 2}   options of a redis-py connection
    {"sentinels": [("host", 26379)], "master_name": "main",         options of the server,
     "sentinel_kwargs": {"password": "..."}}                        and of the sentinels
    {"address": "redis://host:6379", "cluster": True}               one node of a cluster

Several entries are several servers, among which channels and groups are divided.
"""

from __future__ import annotations

import asyncio
import binascii
import types
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, overload

from tiderace.layers.redis.options import (
    COMMAND_TIMEOUT,
    CONNECT_TIMEOUT,
    Host,
    Library,
    kind_of_connection,
    library,
    parameters_of,
    parsed,
    refuse_unknown,
    set_defaults,
)

if TYPE_CHECKING:
    import redis
    import redis.asyncio
    import redis.asyncio.cluster
    import redis.cluster

__all__ = [
    "COMMAND_TIMEOUT",
    "CONNECT_TIMEOUT",
    "Host",
    "consistent_hash",
    "create_client",
    "create_pool",
    "create_sync_pool",
    "database",
    "decode_hosts",
    "is_cluster",
    "make_connection",
    "startup_nodes",
]


# What CONFIG says


def decode_hosts(hosts: Iterable[Any] | None, *, cluster: bool = False) -> list[Host]:
    """The entries of ``hosts``, each as a dict.

    Args:
        hosts: see the module; None or empty is the server on this machine.
        cluster: all of them are nodes of one cluster: returned as one entry.

    Raises:
        ValueError: for a string instead of a list, and for nodes of one cluster that
            are to be reached with different options.
    """
    if not hosts:
        decoded: list[Host] = [{"address": "redis://localhost:6379"}]
    elif isinstance(hosts, str | bytes):
        raise ValueError(
            "You must pass a list of Redis hosts, even if there is only one."
        )
    else:
        decoded = [_decode(entry) for entry in hosts]
    return [_one_cluster(decoded)] if cluster else decoded


def _decode(entry: Any) -> Host:
    if isinstance(entry, dict):
        return entry
    if isinstance(entry, tuple | list):
        return {"host": entry[0], "port": entry[1]}
    return {"address": entry}


def _one_cluster(hosts: list[Host]) -> Host:
    nodes: list[tuple[str, int]] = []
    common: Host | None = None
    for host in hosts:
        nodes += startup_nodes(host)
        options = parsed(host, sync=False)
        for name in ("cluster", "startup_nodes", "host", "port"):
            options.pop(name, None)
        _drop_database(options)
        if common is not None and options != common:
            differing = sorted(
                name
                for name in {*options, *common}
                if options.get(name) != common.get(name)
            )
            raise ValueError(
                "hosts names nodes of one cluster with different options "
                f"({', '.join(differing)}); give all of them the same"
            )
        common = options
    return {**(common or {}), "startup_nodes": nodes, "cluster": True}


def is_cluster(host: Host) -> bool:
    """Whether this entry names a node of a cluster."""
    return bool(host.get("cluster"))


def database(host: Host) -> int:
    """The number of the database that this entry names.

    Raises:
        TypeError, ValueError: as ``create_pool``, since it looks at all of the entry.
    """
    if is_cluster(host):
        _cluster_options(host, sync=False, timeout=COMMAND_TIMEOUT)
        return 0
    return int(create_pool(host).connection_kwargs.get("db") or 0)


# Which server is responsible


def consistent_hash(value: str | bytes, ring_size: int) -> int:
    """Which of ``ring_size`` servers is responsible for a name: 0 to ``ring_size`` - 1.

    The same everywhere and at all times, and the same as in channels_redis.
    """
    if ring_size == 1:
        return 0
    data = value.encode() if isinstance(value, str) else value
    place = binascii.crc32(data) & 0xFFF
    return int(place / (4096 / ring_size))


# Pools and clients


def create_pool(
    host: Host, *, timeout: float = COMMAND_TIMEOUT
) -> redis.asyncio.ConnectionPool:
    """A pool of asyncio connections to a server or to what its sentinels say.

    It connects at the first command and belongs to the event loop of that. It does not
    try again by itself what failed. An entry's own ``socket_timeout``,
    ``socket_connect_timeout``, ``protocol`` and ``max_connections`` go before ours.

    Args:
        host: a decoded entry of ``hosts`` that is no cluster; not changed.
        timeout: seconds a command may take, and to connect if that is less than
            ``CONNECT_TIMEOUT``.

    Raises:
        TypeError: for an option that does not exist, with the nearest that does.
        ValueError: for a URL or a combination of options that names no server.
        ImportError: without the package ``redis``.
    """
    pool: redis.asyncio.ConnectionPool = _pool(host, sync=False, timeout=timeout)
    return pool


def create_sync_pool(
    host: Host, *, timeout: float = COMMAND_TIMEOUT
) -> redis.ConnectionPool:
    """The same for blocking connections; may be used by threads, and after a fork.

    Raises:
        TypeError, ValueError, ImportError: as ``create_pool``.
    """
    pool: redis.ConnectionPool = _pool(host, sync=True, timeout=timeout)
    return pool


@overload
def create_client(
    host: Host, *, sync: Literal[False] = False, timeout: float = COMMAND_TIMEOUT
) -> redis.asyncio.Redis | redis.asyncio.cluster.RedisCluster: ...


@overload
def create_client(
    host: Host, *, sync: Literal[True], timeout: float = COMMAND_TIMEOUT
) -> redis.Redis | redis.cluster.RedisCluster: ...


def create_client(
    host: Host, *, sync: bool = False, timeout: float = COMMAND_TIMEOUT
) -> Any:
    """The client of redis-py for an entry: standalone, through Sentinel, or Cluster.

    A blocking client for a cluster connects at once, all others at their first command.
    Closing the client closes its connections.

    Raises:
        TypeError, ValueError, ImportError: as ``create_pool``.
    """
    parts = library(sync=sync)
    if is_cluster(host):
        return parts.cluster.RedisCluster(
            **_cluster_options(host, sync=sync, timeout=timeout)
        )
    return parts.client.from_pool(_pool(host, sync=sync, timeout=timeout))


def make_connection(
    host: Host,
    *,
    timeout: float = COMMAND_TIMEOUT,
    address: tuple[str, int] | None = None,
) -> Any:
    """One asyncio connection of redis-py that is not open yet: ``await .connect()``.

    Args:
        host: a decoded entry of ``hosts``.
        timeout: as in ``create_pool``.
        address: host and port of one node of a cluster; by default the first that the
            entry names.

    Raises:
        TypeError, ValueError, ImportError: as ``create_pool``.
    """
    if is_cluster(host):
        host = _node(host, address or startup_nodes(host)[0])
    pool: Any = create_pool(host, timeout=timeout)
    connection = pool.make_connection()
    if hasattr(connection, "connection_pool"):
        # Through Sentinel it asks its pool where to go, and has but a weak reference.
        connection.connection_pool = pool
    return connection


def _node(host: Host, address: tuple[str, int]) -> Host:
    """The entry for one node of a cluster, without what is for the whole of it."""
    connection = library(sync=False).connection
    known = parameters_of(connection.SSLConnection) | {"ssl", "connection_class"}
    options = {
        name: value for name, value in parsed(host, sync=False).items() if name in known
    }
    return {**options, "host": address[0], "port": address[1]}


async def _close_redis(connection: Any) -> None:
    """Close a client of redis-py together with its pool."""
    try:
        await connection.aclose(close_connection_pool=True)
    except TypeError:  # a cluster's client has pools of its own, and no argument
        await connection.aclose()


def _wrap_close(proxy: Any, loop: asyncio.AbstractEventLoop) -> None:
    """Let ``loop.close()`` first flush the layer that ``proxy._layers`` has for it."""
    original = loop.close

    def close(self: asyncio.AbstractEventLoop) -> None:
        self.close = original  # type: ignore[method-assign]
        layer = proxy._layers.pop(self, None)  # noqa: SLF001
        if layer is not None:
            self.run_until_complete(layer.flush())
        self.close()

    loop.close = types.MethodType(close, loop)  # type: ignore[method-assign]


# The name under which suites of channels_redis look for it.
_consistent_hash = consistent_hash


# How redis-py is called

# redis-py 8 refuses the 101st connection of a pool, older ones none; how many commands
# run at once is bounded by those who send them.
_UNLIMITED = 2**31


def _pool(host: Host, *, sync: bool, timeout: float) -> Any:
    parts = library(sync=sync)
    options = parsed(host, sync=sync)
    if is_cluster(host):
        raise ValueError(
            "a cluster has no pool of its own; use create_client() for its client"
        )
    if "master_name" in options or "sentinels" in options:
        return _sentinel_pool(options, parts, timeout)
    connection_class = kind_of_connection(options, parts.connection)
    pool_class = parts.connection.ConnectionPool
    refuse_unknown(options, [connection_class, pool_class], {"address"})
    set_defaults(options, connection_class, timeout)
    options.setdefault("max_connections", _UNLIMITED)
    return pool_class(connection_class=connection_class, **options)


def _sentinel_pool(options: Host, parts: Library, timeout: float) -> Any:
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
    module = parts.sentinel
    connection_class = options.get("connection_class") or (
        module.SentinelManagedSSLConnection
        if options.get("ssl")
        else module.SentinelManagedConnection
    )
    pool_class = module.SentinelConnectionPool
    of_sentinels = dict(options.pop("sentinel_kwargs", None) or {})
    refuse_unknown(options, [connection_class, pool_class], _OF_SENTINELS)
    refuse_unknown(of_sentinels, [parts.client], set())
    set_defaults(options, connection_class, timeout)
    options.setdefault("max_connections", _UNLIMITED)
    # The next sentinel is asked at once, so a dead one must not cost a command's time.
    set_defaults(of_sentinels, connection_class, min(timeout, CONNECT_TIMEOUT))
    of_sentinels.setdefault("retry", _no_retry(parts))
    return pool_class(
        name,
        _asker(module, sync=parts.sync)(
            [tuple(address) for address in addresses], sentinel_kwargs=of_sentinels
        ),
        **options,
    )


def _asker(module: Any, *, sync: bool) -> Any:
    """A Sentinel client that asks for the address, and keeps no connection.

    redis-py reads the list of primaries instead, which names the old one until all
    replicas follow the new one.
    """
    from redis import exceptions

    unreachable = (exceptions.ConnectionError, exceptions.TimeoutError)

    class Blocking(module.Sentinel):  # type: ignore[misc]
        def discover_master(self, service_name: str) -> Any:
            answers = []
            for client in self.sentinels:
                try:
                    address = client.execute_command(*_QUESTION, service_name)
                except unreachable as error:
                    answers.append(str(error))
                else:
                    if address:
                        return _text(address[0]), int(address[1])
                    answers.append("has no such primary")
                finally:
                    client.connection_pool.disconnect(inuse_connections=False)
            raise module.MasterNotFoundError(_nobody_knows(service_name, answers))

    class Asyncio(module.Sentinel):  # type: ignore[misc]
        async def discover_master(self, service_name: str) -> Any:
            answers = []
            for client in self.sentinels:
                # Closing a pool waits, and who is cancelled then leaves it open.
                connection = client.connection_pool.make_connection()
                address = None
                try:
                    await connection.connect()
                    await connection.send_command(*_QUESTION, service_name)
                    address = await connection.read_response()
                    answers.append("has no such primary")
                except unreachable as error:
                    answers.append(str(error))
                except (asyncio.CancelledError, exceptions.RedisError):
                    await connection.disconnect(nowait=True)
                    raise
                # Not in a finally clause: when all is thrown away nothing is awaited.
                await connection.disconnect(nowait=True)
                if address:
                    return _text(address[0]), int(address[1])
            raise module.MasterNotFoundError(_nobody_knows(service_name, answers))

    return Blocking if sync else Asyncio


# Not redis-py's method for it, which in 6.x fails in asyncio.
_QUESTION = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME")


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _nobody_knows(name: str, answers: list[str]) -> str:
    return (
        f"no sentinel knows the primary {name!r}; they say: {'; '.join(answers)}. Compare "
        "master_name, sentinels and sentinel_kwargs in hosts with the sentinels' "
        "configuration"
    )


def _cluster_options(host: Host, *, sync: bool, timeout: float) -> Host:
    parts = library(sync=sync)
    options = parsed(host, sync=sync)
    connection_class = options.pop("connection_class", None)
    if connection_class is parts.connection.SSLConnection:
        options["ssl"] = True
    _drop_database(options)
    # The blocking client forgets what it does not know, so both are held to one list.
    refuse_unknown(options, [library(sync=False).cluster.RedisCluster], _OF_CLUSTERS)
    for name in _OF_CLUSTERS | {"host", "port"}:
        options.pop(name, None)
    set_defaults(options, parts.connection.Connection, timeout)
    options.setdefault("max_connections", _UNLIMITED)
    if "retry" not in options:
        options |= _no_cluster_retry(parts)
    options["startup_nodes"] = [
        parts.cluster.ClusterNode(name, int(port)) for name, port in startup_nodes(host)
    ]
    return options


_OF_CLUSTERS = {"address", "cluster", "startup_nodes"}
_OF_SENTINELS = {"address", "master_name", "sentinels", "sentinel_kwargs", "ssl"}


def _drop_database(options: Host) -> None:
    number = options.pop("db", 0)
    if int(number or 0) != 0:
        raise ValueError(
            f"hosts names database {number} of a cluster, which has but number 0; "
            "leave it out, and use the layer's prefix to keep applications apart"
        )


def startup_nodes(host: Host) -> list[tuple[str, int]]:
    """The nodes of a cluster that this entry names: host and port of each."""
    options = parsed(host, sync=False)
    nodes = [tuple(node) for node in options.get("startup_nodes") or ()]
    if "host" in options or not nodes:
        nodes.append((options.get("host", "localhost"), options.get("port", 6379)))
    return nodes


def _no_retry(parts: Library) -> Any:
    from redis.backoff import NoBackoff

    return parts.retry(NoBackoff(), 0)


def _no_cluster_retry(parts: Library) -> Host:
    # Whoever sends a command knows whether it may be sent twice. Redirections are
    # followed all the same.
    import redis

    if int(redis.__version__.partition(".")[0]) >= 6:
        return {"retry": _no_retry(parts)}
    # With none, a pipeline of redis-py 5 is not even tried.
    return {"cluster_error_retry_attempts": 1}
