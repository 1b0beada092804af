"""The open connections of this process: WebSockets, requests, clients of topics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import msgspec

__all__ = [
    "RESTART",
    "ConnectionInfo",
    "ConnectionRegistry",
    "DescribedConnection",
    "DrainNotice",
    "LiveConnection",
    "OpenConnection",
    "process_connections",
]

RESTART = 1012
"""The close code of a drain, "Service Restart": the client reconnects."""


class DrainNotice(msgspec.Struct, frozen=True):
    """The request of a drain to a connection: end, and let the client reconnect."""

    retry_after: float
    """Seconds that its client should wait before it reconnects."""

    @property
    def code(self) -> int:
        """The close code for a client whose protocol has no codes of its own."""
        return RESTART

    @property
    def reason(self) -> str:
        """The close reason: ``retry-after=`` and seconds with one decimal."""
        return f"retry-after={self.retry_after:.1f}"


class LiveConnection(Protocol):
    """A connection that can be drained; both methods are called in its event loop."""

    def drain(self, notice: DrainNotice) -> None:
        """Start closing, with the codes of the client's protocol, and return at once.

        Running work may be finished first.
        """

    def cut(self) -> None:
        """End at once: the grace period is over."""


class ConnectionInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """One connection for monitoring: no token, key or query string is in it."""

    id: str
    """Its name in the log; of a topic client, its id in presence and publications."""
    kind: str
    """``websocket`` or ``http`` of a consumer, ``topics``, or ``feed``."""
    path: str
    consumer: str = ""
    groups: int | None = None
    """The number of groups of a consumer; None where the layer does not provide it."""
    since: float = 0.0
    """When it began, in seconds since 1970."""
    user_id: str = ""
    user: str = ""
    topics: tuple[str, ...] = ()
    """At most ten of its topics."""
    topic_count: int = 0


class DescribedConnection(LiveConnection, Protocol):
    """A connection that monitoring lists; its methods may be called from any thread."""

    @property
    def user(self) -> Any:
        """The user, perhaps not loaded yet, or None."""

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that it is subscribed to."""

    def describe(self) -> ConnectionInfo:
        """Return what is listed, apart from the user, the topics and the time."""


class OpenConnection(msgspec.Struct, frozen=True):
    """A connection that is being served."""

    connection: LiveConnection
    since: float
    """When it began, in seconds since 1970."""
    loop: asyncio.AbstractEventLoop
    """The event loop that serves it."""


class ConnectionRegistry:
    """The open connections, the oldest first.

    It may be read from any thread; a connection is added and discarded in its own
    event loop.
    """

    expected: bool = False
    """Whether this process has made an application for connections."""

    def __init__(self) -> None:
        self._open: dict[LiveConnection, OpenConnection] = {}
        self._on_add: list[Callable[[LiveConnection], object]] = []
        self._on_discard: list[Callable[[LiveConnection], object]] = []

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, connection: LiveConnection) -> bool:
        return connection in self._open

    def __iter__(self) -> Iterator[OpenConnection]:
        return iter(list(self._open.values()))

    def on_add(self, hook: Callable[[LiveConnection], object]) -> None:
        """Call ``hook(connection)`` for each new connection, in its event loop."""
        if hook not in self._on_add:
            self._on_add.append(hook)

    def on_discard(self, hook: Callable[[LiveConnection], object]) -> None:
        """Call ``hook(connection)`` for each connection that has ended."""
        if hook not in self._on_discard:
            self._on_discard.append(hook)

    def add(self, connection: LiveConnection) -> None:
        """Add a connection that the running event loop serves."""
        if connection not in self._open:
            loop = asyncio.get_running_loop()
            self._open[connection] = OpenConnection(connection, time.time(), loop)
            for hook in self._on_add:
                hook(connection)

    def discard(self, connection: LiveConnection) -> None:
        """Remove a connection that has ended; nothing if it was never added."""
        if self._open.pop(connection, None) is not None:
            for hook in self._on_discard:
                hook(connection)


process_connections = ConnectionRegistry()
"""The registry of this process; every connection of Tiderace's is in it."""
