"""The public contract of a channel layer, over a SQLite file."""

from __future__ import annotations

from functools import partial

import pytest

from support.contracts.broker_contract import BrokerContract
from tiderace.layers.database import DatabaseChannelLayer


class TestSqlite(BrokerContract):
    @pytest.fixture
    def new_layer(self, tmp_path):
        return partial(DatabaseChannelLayer, path=tmp_path / "layer.sqlite3")
