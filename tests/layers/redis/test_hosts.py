"""The formats of ``hosts`` and redis-py's pools and clients for them, without a server."""

from __future__ import annotations

import asyncio
import builtins

import pytest
import redis
import redis.asyncio as redis_asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tiderace.compat.channels_redis import utils
from tiderace.layers.redis.hosts import (
    consistent_hash,
    create_client,
    create_pool,
    database,
    decode_hosts,
    is_cluster,
    make_connection,
)


def create_sync_pool(host, **options):
    return create_pool(host, sync=True, **options)


POOLS = pytest.mark.parametrize("create", [create_pool, create_sync_pool])


# What CONFIG says


@pytest.mark.parametrize("nothing", [None, [], ()])
def test_without_hosts_the_server_on_this_machine_is_used(nothing):
    assert decode_hosts(nothing) == [{"address": "redis://localhost:6379"}]


@pytest.mark.parametrize("value", ["redis://localhost", b"redis://localhost"])
def test_a_string_instead_of_a_list_is_refused(value):
    with pytest.raises(
        ValueError,
        match=r"^You must pass a list of Redis hosts, even if there is only one\.$",
    ):
        decode_hosts(value)


def test_every_kind_of_entry_becomes_a_dict():
    as_is = {"host": "c", "db": 3}

    decoded = decode_hosts(
        ["redis://a:1/2", ("b", 2), ["b", 3, "left out"], as_is, "unix:///s"]
    )

    assert decoded == [
        {"address": "redis://a:1/2"},
        {"host": "b", "port": 2},
        {"host": "b", "port": 3},
        as_is,
        {"address": "unix:///s"},
    ]
    assert decoded[3] is as_is


def test_hosts_of_one_cluster_become_one_entry():
    nodes = ["redis://:pw@a:1", {"address": "valkey://:pw@b:2"}]

    [host] = decode_hosts(nodes, cluster=True)

    assert host == {
        "startup_nodes": [("a", 1), ("b", 2)],
        "password": "pw",
        "cluster": True,
    }
    assert is_cluster(host)


def test_without_hosts_a_cluster_has_the_node_on_this_machine():
    [host] = decode_hosts(None, cluster=True)

    assert host == {"startup_nodes": [("localhost", 6379)], "cluster": True}


def test_the_nodes_of_all_entries_are_merged():
    named = {"startup_nodes": [["a", 1], ["b", 2]], "cluster": True}

    [host] = decode_hosts([named, ("c", 3)], cluster=True)

    assert host["startup_nodes"] == [("a", 1), ("b", 2), ("c", 3)]


def test_nodes_of_one_cluster_with_different_options_are_refused_without_secrets():
    nodes = ["redis://:secret@a", "redis://:other@b"]

    with pytest.raises(ValueError, match=r"different options \(password\)") as caught:
        decode_hosts(nodes, cluster=True)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "number"),
    [
        ({"address": "redis://localhost:6379"}, 0),
        ({"address": "redis://localhost:6379/4"}, 4),
        ({"address": "redis://localhost", "db": 5}, 5),
        ({"address": "unix:///tmp/socket?db=6"}, 6),
        ({"host": "localhost", "port": 6379, "db": "7"}, 7),
        ({"sentinels": [("a", 1)], "master_name": "main", "db": 8}, 8),
        ({"address": "redis://localhost", "cluster": True}, 0),
    ],
)
def test_the_database_is_read_from_a_url_or_an_option(host, number):
    assert database(host) == number


# Which server is responsible


@pytest.mark.parametrize(
    ("value", "ring_size", "expected"),
    [
        ("key_one", 1, 0),
        ("key_one", 2, 1),
        ("key_two", 2, 0),
        ("key_one", 10, 6),
        (b"key_two", 10, 4),
    ],
)
def test_consistent_hash_returns_what_channels_redis_does(value, ring_size, expected):
    assert consistent_hash(value, ring_size) == expected
    assert utils._consistent_hash(value, ring_size) == expected


@pytest.mark.parametrize("ring_size", [2, 3, 7])
def test_every_server_gets_a_fair_share_of_names(ring_size):
    counts = [0] * ring_size
    for number in range(3000):
        counts[consistent_hash(f"room.{number}", ring_size)] += 1

    assert min(counts) > 3000 / ring_size * 0.8


# Pools


@POOLS
@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_a_url_may_have_a_user_and_a_password(create, scheme):
    pool = create({"address": f"{scheme}://user:p%40ss@server:1234/2"})

    wanted = {"username": "user", "password": "p@ss", "host": "server", "port": 1234}
    assert wanted.items() <= pool.connection_kwargs.items()
    assert pool.connection_kwargs["db"] == 2


@POOLS
@pytest.mark.parametrize(
    "host",
    [
        {"address": "rediss://server"},
        {"address": "valkeys://server"},
        {"address": "redis://server", "ssl": True},
        {"host": "server", "ssl": True},
        {"host": "server", "tls": True, "ssl": True},
    ][:4],
)
def test_tls_is_selected_by_scheme_or_option(create, host):
    assert create(host).connection_class.__name__ == "SSLConnection"


