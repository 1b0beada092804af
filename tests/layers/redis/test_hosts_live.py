"""The formats of ``hosts`` with real servers."""

from __future__ import annotations

import asyncio
import gc

import pytest
import redis

from support.servers.brokers import HOST, Cluster, SentinelSetup, Server, TlsFront
from tiderace.compat.channels_redis.utils import _close_redis
from tiderace.exceptions import LayerAccessDenied
from tiderace.layers.redis import RedisChannelLayer
from tiderace.layers.redis.hosts import (
    create_client,
    decode_hosts,
    make_connection,
)


@pytest.fixture(scope="module")
def guarded():
    """A server with a password, another user and a unix socket."""
    with Server(password="p@ss", user=("chat", "s3cret/?"), unix_socket=True) as server:
        yield server


@pytest.fixture(scope="module")
def secured(guarded):
    with TlsFront(guarded) as front:
        yield front


ENTRIES = {
    "password in the URL": lambda s: f"redis://:p%40ss@{HOST}:{s.port}/1",
    "user in the URL": lambda s: f"valkey://chat:s3cret%2F%3F@{HOST}:{s.port}",
    "password as an option": lambda s: {
        "address": f"redis://{HOST}:{s.port}",
        "password": "p@ss",
    },
    "all options": lambda s: {
        "host": HOST,
        "port": s.port,
        "username": "chat",
        "password": "s3cret/?",
    },
    "unix socket": lambda s: f"unix://:p%40ss@{s.socket}?db=2",
    "unix socket as an option": lambda s: {"path": str(s.socket), "password": "p@ss"},
}


async def whoami(entry):
    """Return the user at the server, from an asyncio and a blocking client."""
    [host] = decode_hosts([entry])
    client = create_client(host)
    try:
        name = await client.execute_command("ACL", "WHOAMI")
    finally:
        await _close_redis(client)
    with create_client(host, sync=True) as blocking:
        assert blocking.execute_command("ACL", "WHOAMI") == name
    connection = make_connection(host)
    await connection.connect()
    await connection.disconnect()
    return name.decode() if isinstance(name, bytes) else name


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
async def test_a_server_with_a_password_is_reached(guarded, entry):
    named = entry(guarded)

    user = "chat" if "chat" in str(named) else "default"
    assert await whoami(named) == user


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
async def test_a_tls_server_is_reached_with_its_certificate_authority(secured, scheme):
    url = secured.url.replace("rediss://", f"{scheme}://:p%40ss@")

    assert await whoami({"address": url, "ssl_ca_certs": str(secured.ca)}) == "default"


async def test_a_tls_server_of_an_unknown_authority_is_refused(secured):
    client = create_client({"address": secured.url, "password": "p@ss"})

    with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        await client.ping()
    await _close_redis(client)


async def test_a_command_times_out(own_server):
    host = {"address": own_server.url}
    client = create_client(host, timeout=0.2)
    await client.ping()

    own_server.pause()
    try:
        with pytest.raises(redis.TimeoutError):
            await client.ping()
        with (
            create_client(host, sync=True, timeout=0.2) as blocking,
            pytest.raises(redis.TimeoutError),
        ):
            blocking.ping()
    finally:
        own_server.resume()
    await _close_redis(client)


async def test_closing_a_client_closes_its_connections(own_server):
    client = create_client({"address": own_server.url})
    await client.set("a", 1)

    await _close_redis(client)

    assert b"cmd=set" not in own_server.call("CLIENT", "LIST")


# Sentinel


async def test_the_primary_is_found_through_its_sentinels(sentinel):
    client = create_client(sentinel.host)
    await client.set("found", "yes")
    await _close_redis(client)

    assert sentinel.primary().call("GET", "found") == b"yes"
    with create_client(sentinel.host, sync=True) as blocking:
        assert blocking.get("found") == b"yes"


async def test_no_connection_to_a_sentinel_stays_open(sentinel):
    connection = make_connection(sentinel.host)

    await connection.connect()

    assert (connection.host, connection.port) == (HOST, sentinel.primary().port)
    await connection.send_command("PING")
    assert await connection.read_response() == b"PONG"
    await connection.disconnect()
    del connection
    gc.collect()  # an open connection to a sentinel would complain here


