"""The public contract of a channel layer, over a SQLite file."""

from __future__ import annotations

import pytest

from support.database_contract import DatabaseContract


class TestSqlite(DatabaseContract):
    @pytest.fixture
    def options(self, tmp_path):
        return {"path": tmp_path / "layer.sqlite3"}
