"""Pings an idle client, and notices when it is gone without closing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tiderace.server.frames import ping_frame
from tiderace.server.read_queue import ReadQueue
from tiderace.server.writer import ServerFrameWriter

__all__ = ["KeepAlive"]


class KeepAlive:
    """Pings every ``interval`` seconds and expects any bytes within ``timeout`` seconds.

    Any bytes count, since a pong may queue behind a long upload. While the server itself
    does not read from the client, it waits on.

    Args:
        writer: sends the pings.
        read_queue: shows whether the client is read from.
        loop: the event loop.
        interval: seconds between pings.
        timeout: seconds; None to ping only, which keeps proxies and NAT tables awake.
        on_timeout: called once when nothing has come in time.
    """

    __slots__ = (
        "_interval",
        "_loop",
        "_on_timeout",
        "_read_queue",
        "_received",
        "_timeout",
        "_timer",
        "_writer",
    )

    def __init__(
        self,
        writer: ServerFrameWriter,
        read_queue: ReadQueue,
        loop: asyncio.AbstractEventLoop,
        interval: float,
        timeout: float | None,
        on_timeout: Callable[[], None],
    ) -> None:
        self._writer = writer
        self._read_queue = read_queue
        self._loop = loop
        self._interval = interval
        self._timeout = timeout
        self._on_timeout = on_timeout
        self._received = True
        self._timer = loop.call_later(interval, self._ping)

    def data_received(self) -> None:
        """Note that the client has sent something."""
        self._received = True

    def stop(self) -> None:
        """Send no more pings."""
        self._timer.cancel()

    def _ping(self) -> None:
        self._writer.write(ping_frame())
        if self._timeout is None:
            self._timer = self._loop.call_later(self._interval, self._ping)
            return
        self._received = False
        self._timer = self._loop.call_later(self._timeout, self._check)

    def _check(self) -> None:
        if self._received:
            pause = max(0.0, self._interval - (self._timeout or 0.0))
            self._timer = self._loop.call_later(pause, self._ping)
        elif self._read_queue.paused:
            self._timer = self._loop.call_later(self._interval, self._check)
        else:
            self._on_timeout()
