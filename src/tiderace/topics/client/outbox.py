"""What one topic client has still to be sent: in order, bounded in bytes, joined.

Where the server takes ready frames they go straight there; elsewhere a writer of the
connection's own sends what has gathered, several frames in one message. It knows
encoded frames, and nothing of what they say.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from tiderace import metrics
from tiderace.delivery.outbox import TooSlow
from tiderace.history import Publication
from tiderace.protocol.codec import Codec

__all__ = ["ClientOutbox", "Frames"]

_JOINED = 64  # frames in one message, at the most
_JOINED_SIZE = 65_536  # bytes after which no more are joined
_FINISH = 2.0  # seconds for what is waiting when the connection ends


class Frames(Protocol):
    """What our own server offers beside ASGI; see ``tiderace.server.ServerFrameWriter``."""

    congested: bool

    def text_frame(self, payload: bytes) -> bytes:
        """A whole text message as bytes for any socket."""

    def binary_frame(self, payload: bytes) -> bytes:
        """A whole binary message as bytes for any socket."""

    def write(self, frame: bytes) -> None:
        """Queue a frame, in order with what ASGI sends; never blocks."""

    def write_all(self, writers: list[Any], frame: bytes) -> list[Any]:
        """Queue one frame for many sockets; those to be asked one by one."""

    @property
    def buffered(self) -> int:
        """Bytes that the kernel has not taken yet."""


class ClientOutbox:
    """Frames on their way to one client.

    Args:
        codec: how frames are joined.
        send: takes one message; it waits while the client reads slowly.
        frames: the server's way for ready frames, where it has one.
        limit: bytes that may wait.
        slow: called when ``share`` finds more than that.
    """

    __slots__ = (
        "_codec",
        "_crowd",
        "_ended",
        "_frames",
        "_key",
        "_limit",
        "_queue",
        "_send",
        "_size",
        "_slow",
        "_wake",
        "_wrap",
        "_writer",
    )

    def __init__(
        self,
        codec: Codec,
        send: Callable[[bytes], Awaitable[None]],
        *,
        frames: Frames | None,
        limit: int,
        slow: Callable[[], None],
    ) -> None:
        self._codec = codec
        self._send = send
        self._frames = frames
        self._limit = limit
        self._slow = slow
        # Under which a frame as our server writes it is kept beside the encoded one.
        self._key = ("frame", codec.name)
        self._crowd = ("crowd", codec.name)
        self._wrap: Callable[[bytes], bytes] | None = None
        if frames is not None:
            self._wrap = frames.binary_frame if codec.binary else frames.text_frame
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send; where the server takes frames there is nothing to begin."""
        if self._frames is None:
            self._writer = asyncio.get_running_loop().create_task(self._write())

    def put(self, frame: bytes, shared: dict[Any, Any] | None = None) -> None:
        """Send ``frame`` after what is waiting; never blocks.

        Args:
            frame: as the codec has encoded it.
            shared: where a frame that many clients get keeps what it becomes for the
                server; the same dict for all of them.

        Raises:
            TooSlow: when more than the limit would wait for the client.
        """
        frames, wrap = self._frames, self._wrap
        if frames is None or wrap is None:
            self._size += len(frame)
            if self._size > self._limit and len(self._queue) > 1:
                raise TooSlow
            self._queue.append(frame)
            self._wake.set()
            return
        if frames.congested and frames.buffered > self._limit:
            raise TooSlow
        if shared is None:
            frames.write(wrap(frame))
            return
        ready = shared.get(self._key)
        if ready is None:
            ready = shared[self._key] = wrap(frame)
        frames.write(ready)

    def share(self, frame: bytes, publication: Publication) -> None:
        """Send what a crowd of clients is being told; see ``put``.

        Where the server takes frames they are written together, when the last one of
        the crowd was told. To be called from ``Listener.on_publication`` alone.
        """
        wrap = self._wrap
        if wrap is None:
            self.put(frame)
            return
        shared = publication.encoded
        crowd: list[ClientOutbox] | None = shared.get(self._crowd)
        if crowd is None:
            crowd = shared[self._crowd] = []
            if self._key not in shared:
                shared[self._key] = wrap(frame)
            publication.after.append(lambda: _write_all(shared, self._crowd, self._key))
        crowd.append(self)

    async def finish(self) -> None:
        """Send what is waiting, and end; who does not read is not waited for long."""
        writer = self._writer
        if writer is None:
            return
        self._ended = True
        self._wake.set()
        # Who has not read it by then would not read what follows either.
        await asyncio.wait([writer], timeout=_FINISH)
        self.abandon()

    def abandon(self) -> None:
        """End without sending what is waiting."""
        self._queue.clear()
        self._size = 0
        if self._writer is not None:
            self._writer.cancel()

    async def _write(self) -> None:
        queue = self._queue
        try:
            while True:
                while queue:
                    await self._send(self._some())
                if self._ended:
                    return
                self._wake.clear()
                await self._wake.wait()
        except OSError:
            # The client is gone, which its reader learns as well.
            metrics.SENDS_AFTER_CLOSE.add(len(queue))
            queue.clear()

    def _some(self) -> bytes:
        queue = self._queue
        some: list[bytes] = []
        size = 0
        while queue and len(some) < _JOINED and size < _JOINED_SIZE:
            frame = queue.popleft()
            size += len(frame)
            some.append(frame)
        self._size -= size
        return some[0] if len(some) == 1 else self._codec.join(some)


def _write_all(shared: dict[Any, Any], crowd_key: Any, frame_key: Any) -> None:
    """Write the frame that is ready in ``shared`` to all who have asked for it."""
    crowd: list[ClientOutbox] = shared.pop(crowd_key)
    by_frames = {id(each._frames): each for each in crowd}  # noqa: SLF001 (one room)
    writers = [each._frames for each in crowd]  # noqa: SLF001
    first, ready = writers[0], shared[frame_key]
    assert first is not None  # noqa: S101 (only those with frames are in a crowd)
    for refused in first.write_all(writers, ready):
        outgoing = by_frames[id(refused)]
        try:
            outgoing.put(b"", shared)
        except TooSlow:
            outgoing._slow()  # noqa: SLF001
