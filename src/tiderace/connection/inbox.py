"""Fills the mailbox of a connection: from its client, and from its channel layer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterable
from typing import Any

from tiderace.asgi import Event, EventQueue
from tiderace.connection.log import ConnectionLog
from tiderace.delivery.mailbox import Mailbox, Source
from tiderace.delivery.outbox import Outbox
from tiderace.exceptions import StopConsumer
from tiderace.layers.base import LocalDelivery

# Bytes or characters of the client's events read ahead of a busy handler, and what each
# counts beside its payload.
_READ_AHEAD = 256 * 1024
_EVENT_SIZE = 8 * 1024

LAST_EVENTS = frozenset({"http.disconnect", "websocket.disconnect"})
"""After one of these events a connection gets no other."""


class DeferredError:
    """An error raised elsewhere, to be raised in the connection's task: await it there.

    Args:
        error: the exception.
        passing: exceptions on which ``on_error`` is not called.
    """

    __slots__ = ("_error", "passing")

    began = 0.0

    def __init__(
        self,
        error: BaseException,
        passing: type[Exception] | tuple[type[Exception], ...] = StopConsumer,
    ) -> None:
        self._error = error
        self.passing = passing

    def __await__(self) -> Generator[Any, Any, None]:
        raise self._error
        yield


class EventReader:
    """Reads the events of a client, some ahead of the consumer, or a layer item by item.

    Attributes:
        last: the client's last event, once it was read.

    Args:
        receive: returns the next item.
        mailbox: takes the items.
        outbox: the client's, which is marked when the client leaves; None for a layer.
        idle: set while a worker's consumer has no work; None for other connections.
    """

    __slots__ = (
        "_idle",
        "_mailbox",
        "_outbox",
        "_receive",
        "_stopped",
        "_task",
        "_unread",
        "_unread_size",
        "last",
    )

    def __init__(
        self,
        receive: Callable[[], Awaitable[Any]],
        mailbox: Mailbox[Any],
        *,
        outbox: Outbox | None = None,
        idle: asyncio.Event | None = None,
    ) -> None:
        self._receive = receive
        self._mailbox = mailbox
        self._outbox = outbox
        self._idle = idle
        self._task: asyncio.Task[Any] | None = None
        self._stopped = False
        # When each event read ahead is taken, and what it counts.
        # A list: an empty deque takes 0.7 KB of each socket.
        self._unread: list[tuple[asyncio.Future[None], int]] = []
        self._unread_size = 0
        self.last: Event | None = None

    @property
    def unread(self) -> int:
        """How many of the client's events before the last one are not taken yet."""
        return sum(not taken.done() for taken, _ in self._unread)

    def stop(self, _done: object = None) -> None:
        """Let ``read`` return before the last event; also a callback of a task."""
        if self._task is not None:
            task, self._task = self._task, None
            self._stopped = True
            task.cancel()

    async def read(self) -> asyncio.Future[None] | None:
        """Read until the last event or an error, either of which is queued, or ``stop``.

        Returns:
            A future that is done when the last event, or the error, is taken; None
            after ``stop``.

        Raises:
            asyncio.CancelledError: when the task was cancelled, but not by ``stop``.
        """
        here = self._task = asyncio.current_task()
        assert here is not None  # noqa: S101 (this is a coroutine)
        mailbox, outbox, idle = self._mailbox, self._outbox, self._idle
        source = Source.MESSAGE if outbox is None else Source.EVENT
        queue = None if outbox is None else EventQueue.of(self._receive)
        if queue is not None:
            queue.on_event = self._take
        try:
            while True:
                item = await self._receive()
                if outbox is not None and item.get("type") in LAST_EVENTS:
                    outbox.leaving = item["type"] == "websocket.disconnect"
                    self.last = item
                    return mailbox.post(item)
                taken = mailbox.post(item, source)
                if outbox is None:
                    await taken
                else:
                    await self._read_ahead(taken, item)
                if idle is not None:
                    # A message read ahead would be lost with a handler that fails.
                    await idle.wait()
        except Exception as error:
            return mailbox.post(DeferredError(error, Exception))
        except asyncio.CancelledError:
            if not self._stopped or here.uncancel() > 0:
                raise
            return None
        finally:
            self._task = None
            if queue is not None:
                queue.on_event = None

    def _take(self, event: Event) -> bool:
        """Queue an event that the server has not queued, unless one before it is unread."""
        self._forget_taken()
        if self._unread:
            return False
        self._note_unread(self._mailbox.post(event), event)
        return True

    async def _read_ahead(self, taken: asyncio.Future[None], event: Event) -> None:
        """Wait until there is room for another event.

        The events of a client that has left come before its last one, which must be
        noticed while a handler is busy.
        """
        self._note_unread(taken, event)
        self._forget_taken()
        while self._unread_size > _READ_AHEAD:
            await self._unread[0][0]
            self._forget_taken()

    def _note_unread(self, taken: asyncio.Future[None], event: Event) -> None:
        payload = event.get("text") or event.get("bytes") or event.get("body") or ""
        size = _EVENT_SIZE + len(payload)
        self._unread.append((taken, size))
        self._unread_size += size

    def _forget_taken(self) -> None:
        unread = self._unread
        while unread and unread[0][0].done():
            self._unread_size -= unread.pop(0)[1]


class Inbox:
    """A connection's channel in its layer, and the mailbox for its events and messages.

    A layer with local delivery puts messages into the mailbox itself; any other layer
    is read by an ``EventReader``.

    Attributes:
        mailbox: set by ``open``.
        channel_name: the channel; empty without a layer.
    """

    __slots__ = ("_layer", "_reading", "channel_name", "mailbox")

    mailbox: Mailbox[Any]

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._reading: asyncio.Task[Any] | None = None
        self.channel_name = ""

    async def open(self) -> None:
        """Create the channel and the mailbox."""
        layer = self._layer
        if layer is not None:
            self.channel_name = await layer.new_channel()
        if isinstance(layer, LocalDelivery):
            self.mailbox = layer.attach(self.channel_name)
        else:
            self.mailbox = Mailbox(self.channel_name, 0)

    def read_layer(
        self, receive: Callable[[], Awaitable[Any]], idle: asyncio.Event | None
    ) -> None:
        """Start to read a layer without local delivery; ``idle`` as in ``EventReader``."""
        reader = EventReader(receive, self.mailbox, idle=idle)
        self._reading = asyncio.get_running_loop().create_task(reader.read())

    async def leave_groups(self, groups: Iterable[str], log: ConnectionLog) -> None:
        """Leave all groups.

        Args:
            groups: those of a layer without local delivery, where others are unknown.
            log: logs errors.
        """
        if isinstance(self._layer, LocalDelivery):
            groups = list(self.mailbox.groups)
        elif self._layer is None:
            return
        for group in groups:
            try:
                await self._layer.group_discard(group, self.channel_name)
            except Exception as error:
                log.group_not_left(group, error)

    async def close(self, groups: Iterable[str], log: ConnectionLog) -> None:
        """Close the channel, which leaves its groups; arguments as in ``leave_groups``."""
        if self._reading is not None:
            self._reading.cancel()
        if isinstance(self._layer, LocalDelivery):
            await self._layer.detach(self.mailbox)
        else:
            await self.leave_groups(groups, log)
        if self._reading is not None:
            await asyncio.wait([self._reading])