async def test_a_cancelled_query_leaves_no_connection_to_a_sentinel(sentinel, recwarn):
    for turns in range(60):
        connection = make_connection(sentinel.host)
        opening = asyncio.create_task(connection.connect())
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        await connection.disconnect()
    del connection, opening
    gc.collect()

    assert [str(each.message) for each in recwarn] == []


async def test_a_dead_sentinel_is_skipped_at_once(sentinel, own_server):
    own_server.pause()
    host = {**sentinel.host}
    host["sentinels"] = [(HOST, own_server.port), *host["sentinels"]]
    client = create_client(host, timeout=0.3)
    try:
        assert await client.ping()
    finally:
        own_server.resume()
        await _close_redis(client)


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"master_name": "other"}, "has no such primary"),
        ({"sentinel_kwargs": {"password": "wrong"}}, "invalid username-password"),
    ],
)
async def test_the_error_of_a_failed_query_contains_the_sentinels_replies(
    sentinel, change, answer
):
    host = {**sentinel.host, **change}
    client = create_client(host)

    with pytest.raises(redis.ConnectionError, match=f"no sentinel has.*{answer}"):
        await client.ping()
    with (
        create_client(host, sync=True) as blocking,
        pytest.raises(redis.ConnectionError, match=f"no sentinel has.*{answer}"),
    ):
        blocking.ping()
    await _close_redis(client)


@pytest.mark.parametrize(
    "change", [{"password": "wrong"}, {"sentinel_kwargs": {"password": "wrong"}}]
)
async def test_a_wrong_password_is_an_error_at_once(sentinel, change):
    layer = RedisChannelLayer(hosts=[sentinel.host | change], publish_timeout=60)

    async with asyncio.timeout(20):
        with pytest.raises(LayerAccessDenied):
            await layer.group_send("room", {"type": "said"})
        with pytest.raises(LayerAccessDenied):
            await asyncio.to_thread(layer.sync.group_send, "room", {"type": "said"})

    await layer.close()


async def test_a_wrong_password_of_a_cluster_is_an_error_at_once(cluster):
    host = cluster.host | {"password": "wrong"}
    layer = RedisChannelLayer(hosts=[host], publish_timeout=60)

    async with asyncio.timeout(20):
        with pytest.raises(LayerAccessDenied):
            await layer.group_send("room", {"type": "said"})

    await layer.close()


async def test_after_a_failover_the_same_client_reaches_the_new_primary(own_sentinel):
    client = create_client(own_sentinel.host)
    await client.ping()

    own_sentinel.fail_over()

    with pytest.raises(redis.ConnectionError):
        await client.set("before", 1)  # the kept connection is dead, and says so
    assert await client.set("after", 1)
    await _close_redis(client)


async def test_servers_behind_sentinel_may_have_another_password():
    with SentinelSetup(replicas=0, server_password="inner") as setup:
        client = create_client({**setup.host, "db": 3})
        await client.set("a", 1)
        await _close_redis(client)

        assert setup.primary().call("GET", "a", db=3) == b"1"


# Cluster


async def test_all_nodes_of_a_cluster_are_reached_through_one(cluster):
    client = create_client(cluster.host)
    for number in range(20):
        await client.set(f"key-{number}", number)
    await _close_redis(client)

    assert all(node.keys() for node in cluster.nodes)
    with create_client(cluster.host, sync=True) as blocking:
        assert blocking.get("key-7") == b"7"


async def test_a_connection_can_be_made_to_each_node_of_a_cluster(cluster):
    for node in cluster.nodes:
        connection = make_connection(cluster.host, address=(HOST, node.port))
        await connection.connect()
        await connection.send_command("CLUSTER", "MYID")
        assert await connection.read_response() == node.call("CLUSTER", "MYID")
        await connection.disconnect()


async def test_hosts_may_list_every_node_of_a_cluster_with_a_password():
    with Cluster(password="pw") as cluster:
        dead = "redis://:pw@127.0.0.1:1"
        urls = [dead, *(node.url for node in cluster.nodes)]
        [host] = decode_hosts(urls, cluster=True)
        client = create_client(host)
        await client.set("a", 1)
        await _close_redis(client)

        assert cluster.keys() == {"a"}
