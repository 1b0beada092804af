"""Growing messages on every engine: in memory, on Redis, SQLite and PostgreSQL."""

from __future__ import annotations

import pytest

from support.growing import GrowingContract, GrowingProcessContract
from support.postgresql import database_alias, shared_postgresql  # noqa: F401 (fixture)
from tiderace.layers import channel_layers
from tiderace.layers.database.postgresql.schema import TABLES


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


@pytest.fixture(scope="session")
def using(shared_postgresql):  # noqa: F811
    shared_postgresql.call(TABLES)
    with database_alias("growing_postgresql", shared_postgresql.database()) as name:
        yield name


class TestPostgresql(GrowingProcessContract):
    @pytest.fixture
    async def layers(self, using, prefix):
        yield {
            "default": {
                "BACKEND": "tiderace.layers.database.DatabaseChannelLayer",
                "CONFIG": {"using": using, "prefix": prefix},
            }
        }
        await channel_layers["default"].close()
