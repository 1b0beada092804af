"""The presence store in a SQLite file: the contract."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from support.contracts.presence_contract import SHORT, PresenceContract
from tiderace.layers.database import DatabaseChannelLayer

_TABLES = ("presence_connection", "presence_user")


class TestSqlite(PresenceContract):
    @pytest.fixture
    def file(self, tmp_path):
        return tmp_path / "layer.sqlite3"

    @pytest.fixture
    async def store(self, file):
        layer = DatabaseChannelLayer(path=file)
        yield layer.presence
        await layer.close()

    @pytest.fixture
    def elapse(self):
        async def elapse():
            await asyncio.sleep(SHORT)

        return elapse

    @pytest.fixture
    def kept(self, file):
        def rows():
            with sqlite3.connect(file) as database:
                found = [
                    row
                    for table in _TABLES
                    for row in database.execute(f"SELECT * FROM tiderace_layer_{table}")
                ]
            database.close()
            return found

        return rows
