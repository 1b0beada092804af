"""Notices clients that are gone without a word, by pinging those that are quiet.

It knows a clock and a connection's two answers to it; it knows neither frames nor ASGI.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

__all__ = ["KeepAlive", "Pinged"]


class Pinged(Protocol):
    """A connection that is kept alive."""

    def send_ping(self) -> None:
        """Send a ping."""

    def is_read_from(self) -> bool:
        """Whether an answer could be seen: false while reading is paused."""

    def ping_unanswered(self) -> None:
        """Nothing came within the timeout; the connection is taken for lost."""


class KeepAlive:
    """Pings every ``interval`` seconds and wants a sign of life within ``timeout``.

    Any bytes from the client are one, since a pong may queue behind a long upload; and
    while the server itself does not read, the client is not to blame. Without a
    timeout pings only keep proxies and NAT tables awake.
    """

    __slots__ = ("_connection", "_heard", "_interval", "_loop", "_timeout", "_timer")

    def __init__(
        self,
        connection: Pinged,
        loop: asyncio.AbstractEventLoop,
        interval: float,
        timeout: float | None,
    ) -> None:
        self._connection = connection
        self._loop = loop
        self._interval = interval
        self._timeout = timeout
        self._heard = True
        self._timer = loop.call_later(interval, self._ping)

    def heard(self) -> None:
        """Note that the client has sent something."""
        self._heard = True

    def stop(self) -> None:
        """Ping no more."""
        self._timer.cancel()

    def _ping(self) -> None:
        self._connection.send_ping()
        if self._timeout is None:
            self._timer = self._loop.call_later(self._interval, self._ping)
            return
        self._heard = False
        self._timer = self._loop.call_later(self._timeout, self._check)

    def _check(self) -> None:
        if self._heard:
            pause = max(0.0, self._interval - (self._timeout or 0.0))
            self._timer = self._loop.call_later(pause, self._ping)
        elif not self._connection.is_read_from():
            self._timer = self._loop.call_later(self._interval, self._check)
        else:
            self._connection.ping_unanswered()