@POOLS
@pytest.mark.parametrize(
    "host", [{"address": "unix:///tmp/socket?db=1"}, {"path": "/tmp/socket", "db": 1}]
)
def test_a_unix_socket_is_selected_by_url_or_option(create, host):
    pool = create(host)

    assert pool.connection_class.__name__ == "UnixDomainSocketConnection"
    assert pool.connection_kwargs["path"] == "/tmp/socket"
    pool.make_connection()


@POOLS
def test_a_pool_does_not_change_its_entry(create):
    host = {
        "sentinels": [("a", 1)],
        "master_name": "main",
        "sentinel_kwargs": {"password": "x"},
    }
    before = {**host, "sentinel_kwargs": {**host["sentinel_kwargs"]}}

    create(host)

    assert host == before


@POOLS
@pytest.mark.parametrize(
    ("timeout", "command", "connect"), [(5.0, 5.0, 2.0), (1.5, 1.5, 1.5)]
)
def test_timeouts_do_not_depend_on_the_version_of_redis_py(
    create, timeout, command, connect
):
    options = create({"host": "server"}, timeout=timeout).connection_kwargs

    assert options["socket_timeout"] == command
    assert options["socket_connect_timeout"] == connect


@POOLS
def test_options_of_an_entry_replace_the_defaults(create):
    pool = create(
        {
            "address": "redis://server?socket_connect_timeout=9",
            "socket_timeout": None,
            "protocol": 3,
            "max_connections": 7,
        }
    )

    options = pool.connection_kwargs
    assert options["socket_timeout"] is None
    assert options["socket_connect_timeout"] == 9
    assert options["protocol"] == 3
    assert pool.max_connections == 7


@POOLS
def test_the_connections_of_a_pool_are_not_limited(create):
    """redis-py 8 refuses the 101st concurrent command by default, older versions none."""
    assert create({"host": "server"}).max_connections > 100_000


@POOLS
def test_a_sentinel_pool_has_separate_options_for_the_sentinels(create):
    pool = create(
        {
            "sentinels": [("one", 26379), ["two", 26380]],
            "master_name": "main",
            "sentinel_kwargs": {"password": "guards"},
            "password": "servers",
            "db": 3,
        }
    )

    assert pool.service_name == "main"
    assert pool.is_master
    assert pool.connection_kwargs["password"] == "servers"
    asked = [
        c.connection_pool.connection_kwargs for c in pool.sentinel_manager.sentinels
    ]
    assert [(o["host"], o["port"]) for o in asked] == [("one", 26379), ("two", 26380)]
    assert {o["password"] for o in asked} == {"guards"}
    assert {o["socket_timeout"] for o in asked} == {2.0}


@POOLS
def test_a_sentinel_pool_can_use_tls(create):
    pool = create({"sentinels": [("a", 1)], "master_name": "main", "ssl": True})

    assert pool.connection_class.__name__ == "SentinelManagedSSLConnection"


@pytest.mark.parametrize(
    "host", [{"master_name": "main"}, {"sentinels": [("a", 1)], "host": "b"}]
)
def test_an_incomplete_sentinel_entry_is_refused(host):
    with pytest.raises(ValueError, match="Sentinel needs both"):
        create_pool(host)


# What is no option


@pytest.mark.parametrize(
    ("host", "hint"),
    [
        ({"host": "a", "pasword": "x"}, "'pasword'.*did you mean 'password'"),
        ({"address": "redis://a", "sokcet_timeout": 1}, "'socket_timeout'"),
        ({"address": "redis://a?pasword=x"}, "'password'"),
        ({"url": "redis://a"}, "did you mean 'address'"),
        ({"host": "a", "user": "x"}, "did you mean 'username'"),
        ({"host": "a", "unix_socket_path": "x"}, "did you mean 'path'"),
        (
            {"host": "a", "xyzzy": 1},
            "'xyzzy', which Connection of redis-py does not have",
        ),
        (
            {"sentinels": [("a", 1)], "service_name": "x", "master_name": "m"},
            "did you mean 'master_name'",
        ),
        (
            {
                "sentinels": [("a", 1)],
                "master_name": "m",
                "sentinel_kwargs": {"pasword": "x"},
            },
            "did you mean 'password'",
        ),
        ({"host": "a", "cluster": True, "nodes": []}, "did you mean 'startup_nodes'"),
        ({"host": "a", "cluster": True, "usernam": "x"}, "did you mean 'username'"),
    ],
)
@pytest.mark.parametrize("sync", [True, False])
def test_an_unknown_option_is_refused_with_the_nearest_known(host, hint, sync):
    with pytest.raises(TypeError, match=hint):
        create_client(host, sync=sync)


