"""An application with topics of several kinds, and users of its clients."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tiderace.topics import (
    AllowAny,
    History,
    IsAuthenticated,
    Presence,
    Refuse,
    Topic,
    TopicsEndpoint,
    rpc,
)

__all__ = ["app", "fresh_layer", "people", "user"]


@pytest.fixture
def fresh_layer(settings):
    """Give the test a layer of its own."""
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }


@pytest.fixture
def app(own_topics):
    """Topics with a history and without, for members, and closed ones."""

    class Room(Topic):
        pattern = "room:<slug:name>"
        history = History(size=5, ttl=60)
        permission_classes = [AllowAny]

        async def can_publish(self, user):
            return True

        @rpc
        async def add(self, user, a: int, b: int = 1):
            return {"sum": a + b, "room": self.kwargs["name"]}

        @rpc
        def fail(self):
            raise Refuse("not today", code=499)

        @rpc
        def break_(self):
            raise RuntimeError("a bug of the application")

        def secret(self):
            raise AssertionError("a method without @rpc was called by a client")

    class Feed(Topic):
        pattern = "feed:<int:pk>"
        permission_classes = [AllowAny]

    class Members(Topic):
        pattern = "members"
        permission_classes = [IsAuthenticated]
        history = History()

    class Closed(Topic):
        pattern = "closed"

    return TopicsEndpoint.as_asgi()


def user(pk=1):
    """Return a user without a database."""
    return SimpleNamespace(
        pk=pk, is_authenticated=True, is_active=True, is_anonymous=False
    )


@pytest.fixture
def people(own_topics):
    """A topic with presence."""

    class People(Topic):
        pattern = "people"
        permission_classes = [AllowAny]
        presence = Presence.PER_CONNECTION

    return TopicsEndpoint.as_asgi()
