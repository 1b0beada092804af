"""What a socket has still to send: frames, joined into one write per tick of the loop.

It knows transports and finished frames; it knows neither messages nor ASGI. Everything
here belongs to the thread of the event loop.
"""

# Two classes of one room, which know each other's insides: see the fast way in Tick.
# ruff: noqa: SLF001

from __future__ import annotations

import asyncio
import logging
from typing import Final

from tiderace.server.frames import binary_frame, text_frame

__all__ = ["ReadyFrames", "Tick"]

logger = logging.getLogger("tiderace.server")

# Bytes queued in one tick after which the kernel gets them without waiting for its end.
_EAGER_SIZE: Final = 64 * 1024
# Sockets written to before the loop may do something else: less than a millisecond. In
# that time the next messages of a burst are fanned out, and join what is still queued.
_SLICE: Final = 64


class Tick:
    """Writes, at the end of the running tick of the loop, what sockets have queued.

    A socket with nothing before it waits for nothing: the loop comes here next.
    A crowd is written to in slices, so that pings and other groups get their turn.
    """

    __slots__ = ("__weakref__", "_crowd", "_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[ReadyFrames] = []
        # Those whose turn it is, the last one first.
        self._crowd: list[ReadyFrames] = []

    def add(self, frames: ReadyFrames) -> None:
        """Have ``frames`` flushed when the tick ends."""
        if not self._waiting and not self._crowd:
            self._loop.call_soon(self._flush)
        self._waiting.append(frames)

    def _flush(self) -> None:
        crowd = self._crowd
        if not crowd:
            self._crowd, self._waiting = self._waiting, []
            crowd = self._crowd
            crowd.reverse()
        turn = crowd[-_SLICE:]
        del crowd[-_SLICE:]
        if crowd or self._waiting:
            self._loop.call_soon(self._flush)
        turn.reverse()
        for frames in turn:
            try:
                # The one frame of a plain fan-out, without the general way's calls.
                queue, transport = frames._frames, frames._transport
                if len(queue) == 1 and not frames.congested:
                    frames._size = 0
                    frame = queue.pop()
                    if not transport.is_closing():
                        transport.write(frame)
                else:
                    frames.flush()
            except Exception:
                # One socket's fault ends that socket; the others get their frames.
                logger.exception("a socket could not be written to, and is cut")
                frames.cut()


class ReadyFrames:
    """Takes frames for one socket, in order, and never blocks.

    A WebSocket scope has it as ``scope["extensions"]["tiderace.frames"]``. A frame is
    built once, with ``text_frame`` or ``binary_frame`` here, and written to any number
    of sockets: all of them share the bytes, also while a slow one is still to take
    them. Frames go out in the order of ``write`` and of ASGI's ``websocket.send``
    taken together. To be used in the thread of the event loop, after the socket was
    accepted.

    Not guaranteed: that the client ever sees a frame. How much is waiting is in
    ``buffered``; there is no bound here, so whoever writes keeps one.
    """

    __slots__ = (
        "_ended",
        "_frames",
        "_size",
        "_tick",
        "_transport",
        "_waiters",
        "congested",
    )

    text_frame = staticmethod(text_frame)
    binary_frame = staticmethod(binary_frame)

    def __init__(self, transport: asyncio.Transport, tick: Tick) -> None:
        self._transport = transport
        self._tick = tick
        self._frames: list[bytes] = []
        self._size = 0
        # Whether the client reads more slowly than is written to it.
        self.congested = False
        # Until the handshake is answered there is nobody to send frames to.
        self._ended = True
        self._waiters: list[asyncio.Future[None]] | None = None

    def write(self, frame: bytes) -> None:
        """Queue one whole frame; it is dropped when the socket is closing or not open.

        Returns at once and raises nothing. The frame leaves when the running tick of
        the event loop ends, in one write with all others that came in it.
        """
        if self._ended:
            return
        frames = self._frames
        if not frames and not self.congested:
            tick = self._tick
            if tick._waiting:
                # Tick.add, without the call.
                tick._waiting.append(self)
            else:
                tick.add(self)
        frames.append(frame)
        self._size += len(frame)
        if self._size > _EAGER_SIZE:
            self.flush()

    @property
    def buffered(self) -> int:
        """Bytes that were written here and that the kernel has not taken yet."""
        return self._size + self._transport.get_write_buffer_size()

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
                return
            self._transport.write(data)

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

    def end(self, last: bytes) -> None:
        """Queue the close frame, after which nothing is taken."""
        self.write(last)
        self._ended = True

    def finish(self, last: bytes) -> None:
        """Write the close frame now; what a slow client has not taken is given up."""
        self.flush()
        self._ended = True
        self._frames.clear()
        self._size = 0
        if not self._transport.is_closing():
            self._transport.write(last)
        self._wake()

    def pause(self) -> None:
        """The transport has enough for now."""
        self.congested = True

    def resume(self) -> None:
        """The transport takes more: flush, and let those go on who wait."""
        self.congested = False
        self.flush()
        if not self.congested:
            self._wake()

    def cut(self) -> None:
        """Nothing can be sent any more: the connection is lost, or is now."""
        self._ended = True
        self.congested = False
        self._frames.clear()
        self._size = 0
        self._wake()
        self._transport.abort()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)
