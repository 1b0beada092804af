"""Queues the events of one WebSocket until the application receives them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from tiderace.asgi import Event, EventQueue

# The largest sum of payloads queued, in characters or bytes.
_MAX_SIZE: Final = 1024 * 1024


class ReadQueue(EventQueue):
    """A queue of events for ``receive``; when it is full, reading from the client pauses.

    It is full with ``limit`` messages or a mebibyte. After the disconnect event nothing
    is added, and ``get`` returns it again and again, so that no application hangs.

    Attributes:
        paused: the queue is full, and reading from the client pauses.
        read_on: called when reading goes on; None to resume the transport.
    """

    __slots__ = (
        "_events",
        "_limit",
        "_size",
        "_transport",
        "_waiters",
        "end",
        "paused",
        "read_on",
    )

    def __init__(self, transport: asyncio.Transport, limit: int) -> None:
        super().__init__()
        self.end: Event | None = None
        self._transport = transport
        self._limit = limit
        self._events: list[Event] = []
        self._size = 0
        self.paused = False
        self.read_on: Callable[[], None] | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def put(self, event: Event, size: int = 0) -> None:
        """Add an event whose payload has ``size`` bytes or characters."""
        if self.end is not None:
            return
        if self.on_event is not None and not self._events and self.on_event(event):
            return
        self._events.append(event)
        self._size += size
        if not self.paused and (
            len(self._events) >= self._limit or self._size >= _MAX_SIZE
        ):
            self.paused = True
            self._transport.pause_reading()
        if self._waiters:
            self._wake()

    def disconnect(self, code: int, reason: str = "") -> None:
        """Add the last event, unless it is there; read on, to notice that the client closes."""
        if self.end is not None:
            return
        self.end = {"type": "websocket.disconnect", "code": code, "reason": reason}
        if self.paused:
            self._resume()
        self._wake()

    async def get(self) -> Event:
        """Wait for the next event and return it."""
        while not self._events:
            if self.end is not None:
                return self.end
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                self._waiters.remove(waiter)
        event = self._events.pop(0)
        payload = event.get("text") or event.get("bytes")
        if payload:
            self._size -= len(payload)
        if (
            self.paused
            and len(self._events) <= self._limit // 2
            and self._size < _MAX_SIZE
        ):
            self._resume()
        return event

    def _resume(self) -> None:
        self.paused = False
        if not self._transport.is_closing():
            (self.read_on or self._transport.resume_reading)()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