@pytest.mark.parametrize("address", ["localhost:6379", "user:secret@host", ""])
def test_an_address_without_a_scheme_is_refused_without_showing_it(address):
    with pytest.raises(ValueError, match="write redis://host:6379/0") as caught:
        create_pool({"address": address})

    assert "secret" not in str(caught.value)


def test_an_address_with_an_unknown_scheme_is_refused():
    with pytest.raises(ValueError, match="scheme"):
        create_pool({"address": "http://localhost"})


class Traced(redis_asyncio.Connection):
    """An application's connection class with an option of its own."""

    def __init__(self, *, trace=None, **kwargs):
        self.trace = trace
        super().__init__(**kwargs)


def test_an_applications_connection_class_takes_its_own_options():
    pool = create_pool({"host": "a", "connection_class": Traced, "trace": 1})

    assert pool.make_connection().trace == 1


def test_a_connection_class_for_asyncio_alone_is_refused_in_synchronous_code():
    with pytest.raises(
        TypeError, match=r"connection_class Traced, which is for asyncio"
    ):
        create_sync_pool({"host": "a", "connection_class": Traced})


def test_the_connection_classes_of_redis_py_have_blocking_counterparts():
    host = {"host": "a", "connection_class": redis_asyncio.SSLConnection}

    assert create_sync_pool(host).connection_class is redis.connection.SSLConnection


def test_a_blocking_connection_class_is_accepted():
    host = {"host": "a", "connection_class": redis.connection.Connection}

    assert create_sync_pool(host).connection_class is redis.connection.Connection


def test_an_asyncio_retry_is_left_out_of_blocking_pools():
    host = {"host": "a", "retry": Retry(NoBackoff(), 2)}

    assert "retry" not in create_sync_pool(host).connection_kwargs
    assert create_pool(host).connection_kwargs["retry"] is host["retry"]


# Clients and connections


def test_the_client_of_a_server_is_asyncio_or_blocking_as_requested():
    assert isinstance(create_client({"host": "a"}), redis_asyncio.Redis)
    assert isinstance(create_client({"host": "a"}, sync=True), redis.Redis)


def test_the_client_of_a_cluster_has_all_nodes_as_startup_nodes():
    host = {
        "address": "rediss://:pw@a:1",
        "startup_nodes": [("b", 2)],
        "cluster": True,
        "ssl_cert_reqs": "none",
    }

    client = create_client(host, timeout=3)

    assert isinstance(client, redis_asyncio.RedisCluster)
    started = client.nodes_manager.startup_nodes.values()
    nodes = {(node.host, node.port) for node in started}
    assert nodes == {("a", 1), ("b", 2)}
    options = client.connection_kwargs
    assert options["password"] == "pw"
    assert options["socket_timeout"] == 3
    assert options["connection_class"] is redis_asyncio.SSLConnection


def test_a_cluster_has_no_pool():
    with pytest.raises(ValueError, match=r"use create_client\(\)"):
        create_pool({"address": "redis://a", "cluster": True})


@pytest.mark.parametrize("sync", [True, False])
def test_a_database_of_a_cluster_is_refused(sync):
    with pytest.raises(ValueError, match="names database 2 of a cluster"):
        create_client({"address": "redis://a/2", "cluster": True}, sync=sync)


def test_a_connection_to_a_cluster_goes_to_the_given_node():
    host = {
        "address": "redis://:pw@a:1",
        "cluster": True,
        "require_full_coverage": False,
    }

    first = make_connection(host)
    other = make_connection(host, address=("b", 2))

    assert (first.host, first.port, first.password) == ("a", 1, "pw")
    assert (other.host, other.port, other.password) == ("b", 2, "pw")


@pytest.mark.parametrize("function", [create_pool, create_sync_pool, create_client])
def test_the_error_without_redis_py_contains_what_to_install(monkeypatch, function):
    real_import = builtins.__import__

    def without_redis(name, *args, **kwargs):
        if name.partition(".")[0] == "redis":
            raise ImportError("No module named 'redis'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_redis)

    with pytest.raises(ImportError, match=r'pip install "tiderace\[redis\]"'):
        function({"address": "redis://a"})
    # What needs no server needs no redis-py.
    assert decode_hosts(["redis://a"]) == [{"address": "redis://a"}]
    assert consistent_hash("key_two", 10) == 4


# The loop's end


def test_closing_a_loop_first_flushes_its_layer():
    loop, other = asyncio.new_event_loop(), asyncio.new_event_loop()
    flushed = []

    class Layer:
        async def flush(self):
            flushed.append(asyncio.get_running_loop())

    class Proxy:
        _layers = {loop: Layer(), other: Layer()}

    utils._wrap_close(Proxy, loop)
    loop.close()

    assert loop.is_closed()
    assert flushed == [loop]
    assert list(Proxy._layers) == [other]
    loop.close()
    other.close()


def test_closing_a_loop_without_a_layer_only_closes_it():
    loop = asyncio.new_event_loop()

    class Proxy:
        _layers: dict = {}

    utils._wrap_close(Proxy, loop)
    loop.close()

    assert loop.is_closed()
