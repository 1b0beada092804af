"""Every test of this folder runs over each engine: in memory, Redis and a database."""

from __future__ import annotations

import pytest

from tiderace.layers import channel_layers
from tiderace.topics import TopicsEndpoint
from tiderace.topics.topic import declared


@pytest.fixture(params=["memory", "redis", "database"])
def engine(request, settings, prefix, tmp_path):
    """The name of the engine of ``CHANNEL_LAYERS``."""
    name = request.param
    backends = {
        "memory": "tiderace.layers.InMemoryChannelLayer",
        "redis": "tiderace.layers.redis.RedisChannelLayer",
        "database": "tiderace.layers.database.DatabaseChannelLayer",
    }
    options = {
        "memory": dict,
        "redis": lambda: {
            "hosts": [request.getfixturevalue("redis_url")],
            "prefix": prefix,
        },
        "database": lambda: {"path": tmp_path / "layer.sqlite3"},
    }
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": backends[name], "CONFIG": options[name]()}
    }
    return name


@pytest.fixture
async def app(engine):
    """The endpoint of the topics that a test declares; they are undeclared afterwards."""
    before = list(declared)
    yield TopicsEndpoint.as_asgi()
    for topic in list(declared):
        if topic not in before:
            declared.remove(topic)
    await channel_layers["default"].close()
