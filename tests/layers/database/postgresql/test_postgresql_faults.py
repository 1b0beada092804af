"""The layer while PostgreSQL fails, restarts, refuses or is slow."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import time

import psycopg
import pytest
from django.db import connections
from psycopg.pq import TransactionStatus

from support.contracts.process_contract import KEEP, listen, publish
from support.servers.disks import mounted_disk
from support.servers.postgresql import PostgresServer, database_alias
from support.waiting import until, within
from tiderace.exceptions import LayerAccessDenied, LayerUnavailable, MessageTooLarge
from tiderace.layers.database.postgresql import errors, feed
from tiderace.layers.database.postgresql.connection import PostgresConnection
from tiderace.layers.database.postgresql.schema import TABLES


def said(*numbers):
    return [str(number) for number in numbers]


async def test_listeners_get_everything_once_and_in_order_while_connections_are_ended(
    own_postgresql, own_using, make_layer
):
    here, there = make_layer(own_using), make_layer(own_using)
    listeners = [await listen(here), await listen(there)]

    for number in range(100):
        if number % 20 == 10:
            await asyncio.to_thread(own_postgresql.terminate_backends)
        await publish(here if number % 2 else there, number)

    await until(lambda: all(len(each.received) >= 100 for each in listeners))
    assert listeners[0].data == listeners[1].data == said(*range(100))
    assert listeners[0].offsets == list(range(1, 101))


async def test_nothing_that_was_committed_is_lost_when_the_server_is_killed(
    own_postgresql, own_using, make_layer
):
    layer = make_layer(own_using, publish_timeout=20)
    listener = await listen(layer)
    await publish(layer, *range(3))

    await asyncio.to_thread(own_postgresql.restart)
    await publish(layer, *range(3, 6))

    await until(lambda: listener.data == said(*range(6)))
    _, found = await layer.stream_read("tide", keep=KEEP)
    assert [each.data for each in found] == said(*range(6))


async def test_no_offset_is_used_twice_after_a_server_that_may_lose_commits_restarts(
    own_postgresql, own_using, make_layer
):
    layer = make_layer(own_using, publish_timeout=20)
    await publish(layer, 0)

    await asyncio.to_thread(own_postgresql.restart)
    await publish(layer, 1)

    # The test server does not wait for its disk.
    end, found = await layer.stream_read("tide", keep=KEEP)
    assert end.offset > 1 << 20
    assert [each.data for each in found] == ["0", "1"]
    assert found[1].before == 1


async def test_publishing_to_a_server_that_is_down_raises_after_the_timeout(
    own_postgresql, own_using, make_layer
):
    layer = make_layer(own_using, publish_timeout=0.5)
    await publish(layer, 0)
    own_postgresql.kill()
    begun = time.monotonic()

    with pytest.raises(LayerUnavailable, match=r"0\.5 seconds"):
        await publish(layer, 1)

    assert time.monotonic() - begun < 2


async def test_a_publication_waits_for_a_server_that_is_starting(
    own_postgresql, own_using, make_layer
):
    layer = make_layer(own_using, publish_timeout=20)
    await publish(layer, 0)
    own_postgresql.kill()

    waiting = asyncio.create_task(publish(layer, 1))
    await asyncio.to_thread(own_postgresql.start)
    await within(waiting)

    _, found = await layer.stream_read("tide", keep=KEEP)
    assert [each.data for each in found] == ["0", "1"]


async def test_a_stopped_server_delays_no_call_beyond_the_timeout(
    own_postgresql, own_using, make_layer
):
    layer = make_layer(own_using, publish_timeout=0.5)
    listener = await listen(layer)
    await publish(layer, 0)
    own_postgresql.pause()
    try:
        with pytest.raises(LayerUnavailable):
            await within(publish(layer, 1), 3)
        with pytest.raises(LayerUnavailable):
            await within(layer.stream_read("tide", keep=KEEP), 3)
    finally:
        own_postgresql.resume()

    async def is_published():
        try:
            await publish(layer, 2)
        except LayerUnavailable:
            return False
        return True

    await until(is_published)
    await until(lambda: "2" in listener.data)


async def test_a_listening_connection_that_is_silently_dead_is_replaced(
    own_postgresql, own_using, make_layer, monkeypatch
):
    monkeypatch.setattr(feed, "_REPLY_TIMEOUT", 0.3)
    layer, other = make_layer(own_using), make_layer(own_using)
    listener = await listen(layer)
    await publish(other, 0)
    await until(lambda: listener.data == ["0"])
    ((pid,),) = own_postgresql.call(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'tiderace listen'"
    )

    os.kill(pid, signal.SIGSTOP)
    try:
        await publish(other, 1)

        await until(lambda: listener.data == ["0", "1"])
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_connection_that_breaks_while_a_poll_waits_is_replaced_at_once(
    own_postgresql, own_using, make_layer, monkeypatch
):
    monkeypatch.setattr(feed, "_REPLY_TIMEOUT", 60)
    layer, other = make_layer(own_using), make_layer(own_using)
    listener = await listen(layer)
    listening = "FROM pg_stat_activity WHERE application_name = 'tiderace listen'"
    ((pid,),) = own_postgresql.call(f"SELECT pid {listening}")
    connection = layer._brokers[0]._feed._connection.pgconn

    os.kill(pid, signal.SIGSTOP)
    try:
        await until(lambda: connection.transaction_status == TransactionStatus.ACTIVE)
        own_postgresql.call(f"SELECT pg_terminate_backend(pid) {listening}")
    finally:
        os.kill(pid, signal.SIGCONT)
    await publish(other, 0)

    await until(lambda: listener.data == ["0"])


@pytest.fixture
def site(own_postgresql):
    """The alias of the database for a user without special rights."""
    for statement in (
        TABLES,
        "CREATE ROLE site LOGIN",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO site",
        "GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO site",
    ):
        own_postgresql.call(statement)
    database = {**own_postgresql.database(), "USER": "site"}
    with database_alias("site", database) as name:
        yield name


async def test_a_user_needs_no_right_but_to_the_tables(site, make_layer):
    layer = make_layer(site)
    listener = await listen(layer)

    await publish(layer, 0)

    await until(lambda: listener.data == ["0"])


async def test_too_many_connections_are_waited_for(own_postgresql, site, make_layer):
    own_postgresql.call("ALTER ROLE site CONNECTION LIMIT 0")
    layer = make_layer(site, publish_timeout=20)

    waiting = asyncio.create_task(publish(layer, 0))
    await until(lambda: "too many connections" in own_postgresql.output())
    own_postgresql.call("ALTER ROLE site CONNECTION LIMIT 10")

    await within(waiting)


async def test_the_error_after_waiting_for_a_connection_has_the_servers_reason(
    own_postgresql, site, make_layer
):
    own_postgresql.call("ALTER ROLE site CONNECTION LIMIT 0")
    layer = make_layer(site, publish_timeout=0.5)

    with pytest.raises(LayerUnavailable, match="too many connections"):
        await publish(layer, 0)


async def test_a_database_that_becomes_read_only_is_waited_for(
    own_postgresql, site, make_layer
):
    layer = make_layer(site, publish_timeout=20)
    await publish(layer, 0)
    own_postgresql.call("ALTER ROLE site SET default_transaction_read_only = on")
    own_postgresql.terminate_backends()

    waiting = asyncio.create_task(publish(layer, 1))
    await until(lambda: "read-only transaction" in own_postgresql.output())
    own_postgresql.call("ALTER ROLE site RESET default_transaction_read_only")

    await within(waiting)


@pytest.mark.parametrize(
    "setting",
    [
        "statement_timeout = '20ms'",
        "idle_session_timeout = '150ms'",
        "idle_in_transaction_session_timeout = '1ms'",
        "lock_timeout = '1ms'",
        "default_transaction_isolation = 'serializable'",
        "synchronous_commit = off",
    ],
)
async def test_settings_of_the_users_role_do_not_matter(
    own_postgresql, site, make_layer, setting
):
    own_postgresql.call(f"ALTER ROLE site SET {setting}")
    layer = make_layer(site)
    listener = await listen(layer)

    for number in range(3):
        await publish(layer, number)
        await asyncio.sleep(0.2)  # longer than a session may be idle

    await until(lambda: listener.data == said(*range(3)))


async def test_a_process_that_is_stopped_in_a_transaction_holds_its_topic_for_seconds(
    using, make_layer
):
    layer = make_layer(publish_timeout=20)
    stopped = PostgresConnection(using, 20)
    try:
        cursor = stopped.begin(write=True, timeout=20)
        cursor.lock([f"stream {layer.prefix}:tide"])
        assert cursor.now_ms
        waiting = asyncio.create_task(publish(layer, 0))

        await publish(layer, 1, topic="other")

        assert not waiting.done()
        await within(waiting, 15)
    finally:
        stopped.close()


async def test_a_long_transaction_delays_no_other_topic(
    own_postgresql, own_using, make_layer
):
    layer = make_layer(own_using)
    listener = await listen(layer)
    await publish(layer, 0, topic="slow")
    prefix = layer.prefix
    with psycopg.connect(own_postgresql.dsn) as other:
        # Do what a program does that publishes to another topic and does not commit.
        other.execute(
            "UPDATE tiderace_layer_stream SET last_number = 2 WHERE subject = %s",
            (f"{prefix}:slow",),
        )
        other.execute(
            "INSERT INTO tiderace_layer_entry (subject, epoch, number, previous, data, "
            "published_ms) VALUES (%s, '', 2, 1, '', 0)",
            (f"{prefix}:slow",),
        )

        await publish(layer, *range(100))
        await until(lambda: listener.data == said(*range(100)))

        other.rollback()


@pytest.fixture
def small_disk(own_postgresql):
    """The alias of a database whose tables are on a disk of 12 MB; with the disk."""
    with mounted_disk(own_postgresql.folder / "disk", "12m") as disk:
        try:
            shutil.chown(disk.folder, "nobody", "nogroup")  # who may mount is root
            own_postgresql.call(f"CREATE TABLESPACE small LOCATION '{disk.folder}'")
            own_postgresql.call(
                "ALTER DATABASE postgres SET default_tablespace = small"
            )
            own_postgresql.call(TABLES)
            with database_alias("small_disk", own_postgresql.database()) as name:
                yield name, disk
        finally:
            own_postgresql.kill()


async def test_a_full_disk_refuses_publications_until_there_is_room_again(
    small_disk, make_layer
):
    name, disk = small_disk
    layer = make_layer(name, publish_timeout=20)
    listener = await listen(layer)

    published = []

    async def fill():
        while len(published) < 100:
            data = secrets.token_hex(300_000)
            await layer.stream_publish("tide", {"data": data}, keep=KEEP)
            published.append(data)

    with pytest.raises(LayerUnavailable, match="No space left on device"):
        await fill()
    await until(lambda: listener.data == published)
    disk.resize("200m")
    await layer.stream_publish("tide", {"data": "after"}, keep=KEEP)

    await until(lambda: listener.data[-1:] == ["after"])
    assert len(published) > 5
    assert listener.offsets == list(range(1, len(published) + 2))


# Values that are never taken


async def test_a_key_that_is_too_large_for_the_index_is_refused_for_good(make_layer):
    layer = make_layer(publish_timeout=20)
    key = secrets.token_hex(4000)

    with pytest.raises(MessageTooLarge, match="index row size"):
        await within(layer.stream_publish("tide", {}, keep=KEEP, key=key), 5)


async def test_a_text_that_the_server_cannot_store_is_refused_for_good(make_layer):
    layer = make_layer(publish_timeout=20)

    with pytest.raises(TypeError, match="refused: invalid byte sequence"):
        await within(layer.stream_publish("tide", {}, keep=KEEP, key="a\0b"), 5)


async def test_a_refused_message_does_not_fail_the_others(make_layer):
    layer = make_layer()
    listener = await listen(layer)

    results = await asyncio.gather(
        *(
            layer.stream_publish(
                "tide", {"data": str(n)}, keep=KEEP, key="a\0b" if n == 5 else ""
            )
            for n in range(10)
        ),
        return_exceptions=True,
    )

    assert [n for n in range(10) if isinstance(results[n], Exception)] == [5]
    await until(lambda: sorted(listener.data) == said(*range(5), *range(6, 10)))


# Who may connect


@pytest.fixture
def locked():
    """A server that wants a password."""
    with PostgresServer(password="right") as server:
        server.call(TABLES)
        yield server


@pytest.fixture
def with_password(locked):
    """The alias of its database, for its user."""
    with database_alias("locked", locked.database()) as name:
        yield name


async def test_a_wrong_password_is_an_error_at_once_with_what_to_do(
    with_password, make_layer
):
    connections.settings[with_password]["PASSWORD"] = "mistaken"
    layer = make_layer(with_password, publish_timeout=20)

    with pytest.raises(LayerAccessDenied) as caught:
        await within(publish(layer, 0), 5)

    assert "correct USER and PASSWORD in DATABASES" in str(caught.value)
    assert "mistaken" not in str(caught.value)


async def test_a_changed_password_is_used_by_the_next_connection(
    locked, with_password, make_layer
):
    layer = make_layer(with_password, publish_timeout=20)
    await publish(layer, 0)

    locked.call("ALTER ROLE postgres PASSWORD 'new'")
    locked.password = connections.settings[with_password]["PASSWORD"] = "new"
    locked.terminate_backends()
    await publish(layer, 1)

    _, found = await layer.stream_read("tide", keep=KEEP)
    assert [each.data for each in found] == ["0", "1"]


async def test_missing_tables_are_an_error_at_once_with_what_to_do(
    own_postgresql, make_layer
):
    with database_alias("empty", own_postgresql.database()) as name:
        layer = make_layer(name, publish_timeout=20)

        with pytest.raises(LayerUnavailable, match="migrate --database=empty"):
            await within(publish(layer, 0), 5)


async def test_a_missing_database_is_an_error_at_once_with_what_to_do(
    own_postgresql, make_layer
):
    with database_alias("nowhere", own_postgresql.database("nowhere")) as name:
        layer = make_layer(name, publish_timeout=20)

        with pytest.raises(LayerUnavailable, match="create it, or correct NAME"):
            await within(publish(layer, 0), 5)


async def test_a_missing_right_is_an_error_at_once_with_what_to_do(
    own_postgresql, site, make_layer
):
    own_postgresql.call("REVOKE INSERT ON tiderace_layer_entry FROM site")
    layer = make_layer(site, publish_timeout=20)

    with pytest.raises(LayerAccessDenied, match="grant the user"):
        await within(publish(layer, 0), 5)


async def test_a_server_that_is_too_old_is_refused_at_once(make_layer, monkeypatch):
    monkeypatch.setattr(errors, "OLDEST", 99)
    layer = make_layer(publish_timeout=20)

    with pytest.raises(LayerUnavailable, match="the layer needs 99 or newer"):
        await within(publish(layer, 0), 5)
