"""The topics of storms: one with a long history, one with a short one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tiderace.asgi import ASGIApp
from tiderace.topics import AllowAny, History, Topic, TopicsEndpoint
from tiderace.topics.declaration.topic import declared

__all__ = ["storm_site"]


@contextlib.contextmanager
def storm_site() -> Iterator[ASGIApp]:
    """Declare the topics for the block; yield the endpoint."""

    class Tide(Topic):
        pattern = "tide:<str:name>"
        history = History(size=2000, ttl=60)
        permission_classes = [AllowAny]
        publish_rate = None

        async def can_publish(self, user):
            return True

    class Pool(Tide):
        pattern = "pool:<str:name>"
        history = History(size=20, ttl=60)

    try:
        yield TopicsEndpoint.as_asgi()
    finally:
        declared.remove(Tide)
        declared.remove(Pool)
