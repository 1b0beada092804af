"""The public contract of a channel layer on a real PostgreSQL, and behind PgBouncer."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from support.contracts.broker_contract import BrokerContract
from support.contracts.presence_contract import SHORT, PresenceContract
from support.servers.postgresql import PgBouncer, database_alias
from support.waiting import until
from tiderace.layers import Retention
from tiderace.layers.database import DatabaseChannelLayer
from tiderace.testing.layer_contract import RecordingListener


class TestPostgres(BrokerContract):
    """Directly at the server, with notifications."""

    @pytest.fixture
    def new_layer(self, using, prefix):
        return partial(DatabaseChannelLayer, using=using, prefix=prefix)


class TestPresence(PresenceContract):
    @pytest.fixture
    def store(self, make_layer):
        return make_layer().presence

    @pytest.fixture
    def elapse(self):
        async def elapse():
            await asyncio.sleep(SHORT)

        return elapse

    @pytest.fixture
    def kept(self, shared_postgresql, prefix):
        """Connections and users that are stored; counters are swept later."""

        def kept():
            return [
                name
                for table in ("presence_connection", "presence_user")
                for name in shared_postgresql.call(
                    f"SELECT group_name FROM tiderace_layer_{table} "
                    f"WHERE group_name LIKE '{prefix}:%'"
                )
            ]

        return kept


@pytest.fixture(scope="module")
def pooled(shared_postgresql, using):
    """The alias of the database behind a pooler."""
    with (
        PgBouncer(shared_postgresql) as pooler,
        database_alias("pooled", pooler.database()) as name,
    ):
        yield name


class TestPgBouncer(BrokerContract):
    """Behind a pooler in transaction mode, by polling alone."""

    # A poll later is when a message begins to expire.
    expiry = 1.0

    @pytest.fixture
    def new_layer(self, pooled, prefix):
        return partial(DatabaseChannelLayer, using=pooled, prefix=prefix)


async def test_messages_are_notified_beside_a_pooler_with_a_connection_of_its_own(
    shared_postgresql, pooled, make_layer
):
    layer = make_layer(pooled, notify_dsn=shared_postgresql.dsn)
    listener = RecordingListener()
    await layer.stream_subscribe("tide", listener)

    await layer.stream_publish("tide", {"data": "1"}, keep=Retention(10, 60))

    await until(lambda: listener.data == ["1"])
    await until(lambda: layer._brokers[0]._feed._is_notified)
