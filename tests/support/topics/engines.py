"""The engines over which topics are tested: memory, Redis, SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from support.servers.postgresql import PostgresServer, database_alias, shared_postgresql
from tiderace.layers.database import DatabaseChannelLayer
from tiderace.layers.database.postgresql.schema import TABLES
from tiderace.layers.memory import InMemoryChannelLayer
from tiderace.layers.redis import RedisChannelLayer
from tiderace.topics.declaration.topic import declared

__all__ = [
    "elsewhere",
    "engine",
    "own_topics",
    "postgresql_alias",
    "shared_engine",
    "shared_postgresql",
]

SHARED = ("redis", "sqlite", "postgresql")


@pytest.fixture(scope="session")
def postgresql_alias(
    shared_postgresql: PostgresServer,
) -> Iterator[str]:
    """The alias of a database with the layer's tables."""
    shared_postgresql.call(TABLES)
    with database_alias("topics_postgresql", shared_postgresql.database()) as name:
        yield name


def _configure(request: pytest.FixtureRequest) -> tuple[Any, dict[str, Any]]:
    """Set the default layer, and return its class and its options."""
    kind: Any = DatabaseChannelLayer
    config: dict[str, Any] = {"prefix": request.getfixturevalue("prefix")}
    match request.param:
        case "redis":
            kind = RedisChannelLayer
            config["hosts"] = [request.getfixturevalue("redis_url")]
        case "sqlite":
            folder = request.getfixturevalue("tmp_path")
            config["path"] = str(folder / "layer.sqlite3")
        case "postgresql":
            config["using"] = request.getfixturevalue("postgresql_alias")
        case _:
            kind, config = InMemoryChannelLayer, {}
    backend = f"{kind.__module__}.{kind.__qualname__}"
    settings = request.getfixturevalue("settings")
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": config}}
    return kind, config


@pytest.fixture(params=("memory", *SHARED))
def engine(request: pytest.FixtureRequest) -> None:
    """Put the default layer over each engine in turn."""
    _configure(request)


@pytest.fixture(params=SHARED)
def shared_engine(request: pytest.FixtureRequest) -> tuple[Any, dict[str, Any]]:
    """Likewise over those that several processes share; the layer's class and options."""
    return _configure(request)


@pytest.fixture
async def elsewhere(shared_engine: tuple[Any, dict[str, Any]]) -> AsyncIterator[Any]:
    """The layer of another process of the same site."""
    kind, config = shared_engine
    layer = kind(**config)
    yield layer
    await layer.close()


@pytest.fixture
def own_topics() -> Iterator[None]:
    """Undeclare the topics that a test declares."""
    before = list(declared)
    yield
    for topic in list(declared):
        if topic not in before:
            declared.remove(topic)
