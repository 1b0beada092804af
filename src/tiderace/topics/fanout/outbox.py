"""The outgoing queue of one topic client: frames in order, bounded in bytes.

Where the server takes finished frames they go straight there. Elsewhere a task of the
connection sends what has gathered, several frames in one message.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from tiderace import metrics
from tiderace.delivery.outbox import FrameWriter, TooSlow
from tiderace.protocol.codec import Codec

_MESSAGE_FRAMES = 64  # the most frames of one message
_MESSAGE_SIZE = 65_536  # bytes after which a message takes no more frames
_FINISH_TIMEOUT = 2.0  # seconds for what is queued when the connection ends


class ClientOutbox:
    """Sends frames to one client.

    Args:
        codec: joins frames into messages.
        send: sends one message; it waits while the client reads slowly.
        writer: the server's writer of finished frames, where it has one.
        limit: bytes that may be queued.
        on_slow: called when ``push`` or ``write_all`` finds more than that.
    """

    __slots__ = (
        "_closing",
        "_limit",
        "_queue",
        "_send",
        "_size",
        "_task",
        "_waiters",
        "_wake",
        "codec",
        "on_slow",
        "wrap",
        "writer",
    )

    def __init__(
        self,
        codec: Codec,
        send: Callable[[bytes], Awaitable[None]],
        *,
        writer: FrameWriter | None,
        limit: int,
        on_slow: Callable[[], None],
    ) -> None:
        self.codec = codec
        self._send = send
        self.writer = writer
        self.on_slow = on_slow
        self._limit = limit
        # Makes a frame of the server's out of one of the protocol's.
        self.wrap: Callable[[bytes], bytes] | None = None
        if writer is not None:
            self.wrap = writer.binary_frame if codec.binary else writer.text_frame
        else:
            # Not for every client: together they take 1.5 KB.
            self._queue: deque[bytes] = deque()
            self._wake = asyncio.Event()
        self._size = 0
        self._closing = False
        # Those that wait in ``drained``.
        self._waiters: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the sending task, unless the server takes finished frames."""
        if self.writer is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def busy(self) -> bool:
        """Whether something waits for the client to read."""
        return self._wake.is_set() if self.writer is None else self.writer.unsent

    def put(self, frame: bytes) -> None:
        """Queue a frame of the protocol; never blocks.

        Raises:
            TooSlow: when more than the limit would wait for the client.
        """
        if self.wrap is not None:
            self.write(self.wrap(frame))
            return
        self._size += len(frame)
        if self._size > self._limit and len(self._queue) > 1:
            raise TooSlow
        self._queue.append(frame)
        self._wake.set()

    def push(self, frame: bytes) -> None:
        """Queue a frame outside of a command: ``on_slow`` is called where ``put`` raises."""
        try:
            self.put(frame)
        except TooSlow:
            self.on_slow()

    def write(self, wrapped: bytes) -> None:
        """Queue what ``wrap`` returned; only where the server takes finished frames.

        Raises:
            TooSlow: when more than the limit would wait for the client.
        """
        writer = self.writer
        assert writer is not None  # noqa: S101 (see above)
        if writer.congested and writer.buffered > self._limit:
            raise TooSlow
        writer.write(wrapped)

    async def drained(self) -> None:
        """Wait while the client reads so slowly that much is queued for it."""
        if self.writer is not None:
            if self.writer.congested:
                await self.writer.drained()
        elif self._size > _MESSAGE_SIZE and self._task is not None:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            # The sending task ends early when the client is gone.
            await asyncio.wait(
                [waiter, self._task], return_when=asyncio.FIRST_COMPLETED
            )

    async def finish(self) -> None:
        """Send what is queued, and end; a client that does not read is given up."""
        task = self._task
        if task is None:
            return
        self._closing = True
        self._wake.set()
        await asyncio.wait([task], timeout=_FINISH_TIMEOUT)
        self.abandon()

    def abandon(self) -> None:
        """End without sending what is queued."""
        if self.writer is None:
            self._queue.clear()
            self._size = 0
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        queue = self._queue
        try:
            while True:
                while queue:
                    await self._send(self._next_message())
                for waiter in self._waiters:
                    if not waiter.done():
                        waiter.set_result(None)
                self._waiters.clear()
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
        except OSError:
            # The client is gone; the reading task ends the connection.
            metrics.SENDS_AFTER_CLOSE.add(len(queue))
            queue.clear()

    def _next_message(self) -> bytes:
        queue = self._queue
        frames: list[bytes] = []
        size = 0
        while queue and len(frames) < _MESSAGE_FRAMES and size < _MESSAGE_SIZE:
            frame = queue.popleft()
            size += len(frame)
            frames.append(frame)
        self._size -= size
        return frames[0] if len(frames) == 1 else self.codec.join(frames)


def write_all(outboxes: Sequence[ClientOutbox], frame: bytes) -> None:
    """Queue one frame for many clients with the same codec.

    Where the server takes finished frames, it is made one once and written to all
    sockets together, which costs far less than ``put`` for each. ``on_slow`` is called
    for clients that read too slowly.
    """
    writers = [each.writer for each in outboxes]
    first, wrap = writers[0], outboxes[0].wrap
    if first is None or wrap is None or not all(writers):
        for outbox in outboxes:
            outbox.push(frame)
        return
    wrapped = wrap(frame)
    refused = first.write_all(writers, wrapped)
    if refused:
        by_writer = {id(each.writer): each for each in outboxes}
        for writer in refused:
            outbox = by_writer[id(writer)]
            try:
                outbox.write(wrapped)
            except TooSlow:
                outbox.on_slow()
