"""Growing messages on every engine: in memory, on Redis, SQLite and PostgreSQL."""

from __future__ import annotations

import pytest

from support.contracts.growing_contract import GrowingContract, GrowingProcessContract
from tiderace.layers import channel_layers


class TestMemory(GrowingContract):
    @pytest.fixture
    def layers(self):
        return {"default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}}


class TestRedis(GrowingProcessContract):
    @pytest.fixture
    def layers(self, redis_url, prefix):
        return {
            "default": {
                "BACKEND": "tiderace.layers.redis.RedisChannelLayer",
                "CONFIG": {"hosts": [redis_url], "prefix": prefix},
            }
        }


class TestSqlite(GrowingProcessContract):
    @pytest.fixture
    async def layers(self, tmp_path):
        yield {
            "default": {
                "BACKEND": "tiderace.layers.database.DatabaseChannelLayer",
                "CONFIG": {"path": str(tmp_path / "layer.sqlite3")},
            }
        }
        await channel_layers["default"].close()


class TestPostgresql(GrowingProcessContract):
    @pytest.fixture
    async def layers(self, postgresql_alias, prefix):
        yield {
            "default": {
                "BACKEND": "tiderace.layers.database.DatabaseChannelLayer",
                "CONFIG": {"using": postgresql_alias, "prefix": prefix},
            }
        }
        await channel_layers["default"].close()
