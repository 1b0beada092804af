"""Reads the messages of one topic client, also while a command takes long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tiderace.topics.transports.base import Transport

# Seconds that a command runs before the messages after it are read.
_READ_AHEAD_AFTER = 1.0
_READ_AHEAD = 32  # messages


class ClientReader:
    """Returns a client's messages, and detects that it leaves while a command runs.

    Most commands take less than a second. The next message is read when they have ended,
    so most clients need no task and no queue for reading.

    Args:
        transport: carries the client's messages.
        on_left: called when the client has left and a command is running.
    """

    __slots__ = (
        "_ahead",
        "_count",
        "_loop",
        "_on_left",
        "_task",
        "_timer",
        "_transport",
        "waiting",
    )

    def __init__(
        self, transport: Transport, on_left: Callable[[], Awaitable[None]]
    ) -> None:
        self._transport = transport
        self._on_left = on_left
        self._loop = asyncio.get_running_loop()
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._ahead: asyncio.Queue[bytes | Exception | None] | None = None
        self._task: asyncio.Task[None] | None = None
        # Whether a message is awaited, so that no command runs.
        self.waiting = False

    def read(self) -> Awaitable[Any]:
        """Return an awaitable of what comes next; the caller passes its result to ``take``.

        These are two methods, since a coroutine around both would be 0.25 KB of each idle
        client.
        """
        self.waiting = True
        return self._transport.receive() if self._ahead is None else self._ahead.get()

    def take(self, received: Any) -> bytes | None:
        """Return the message that was read, whose commands run now; None at the end.

        Raises:
            Exception: the error of reading ahead.
        """
        self.waiting = False
        self._count += 1
        if self._timer is None:
            self._check_in_a_while()
        if self._ahead is None:
            return self._transport.message_of(received)
        if isinstance(received, Exception):
            raise received
        message: bytes | None = received
        return message

    def close(self) -> None:
        """Stop reading."""
        self.waiting = False
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _check_in_a_while(self) -> None:
        self._timer = self._loop.call_later(_READ_AHEAD_AFTER, self._check, self._count)

    def _check(self, count: int) -> None:
        """Begin to read ahead if the command of message ``count`` is still running."""
        self._timer = None
        if self.waiting or self._ahead is not None:
            return
        if count != self._count:
            self._check_in_a_while()
            return
        self._ahead = asyncio.Queue(_READ_AHEAD)
        self._task = self._loop.create_task(self._read_ahead(self._ahead))

    async def _read_ahead(self, queue: asyncio.Queue[bytes | Exception | None]) -> None:
        transport = self._transport
        message: bytes | Exception | None = b""
        while isinstance(message, bytes):
            try:
                message = transport.message_of(await transport.receive())
            except Exception as error:
                message = error
            await queue.put(message)
        if not self.waiting:
            await self._on_left()
