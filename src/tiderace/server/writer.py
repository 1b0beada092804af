"""What a socket has still to send: frames, joined into one write per tick of the loop.

It knows transports and finished frames; it knows neither messages nor ASGI. Everything
here belongs to the thread of the event loop.
"""

# Three classes of one room, which know each other's insides: a crowd is served in plain
# loops, without a call for each of its sockets.
# ruff: noqa: SLF001

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from threading import get_ident
from typing import Any, Final

from tiderace.server.frames import binary_frame, text_frame

__all__ = ["ServerFrameWriter", "WriteScheduler"]

logger = logging.getLogger("tiderace.server")

# Bytes queued in one tick after which the kernel gets them without waiting for its end.
_EAGER_SIZE: Final = 64 * 1024
# Sockets written to, and bytes, before the loop may do something else: less than a
# millisecond. In that time the next messages of a burst are fanned out, and join what
# is still queued.
_SLICE: Final = 64
_SLICE_SIZE: Final = 1024 * 1024
# Sockets for which one queue pays; fewer do not have to wait behind a crowd either.
_CROWD: Final = 16


class _Shared:
    """One queue of many sockets: frames that all of them are to get, and only these.

    A frame is put in once, however many they are, and what is in is joined once. A
    socket that is to get anything else leaves, with a copy of the queue.
    """

    __slots__ = ("frames", "members", "reached", "size", "tick", "waiting")

    def __init__(
        self,
        tick: WriteScheduler,
        members: list[ServerFrameWriter],
        frames: list[bytes],
        size: int,
    ) -> None:
        self.tick = tick
        self.frames = frames
        self.size = size
        # In the order of their turns, those too that have left; and how many of the
        # list have had it, how many members there still are.
        self.members = members
        self.reached = 0
        self.waiting = len(members)

    def is_over(self) -> bool:
        """Whether nobody waits here any more."""
        return not self.waiting or self.reached >= len(self.members)


