"""Every test of this folder runs over each engine."""

from __future__ import annotations

import pytest

from tiderace.layers import channel_layers
from tiderace.topics import TopicsEndpoint


@pytest.fixture
async def app(engine, own_topics):
    """The endpoint of the topics that a test declares."""
    yield TopicsEndpoint.as_asgi()
    await channel_layers["default"].close()
