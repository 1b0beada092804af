"""Queues frames for sockets, and writes those of one tick of the event loop together.

Everything here runs in the thread of the event loop.
"""

# The three classes use each other's private attributes: a fan-out runs in plain loops,
# without a call for each socket.
# ruff: noqa: SLF001

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from threading import get_ident
from typing import Any, Final
from weakref import WeakKeyDictionary

from tiderace.server.frames import binary_frame, text_frame

logger = logging.getLogger("tiderace.server")

# Bytes queued for one socket that are written without waiting for the end of the tick.
_FLUSH_SIZE: Final = 64 * 1024
# Sockets written to, and bytes, before control returns to the loop: less than a
# millisecond. Between slices further messages of a burst are fanned out, and join the
# queues that are not written yet.
_SLICE: Final = 64
_SLICE_SIZE: Final = 1024 * 1024
# The smallest number of sockets that share a queue; fewer are queued one by one, and so
# do not wait behind a large group.
_MIN_SHARED: Final = 16


class _SharedQueue:
    """One queue of many sockets: the frames that all of them get, and only these.

    A frame is added once for all sockets, and the frames are joined once. A socket that
    gets any other frame leaves, with a copy of the queue.
    """

    __slots__ = ("frames", "members", "reached", "remaining", "size")

    def __init__(
        self,
        members: list[ServerFrameWriter],
        frames: list[bytes],
        size: int,
    ) -> None:
        self.frames = frames
        self.size = size
        # The sockets in the order of writing, including those that have left.
        self.members = members
        # How many of ``members`` were written to or skipped; how many share the queue.
        self.reached = 0
        self.remaining = len(members)

    def is_over(self) -> bool:
        """Return whether no socket shares the queue any more."""
        return not self.remaining or self.reached >= len(self.members)


