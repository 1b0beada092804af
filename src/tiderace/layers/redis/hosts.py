"""The option ``hosts`` of a layer: its formats, and redis-py's pools and clients for it.

An entry of ``hosts`` is one of::

    "redis://user:password@host:6379/0"       also rediss://, unix://, valkey://, valkeys://
    ("host", 6379)
    {"address": "rediss://host:6379", "ssl_ca_certs": "ca.pem"}     a URL and options
    {"host": "host", "port": 6379, "db": 2}   options of a redis-py connection
    {"sentinels": [("host", 26379)], "master_name": "main",         options of the server,
     "sentinel_kwargs": {"password": "..."}}                        and of the sentinels
    {"address": "redis://host:6379", "cluster": True}               one node of a cluster

Several entries are several servers, over which channels and groups are distributed.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable
from typing import Any

from tiderace.layers.redis.options import (
    COMMAND_TIMEOUT,
    UNLIMITED_CONNECTIONS,
    Host,
    RedisPy,
    expand_address,
    import_redis_py,
    keyword_parameters,
    pop_connection_class,
    refuse_unknown,
    set_defaults,
)
from tiderace.layers.redis.sentinel import create_sentinel_pool, no_retry


def decode_hosts(hosts: Iterable[Any] | None, *, cluster: bool = False) -> list[Host]:
    """Return the entries of ``hosts``, each as a dict.

    Args:
        hosts: in the formats above; None or empty is the server on this machine.
        cluster: whether all are nodes of one cluster; they become one entry.

    Raises:
        ValueError: for a string instead of a list, and for nodes of one cluster with
            different options.
    """
    if not hosts:
        decoded: list[Host] = [{"address": "redis://localhost:6379"}]
    elif isinstance(hosts, str | bytes):
        raise ValueError(
            "You must pass a list of Redis hosts, even if there is only one."
        )
    else:
        decoded = [_decode(entry) for entry in hosts]
    return [_merge_nodes(decoded)] if cluster else decoded


def _decode(entry: Any) -> Host:
    if isinstance(entry, dict):
        return entry
    if isinstance(entry, tuple | list):
        return {"host": entry[0], "port": entry[1]}
    return {"address": entry}


def _merge_nodes(hosts: list[Host]) -> Host:
    nodes: list[tuple[str, int]] = []
    common: Host | None = None
    for host in hosts:
        nodes += startup_nodes(host)
        options = expand_address(host, sync=False)
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
    """Return whether an entry names nodes of a cluster."""
    return bool(host.get("cluster"))


def database(host: Host) -> int:
    """Return the number of an entry's database.

    Raises:
        TypeError, ValueError: as ``create_pool``, since the whole entry is checked.
    """
    if is_cluster(host):
        _cluster_options(host, sync=False, timeout=COMMAND_TIMEOUT)
        return 0
    return int(create_pool(host).connection_kwargs.get("db") or 0)


def consistent_hash(value: str | bytes, ring_size: int) -> int:
    """Return the index of the server for a name: 0 to ``ring_size`` - 1.

    The same in all processes and versions, and the same as in channels_redis.
    """
    if ring_size == 1:
        return 0
    data = value.encode() if isinstance(value, str) else value
    place = binascii.crc32(data) & 0xFFF
    return int(place / (4096 / ring_size))


def create_client(
    host: Host, *, sync: bool = False, timeout: float = COMMAND_TIMEOUT
) -> Any:
    """Return redis-py's client for an entry: standalone, Sentinel or Cluster.

    A blocking client of a cluster connects at once, others at their first command.
    Closing the client closes its connections.

    Raises:
        TypeError, ValueError, ImportError: as ``create_pool``.
    """
    redis_py = import_redis_py(sync=sync)
    if is_cluster(host):
        return redis_py.cluster.RedisCluster(
            **_cluster_options(host, sync=sync, timeout=timeout)
        )
    return redis_py.client.from_pool(create_pool(host, sync=sync, timeout=timeout))


def make_connection(
    host: Host,
    *,
    timeout: float = COMMAND_TIMEOUT,
    address: tuple[str, int] | None = None,
) -> Any:
    """Return an asyncio connection of redis-py that is not open yet.

    Args:
        host: a decoded entry of ``hosts``.
        timeout: as in ``create_pool``.
        address: host and port of a cluster's node; by default the entry's first.

    Raises:
        TypeError, ValueError, ImportError: as ``create_pool``.
    """
    if is_cluster(host):
        host = _node_host(host, address or startup_nodes(host)[0])
    pool = create_pool(host, timeout=timeout)
    connection = pool.make_connection()
    if hasattr(connection, "connection_pool"):
        # A Sentinel connection gets the address from its pool, by a weak reference.
        connection.connection_pool = pool
    return connection


def _node_host(host: Host, address: tuple[str, int]) -> Host:
    """Return the entry for one node, without the options of the cluster's client."""
    connection = import_redis_py(sync=False).connection
    known = keyword_parameters(connection.SSLConnection) | {"ssl", "connection_class"}
    options = {
        name: value
        for name, value in expand_address(host, sync=False).items()
        if name in known
    }
    return {**options, "host": address[0], "port": address[1]}