class WriteScheduler:
    """Writes, at the end of the running tick of the loop, what sockets have queued.

    A socket with nothing before it waits for nothing: the loop comes here next.
    A crowd is written to in slices, so that pings and other groups get their turn.
    """

    __slots__ = (
        "__weakref__",
        "_called",
        "_crowd",
        "_loop",
        "_shared",
        "_thread",
        "_waiting",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = get_ident()
        # Whether the loop is to come here.
        self._called = False
        self._waiting: list[ServerFrameWriter] = []
        # Those whose turn it is, the last one first.
        self._crowd: list[ServerFrameWriter] = []
        self._shared: deque[_Shared] = deque()

    def add(self, frames: ServerFrameWriter) -> None:
        """Have ``frames`` flushed when the tick ends."""
        self._waiting.append(frames)
        if not self._called:
            self._call()

    def write_all(
        self, writers: Iterable[ServerFrameWriter], frame: bytes
    ) -> list[ServerFrameWriter]:
        """See ``ServerFrameWriter.write_all``."""
        if type(frame) is not bytes:
            raise TypeError(
                f"a frame is bytes, not {type(frame).__name__}; build it with "
                "text_frame() or binary_frame()"
            )
        if get_ident() != self._thread or not self._loop.is_running():
            return list(writers)
        idle: list[ServerFrameWriter] = []
        queues: dict[WriteScheduler | _Shared | None, list[ServerFrameWriter]] = {
            self: idle
        }
        # Neighbours mostly have the same queue.
        last: WriteScheduler | _Shared | None = self
        some = idle
        for each in writers:
            queue = each._queue
            if queue is not last:
                last = queue
                some = queues.setdefault(queue, [])
            some.append(each)
        del queues[self]
        refused: list[ServerFrameWriter] = []
        for queue, members in queues.items():
            if type(queue) is _Shared and self._join(queue, members, frame):
                continue
            for each in members:
                if each.congested or each._ended or each._tick is not self:
                    refused.append(each)
                else:
                    each.write(frame)
        if idle:
            self._share(idle, [frame], len(frame))
        return refused

    def _join(
        self, queue: _Shared, members: list[ServerFrameWriter], frame: bytes
    ) -> bool:
        """Put ``frame`` behind what these members of ``queue`` are to get already."""
        size = queue.size + len(frame)
        if queue.tick is not self or size > _EAGER_SIZE:
            return False
        if len(members) == queue.waiting:
            queue.frames.append(frame)
            queue.size = size
        else:
            # They part from those who are not to get it.
            queue.waiting -= len(members)
            self._share(members, [*queue.frames, frame], size)
        return True

    def _share(
        self, members: list[ServerFrameWriter], frames: list[bytes], size: int
    ) -> None:
        """Have ``members``, who have no other queue, wait together for ``frames``."""
        if len(members) < _CROWD:
            for each in members:
                each._queue = None
                each._frames += frames
                each._size = size
                self.add(each)
                if size > _EAGER_SIZE:
                    each.flush()
            return
        shared = _Shared(self, members, frames, size)
        for each in members:
            each._queue = shared
        self._shared.append(shared)
        if not self._called:
            self._call()

    def _call(self) -> None:
        self._called = True
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write to a slice of those who queue alone, and to one of a shared queue."""
        if not self._crowd and self._waiting:
            self._crowd, self._waiting = self._waiting, []
            self._crowd.reverse()
        try:
            if self._crowd:
                self._flush_crowd()
            if self._shared:
                self._flush_shared(self._shared[0])
        finally:
            while self._shared and self._shared[0].is_over():
                self._shared.popleft()
            if self._crowd or self._waiting or self._shared:
                self._loop.call_soon(self._flush)
            else:
                self._called = False

    def _flush_crowd(self) -> None:
        turn = self._crowd[-_SLICE:]
        del self._crowd[-_SLICE:]
        turn.reverse()
        for each in turn:
            try:
                # One frame, as mostly, without the general way's calls.
                if len(each._frames) == 1 and not each.congested and not each._ended:
                    frame = each._frames.pop()
                    each._size = 0
                    # Before the write, in which the transport may say that it is full.
                    each._queue = self
                    each._transport.write(frame)
                elif each._queue is None:
                    each.flush()
            except Exception as error:
                self._cut(each, error)

    def _flush_shared(self, shared: _Shared) -> None:
        frames, start = shared.frames, shared.reached
        stop = start + max(1, min(_SLICE, _SLICE_SIZE // (shared.size + 1)))
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        shared.reached = stop
        served = 0
        for each in shared.members[start:stop]:
            if each._queue is not shared:
                continue  # it has left
            served += 1
            # Before the write, in which the transport may say that it is full.
            each._queue = self
            try:
                each._transport.write(data)
            except Exception as error:
                self._cut(each, error)
        shared.waiting -= served

    def _cut(self, frames: ServerFrameWriter, error: Exception) -> None:
        # One socket's fault ends that socket; the others get their frames.
        logger.error("a socket could not be written to, and is cut", exc_info=error)
        frames.cut()


class ServerFrameWriter:
    """Takes frames for one socket, in order, and never blocks.

    A WebSocket scope has it as ``scope["extensions"]["tiderace.frames"]``. A frame is
    built once, with ``text_frame`` or ``binary_frame`` here, and written to any number
    of sockets: all of them share the bytes, also while a slow one is still to take
    them. Frames go out in the order of ``write``, of ``write_all`` and of ASGI's
    ``websocket.send`` taken together. To be used in the thread of the event loop,
    after the socket was accepted.

    Not guaranteed: that the client ever sees a frame. How much is waiting is in
    ``buffered``; there is no bound here, so whoever writes keeps one.
    """

    __slots__ = (
        "_ended",
        "_frames",
        "_queue",
        "_size",
        "_tick",
        "_transport",
        "_waiters",
        "congested",
    )

    text_frame = staticmethod(text_frame)
    binary_frame = staticmethod(binary_frame)

    def __init__(self, transport: asyncio.Transport, tick: WriteScheduler) -> None:
        self._transport = transport
        self._tick = tick
        # What this socket alone is to get.
        self._frames: list[bytes] = []
        self._size = 0
        # The tick itself while there is nothing to send and nothing in the way; then
        # the queue that is shared with others, or none but one's own.
        self._queue: WriteScheduler | _Shared | None = None
        # Whether the client reads more slowly than is written to it.
        self.congested = False
        # Until the handshake is answered there is nobody to send frames to.
        self._ended = True
        self._waiters: list[asyncio.Future[None]] | None = None

    # Applications copy their scope, and send it to other processes; none of that has
    # to do with this. It stays the one it is, and elsewhere there is none.

    def __deepcopy__(self, memo: dict[int, Any]) -> ServerFrameWriter:
        return self

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()

    def write(self, frame: bytes) -> None:
        """Queue one whole frame; it is dropped when the socket is closing or not open.

        Returns at once and raises nothing. The frame leaves when the running tick of
        the event loop ends, in one write with all others that came in it.
        """
        queue, tick = self._queue, self._tick
        if queue is tick:
            self._queue = None
            # Tick.add, without the call.
            tick._waiting.append(self)
            if not tick._called:
                tick._call()
        elif queue is not None:
            self._leave()
            tick.add(self)
        elif self._ended:
            return
        self._frames.append(frame)
        self._size += len(frame)
        if self._size > _EAGER_SIZE:
            self.flush()

    def write_all(
        self, writers: Iterable[ServerFrameWriter], frame: bytes
    ) -> list[ServerFrameWriter]:
        """Queue one frame for many sockets, which costs far less than ``write`` to each.

        Each of them may be given once; this socket need not be among them.

        Returns:
            Those to whom it was not written, each of which has to be asked by itself:
            their clients read too slowly, they are closing, or they belong to another
            server of the process; all of them outside the thread of the event loop.

        Raises:
            TypeError: when ``frame`` is not bytes.
        """
        return self._tick.write_all(writers, frame)

    @property
    def buffered(self) -> int:
        """Bytes that were written here and that the kernel has not taken yet."""
        size = self._size + self._transport.get_write_buffer_size()
        if type(self._queue) is _Shared:
            size += self._queue.size
        return size

    async def drained(self) -> None:
        """Wait until the client has caught up, or nothing is sent to it any more."""
        while self.congested and not self._ended:
            waiter = asyncio.get_running_loop().create_future()
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
            await waiter

    def flush(self) -> None:
        """Give the transport what is queued, unless it has enough already."""
        self._leave()
        frames = self._frames
        while frames and not self.congested:
            if len(frames) == 1:
                data = frames[0]
                frames.clear()
                self._size = 0
            elif self._size <= _EAGER_SIZE:
                data = b"".join(frames)
                frames.clear()
                self._size = 0
            else:
                data = self._some()
            if self._transport.is_closing():
                frames.clear()
                self._size = 0
                break
            self._transport.write(data)
        if not self.congested and not self._ended:
            self._queue = self._tick

    def _leave(self) -> None:
        """Wait for nobody else's sake from now on."""
        queue = self._queue
        self._queue = None
        if type(queue) is _Shared:
            queue.waiting -= 1
            self._frames = queue.frames.copy()
            self._size = queue.size

    def _some(self) -> bytes:
        """Take off as many frames as are worth one write, and at least one."""
        size = count = 0
        for frame in self._frames:
            size += len(frame)
            count += 1
            if size > _EAGER_SIZE:
                break
        data = b"".join(self._frames[:count])
        del self._frames[:count]
        self._size -= size
        return data

    # What follows is for the connection that owns it.

    def open(self) -> None:
        """Take frames from now on: the handshake is done."""
        self._ended = False
        if not self.congested:
            self._queue = self._tick

    def end(self, last: bytes) -> None:
        """Queue the close frame, after which nothing is taken."""
        self.write(last)
        self._queue = None
        self._ended = True

    def finish(self, last: bytes) -> None:
        """Write the close frame now; what a slow client has not taken is given up."""
        self.flush()
        self._queue = None
        self._ended = True
        self._frames.clear()
        self._size = 0
        if not self._transport.is_closing():
            self._transport.write(last)
        self._wake()

    def pause(self) -> None:
        """The transport has enough for now."""
        self._leave()
        self.congested = True

    def resume(self) -> None:
        """The transport takes more: flush, and let those go on who wait."""
        self.congested = False
        self.flush()
        if not self.congested:
            self._wake()

    def stop(self) -> None:
        """The client listens no more; nothing is sent to it from now on."""
        self._leave()
        self._ended = True
        self._frames.clear()
        self._size = 0
        self._wake()

    def cut(self) -> None:
        """Nothing can be sent any more: the connection is lost, or is now."""
        self.congested = False
        self.stop()
        self._transport.abort()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)
