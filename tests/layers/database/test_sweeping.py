"""The SQLite layer deletes expired rows, and only those."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from types import SimpleNamespace

import pytest

from support.contracts.process_contract import LayerSetup
from support.contracts.sweeping_contract import SweepingContract
from tiderace.layers.database.sqlite import connection


class TestSqlite(SweepingContract):
    @pytest.fixture
    def layer_setup(self, file):
        return LayerSetup(options={"path": str(file)})

    @pytest.fixture
    def elapse(self, monkeypatch):
        passed = 0

        def elapse(seconds):
            nonlocal passed
            passed += int(seconds * 10**9)

        clock = SimpleNamespace(time_ns=lambda: time.time_ns() + passed)
        monkeypatch.setattr(connection, "time", clock)
        return elapse

    @pytest.fixture
    def rows(self, file):
        def rows(table, column):
            with contextlib.closing(sqlite3.connect(file)) as database:
                found = database.execute(f"SELECT {column} FROM tiderace_layer_{table}")
                return [value for (value,) in found]

        return rows