def create_pool(
    host: Host, *, sync: bool = False, timeout: float = COMMAND_TIMEOUT
) -> Any:
    """Return redis-py's pool of connections to a server, or to a primary of Sentinel.

    It connects at the first command; asyncio connections belong to that event loop then,
    blocking ones to any thread. It does not retry. An entry's own ``socket_timeout``,
    ``socket_connect_timeout``, ``protocol`` and ``max_connections`` replace our defaults.

    Args:
        host: a decoded entry of ``hosts``, not of a cluster; not changed.
        sync: whether the connections are blocking.
        timeout: seconds a command may take, and to connect if that is less than
            ``CONNECT_TIMEOUT``.

    Raises:
        TypeError: for an unknown option, with the nearest known one.
        ValueError: for an invalid URL or combination of options.
        ImportError: without the package ``redis``.
    """
    redis_py = import_redis_py(sync=sync)
    options = expand_address(host, sync=sync)
    if is_cluster(host):
        raise ValueError(
            "a cluster has no pool of its own; use create_client() for its client"
        )
    if "master_name" in options or "sentinels" in options:
        return create_sentinel_pool(options, redis_py, timeout)
    connection_class = pop_connection_class(options, redis_py.connection)
    pool_class = redis_py.connection.ConnectionPool
    refuse_unknown(options, [connection_class, pool_class], {"address"})
    set_defaults(options, connection_class, timeout)
    options.setdefault("max_connections", UNLIMITED_CONNECTIONS)
    return pool_class(connection_class=connection_class, **options)


def _cluster_options(host: Host, *, sync: bool, timeout: float) -> Host:
    redis_py = import_redis_py(sync=sync)
    options = expand_address(host, sync=sync)
    connection_class = options.pop("connection_class", None)
    if connection_class is redis_py.connection.SSLConnection:
        options["ssl"] = True
    _drop_database(options)
    # The blocking client ignores unknown options, so the asyncio client's are checked.
    client_class = import_redis_py(sync=False).cluster.RedisCluster
    refuse_unknown(options, [client_class], _CLUSTER_OPTIONS)
    for name in _CLUSTER_OPTIONS | {"host", "port"}:
        options.pop(name, None)
    set_defaults(options, redis_py.connection.Connection, timeout)
    options.setdefault("max_connections", UNLIMITED_CONNECTIONS)
    if "retry" not in options:
        options |= _no_cluster_retry(redis_py)
    options["startup_nodes"] = [
        redis_py.cluster.ClusterNode(name, int(port))
        for name, port in startup_nodes(host)
    ]
    return options


_CLUSTER_OPTIONS = {"address", "cluster", "startup_nodes"}


def _drop_database(options: Host) -> None:
    number = options.pop("db", 0)
    if int(number or 0) != 0:
        raise ValueError(
            f"hosts names database {number} of a cluster, which has only number 0; "
            "leave it out, and use the layer's prefix to keep applications apart"
        )


def startup_nodes(host: Host) -> list[tuple[str, int]]:
    """Return host and port of each node of a cluster that an entry names."""
    options = expand_address(host, sync=False)
    nodes = [tuple(node) for node in options.get("startup_nodes") or ()]
    if "host" in options or not nodes:
        nodes.append((options.get("host", "localhost"), options.get("port", 6379)))
    return nodes


def _no_cluster_retry(redis_py: RedisPy) -> Host:
    # The caller retries, as not every command may be sent twice. Redirections are followed
    # without it.
    import redis

    if int(redis.__version__.partition(".")[0]) >= 6:
        return {"retry": no_retry(redis_py)}
    # With 0, a pipeline of redis-py 5 is not even tried once.
    return {"cluster_error_retry_attempts": 1}
