"""The PostgreSQL layer deletes expired rows, and only those."""

from __future__ import annotations

import pytest

from support.contracts.process_contract import LayerSetup
from support.contracts.sweeping_contract import SweepingContract
from tiderace.layers.database.postgresql.connection import PostgresCursor


class TestPostgres(SweepingContract):
    @pytest.fixture
    def layer_setup(self, shared_postgresql, prefix):
        return LayerSetup(shared_postgresql.database(), {"prefix": prefix})

    @pytest.fixture
    def elapse(self, monkeypatch):
        passed = 0
        now_ms = PostgresCursor.now_ms

        def elapse(seconds):
            nonlocal passed
            passed += int(seconds * 1000)

        moved = property(lambda cursor: now_ms.fget(cursor) + passed)
        monkeypatch.setattr(PostgresCursor, "now_ms", moved)
        return elapse

    @pytest.fixture
    def rows(self, shared_postgresql, prefix):
        def rows(table, column):
            found = shared_postgresql.call(
                f"SELECT {column} FROM tiderace_layer_{table} "
                f"WHERE {column} LIKE '{prefix}:%'"
            )
            return [value for (value,) in found]

        return rows
