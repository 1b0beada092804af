"""Rows that are too large for the broker of their topic."""

from __future__ import annotations

import sqlite3

import pytest

from outbox.test_relay import insert, messages, relaying, rows, until_relayed
from support.servers.brokers import Server
from tiderace.layers.database.sqlite.connection import SqliteConnection

LARGE = f'"{"x" * 2_000_000}"'


@pytest.fixture
def redis(settings):
    """A server of Redis that takes messages of one megabyte."""
    with Server(lines=("proto-max-bulk-len 1mb",)) as server:
        settings.CHANNEL_LAYERS = {
            "default": {
                "BACKEND": "tiderace.layers.redis.RedisChannelLayer",
                "CONFIG": {"hosts": [server.url]},
            }
        }
        yield


@pytest.fixture
def file(settings, tmp_path, monkeypatch):
    """A file of SQLite that takes messages of one megabyte."""
    connect = SqliteConnection.__init__

    def limited(connection, *arguments, **options):
        connect(connection, *arguments, **options)
        connection._database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1_000_000)

    monkeypatch.setattr(SqliteConnection, "__init__", limited)
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "tiderace.layers.database.DatabaseChannelLayer",
            "CONFIG": {"path": tmp_path / "layer.sqlite3"},
        }
    }


@pytest.mark.parametrize("broker", ["redis", "file"])
async def test_a_row_that_is_too_large_is_set_aside_and_later_ones_published(
    sqlite, request, broker
):
    request.getfixturevalue(broker)
    await insert(sqlite, {"data": "1"}, {"data": LARGE}, {"data": "2"})

    async with relaying(sqlite):
        await until_relayed(sqlite)

    assert await messages("a") == [1, 2]
    (left,) = await rows(sqlite)
    assert left.error.startswith("MessageTooLarge")