class WriteScheduler:
    """Writes the queued frames of sockets at the end of a tick of the event loop.

    Many sockets are written to in slices, between which the loop serves other events.

    Attributes:
        due: whether the loop has a call of ``_flush``.
    """

    __slots__ = (
        "__weakref__",
        "_batch",
        "_loop",
        "_queued",
        "_shared_queues",
        "_thread",
        "due",
    )

    @classmethod
    def of(cls, server: Any, loop: asyncio.AbstractEventLoop) -> WriteScheduler:
        """Return the scheduler of a server, which has one event loop.

        Args:
            server: what its connections share, such as uvicorn's state.
            loop: of the server.
        """
        scheduler = _schedulers.get(server)
        if scheduler is None:
            scheduler = _schedulers[server] = cls(loop)
        return scheduler

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = get_ident()
        self.due = False
        self._queued: list[ServerFrameWriter] = []
        # The sockets being written to, in reverse order.
        self._batch: list[ServerFrameWriter] = []
        self._shared_queues: deque[_SharedQueue] = deque()

    def add(self, frames: ServerFrameWriter) -> None:
        """Flush ``frames`` when the tick ends."""
        self._queued.append(frames)
        if not self.due:
            self._schedule()

    def write_all(
        self, writers: Iterable[ServerFrameWriter], frame: bytes
    ) -> list[ServerFrameWriter]:
        """Queue one frame for many sockets, as ``ServerFrameWriter.write_all``."""
        if type(frame) is not bytes:
            raise TypeError(
                f"a frame is bytes, not {type(frame).__name__}; build it with "
                "text_frame() or binary_frame()"
            )
        if get_ident() != self._thread or not self._loop.is_running():
            return list(writers)
        idle: list[ServerFrameWriter] = []
        queues: dict[WriteScheduler | _SharedQueue | None, list[ServerFrameWriter]] = {
            self: idle
        }
        # Mostly the same queue as that of the writer before.
        last: WriteScheduler | _SharedQueue | None = self
        members = idle
        for each in writers:
            queue = each._queue
            if queue is not last:
                last = queue
                members = queues.setdefault(queue, [])
            members.append(each)
        del queues[self]
        refused: list[ServerFrameWriter] = []
        for queue, members in queues.items():
            if type(queue) is _SharedQueue and self._join(queue, members, frame):
                continue
            for each in members:
                if each.congested or each._closed or each.scheduler is not self:
                    refused.append(each)
                else:
                    each.write(frame)
        if idle:
            self._share(idle, [frame], len(frame))
        return refused

    def _join(
        self, queue: _SharedQueue, members: list[ServerFrameWriter], frame: bytes
    ) -> bool:
        """Add ``frame`` for these members of ``queue``; return False if it cannot."""
        size = queue.size + len(frame)
        if members[0].scheduler is not self or size > _FLUSH_SIZE:
            return False
        if len(members) == queue.remaining:
            queue.frames.append(frame)
            queue.size = size
        else:
            # The other members do not get it.
            queue.remaining -= len(members)
            self._share(members, [*queue.frames, frame], size)
        return True

    def _share(
        self, members: list[ServerFrameWriter], frames: list[bytes], size: int
    ) -> None:
        """Queue ``frames`` for ``members``, which have no other queue."""
        if len(members) < _MIN_SHARED:
            for each in members:
                each._queue = None
                each._frames += frames
                each._size = size
                self.add(each)
                if size > _FLUSH_SIZE:
                    each.flush()
            return
        shared = _SharedQueue(members, frames, size)
        for each in members:
            each._queue = shared
        self._shared_queues.append(shared)
        if not self.due:
            self._schedule()

    def _schedule(self) -> None:
        self.due = True
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write one slice of the sockets with own queues, and one of a shared queue."""
        if not self._batch and self._queued:
            self._batch, self._queued = self._queued, []
            self._batch.reverse()
        try:
            if self._batch:
                self._flush_batch()
            if self._shared_queues:
                self._flush_shared(self._shared_queues[0])
        finally:
            while self._shared_queues and self._shared_queues[0].is_over():
                self._shared_queues.popleft()
            if self._batch or self._queued or self._shared_queues:
                self._loop.call_soon(self._flush)
            else:
                self.due = False

    def _flush_batch(self) -> None:
        part = self._batch[-_SLICE:]
        del self._batch[-_SLICE:]
        part.reverse()
        for each in part:
            try:
                frames = each._frames
                # The usual case, without a call of flush(). A single frame is not copied.
                if (
                    frames
                    and each._size <= _FLUSH_SIZE
                    and not each.congested
                    and not each._closed
                ):
                    data = b"".join(frames)
                    frames.clear()
                    each._size = 0
                    # Set before the write, during which the transport may call pause_writing().
                    each._queue = self
                    each._transport.write(data)
                elif each._queue is None:
                    each.flush()
            except Exception as error:
                self._cut(each, error)

    def _flush_shared(self, shared: _SharedQueue) -> None:
        frames, start = shared.frames, shared.reached
        stop = start + max(1, min(_SLICE, _SLICE_SIZE // (shared.size + 1)))
        data = b"".join(frames)
        shared.reached = stop
        served = 0
        for each in shared.members[start:stop]:
            if each._queue is not shared:
                continue  # it has left
            served += 1
            # Set before the write, during which the transport may call pause_writing().
            each._queue = self
            try:
                each._transport.write(data)
            except Exception as error:
                self._cut(each, error)
        shared.remaining -= served

    def _cut(self, frames: ServerFrameWriter, error: Exception) -> None:
        logger.error("a socket could not be written to, and is cut", exc_info=error)
        frames.cut()


_schedulers: WeakKeyDictionary[Any, WriteScheduler] = WeakKeyDictionary()


class ServerFrameWriter:
    """Takes frames for one socket, in order, and never blocks.

    A WebSocket scope has it as ``scope["extensions"]["tiderace.frames"]``. A frame is
    built once, with ``text_frame`` or ``binary_frame`` here, and written to any number
    of sockets, which share the bytes until the slowest client has read them. Frames go
    out in the order of ``write``, ``write_all`` and ASGI's ``websocket.send`` taken
    together. To be used in the thread of the event loop, after the socket was accepted.

    Not guaranteed: that the client receives a frame. The queue is not bounded: callers
    that need a bound check ``buffered``.
    """

    __slots__ = (
        "_closed",
        "_frames",
        "_queue",
        "_size",
        "_transport",
        "_waiters",
        "congested",
        "on_text",
        "scheduler",
    )

    text_frame = staticmethod(text_frame)
    binary_frame = staticmethod(binary_frame)

    def __init__(self, transport: asyncio.Transport, scheduler: WriteScheduler) -> None:
        self._transport = transport
        self.scheduler = scheduler
        # The frames queued for this socket alone.
        self._frames: list[bytes] = []
        self._size = 0
        # The scheduler while the socket is idle: nothing is queued, and it can be
        # written to. Else the queue that it shares with others, or None for its own.
        self._queue: WriteScheduler | _SharedQueue | None = None
        # Whether the transport's buffer is full, because the client reads slowly.
        self.congested = False
        # Whether frames are dropped: before the handshake, and after the close frame.
        self._closed = True
        self._waiters: list[asyncio.Future[None]] | None = None
        # Takes a text message of the client, in place of ``receive``; False to queue it.
        self.on_text: Callable[[str], bool] | None = None

    # Applications copy their scope, and pickle it for other processes. A copy has the
    # same writer; in another process there is None.

    def __deepcopy__(self, memo: dict[int, Any]) -> ServerFrameWriter:
        return self

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()

    def write(self, frame: bytes) -> None:
        """Queue one whole frame; it is dropped when the socket is closing or not open.

        Returns at once and raises nothing. The frame is written when the running tick
        of the event loop ends, together with all other frames of that tick.
        """
        queue, scheduler = self._queue, self.scheduler
        if queue is scheduler:
            self._queue = None
            # As WriteScheduler.add, without the call.
            scheduler._queued.append(self)
            if not scheduler.due:
                scheduler._schedule()
        elif queue is not None:
            self._leave()
            scheduler.add(self)
        elif self._closed:
            return
        self._frames.append(frame)
        self._size += len(frame)
        if self._size > _FLUSH_SIZE:
            self.flush()

    def write_all(
        self, writers: Iterable[ServerFrameWriter], frame: bytes
    ) -> list[ServerFrameWriter]:
        """Queue one frame for many sockets, which costs far less than ``write`` to each.

        Each of them may be given once; this socket need not be among them.

        Returns:
            The sockets that it was not written to: their clients read too slowly, they
            are closing, or they belong to another server of the process. All of them
            outside the thread of the event loop.

        Raises:
            TypeError: when ``frame`` is not bytes.
        """
        return self.scheduler.write_all(writers, frame)

    @property
    def unsent(self) -> bool:
        """Whether the kernel has not taken all bytes that were written to the transport."""
        return self._transport.get_write_buffer_size() > 0

    @property
    def buffered(self) -> int:
        """Bytes queued here or in the transport, which the kernel has not taken yet."""
        size = self._size + self._transport.get_write_buffer_size()
        if type(self._queue) is _SharedQueue:
            size += self._queue.size
        return size

    async def drained(self) -> None:
        """Wait until the transport accepts more, or the socket is closed."""
        while self.congested and not self._closed:
            waiter = asyncio.get_running_loop().create_future()
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
            await waiter

    def flush(self) -> None:
        """Write queued frames until the transport's buffer is full."""
        self._leave()
        frames = self._frames
        while frames and not self.congested:
            # A single frame is not copied, here or in _take_some.
            if self._size <= _FLUSH_SIZE:
                data = b"".join(frames)
                frames.clear()
                self._size = 0
            else:
                data = self._take_some()
            if self._transport.is_closing():
                frames.clear()
                self._size = 0
                break
            self._transport.write(data)
        if not self.congested and not self._closed:
            self._queue = self.scheduler

    def _leave(self) -> None:
        """Leave a shared queue, with a copy of its frames."""
        queue = self._queue
        self._queue = None
        if type(queue) is _SharedQueue:
            queue.remaining -= 1
            self._frames = queue.frames.copy()
            self._size = queue.size

    def _take_some(self) -> bytes:
        """Remove the frames of one write, at least one, and return them joined."""
        size = count = 0
        for frame in self._frames:
            size += len(frame)
            count += 1
            if size > _FLUSH_SIZE:
                break
        data = b"".join(self._frames[:count])
        del self._frames[:count]
        self._size -= size
        return data

    # For the connection that owns the writer

    def open(self) -> None:
        """Accept frames from now on: the handshake has succeeded."""
        self._closed = False
        if not self.congested:
            self._queue = self.scheduler

    def end(self, last: bytes) -> None:
        """Queue the close frame; later frames are dropped."""
        self.write(last)
        self._queue = None
        self._closed = True

    def finish(self, last: bytes) -> None:
        """Write the close frame now, and drop the frames that a slow client has not taken."""
        self.flush()
        self._queue = None
        self._closed = True
        self._frames.clear()
        self._size = 0
        if not self._transport.is_closing():
            self._transport.write(last)
        self._wake()

    def pause(self) -> None:
        """Write nothing until ``resume``: the transport's buffer is full."""
        self._leave()
        self.congested = True

    def resume(self) -> None:
        """Write again, and wake ``drained`` if the transport still accepts more."""
        self.congested = False
        self.flush()
        if not self.congested:
            self._wake()

    def stop(self) -> None:
        """Drop queued and later frames: the client has stopped reading."""
        self._leave()
        self._closed = True
        self._frames.clear()
        self._size = 0
        self._wake()

    def cut(self) -> None:
        """Drop everything and abort the transport."""
        self.congested = False
        self.stop()
        self._transport.abort()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)
