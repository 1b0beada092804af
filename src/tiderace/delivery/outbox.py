"""The outgoing side of one socket: what was said to the client, and whether it still can be.

It is the only one that calls the server's ``send`` for its connection. It knows ASGI
events by their type alone, and no consumer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

from tiderace import metrics
from tiderace.asgi import Event, Send, websocket_send

__all__ = ["FrameWriter", "Outbox", "PreparedMessage", "TooSlow", "write_to_idle"]


class TooSlow(Exception):
    """The client has left more unread than its outbox may hold."""


class FrameWriter(Protocol):
    """What our own server offers beside ASGI; see ``tiderace.server.ServerFrameWriter``."""

    def text_frame(self, payload: bytes) -> bytes:
        """A whole text message as bytes for any socket."""

    def binary_frame(self, payload: bytes) -> bytes:
        """A whole binary message as bytes for any socket."""

    def write(self, frame: bytes) -> None:
        """Queue a frame, in order with what ASGI sends; never blocks."""

    def write_all(self, writers: Iterable[Any], frame: bytes) -> list[Any]:
        """Queue a frame for many sockets; return those it was not written to."""

    async def drained(self) -> None:
        """Wait until the client has caught up, or is gone."""

    @property
    def congested(self) -> bool:
        """Whether the client reads more slowly than is written."""

    @property
    def buffered(self) -> int:
        """Bytes that the kernel has not taken yet."""


class PreparedMessage:
    """A message to clients that is the same for all of them, so encoded once.

    Args:
        text_data: text to send; wins over ``bytes_data``.
        bytes_data: bytes to send.

    Raises:
        ValueError: when neither is given.
    """

    __slots__ = ("_frame", "event")

    def __init__(self, text_data: str | None = None, bytes_data: bytes | None = None):
        self.event: dict[str, Any] = websocket_send(text_data, bytes_data)
        self._frame: bytes | None = None

    def frame(self, frames: FrameWriter) -> bytes:
        """The message as a frame, built by the first socket that needs it."""
        frame = self._frame
        if frame is None:
            text = self.event.get("text")
            if text is None:
                frame = frames.binary_frame(self.event["bytes"])
            else:
                frame = frames.text_frame(text.encode())
            self._frame = frame
        return frame


class Waiting(Protocol):
    """What ``write_to_idle`` needs of a mailbox."""

    writer: FrameWriter | None


W = TypeVar("W", bound=Waiting)


def write_to_idle(receivers: list[W], ready: PreparedMessage) -> list[W]:
    """Write ``ready`` to every client whose connection only waits for such a message.

    All of them at once, which costs far less than to ask each connection.

    Returns:
        Those it was not written to, for whatever reason; each has to be asked.
    """
    writers = [each.writer for each in receivers]
    waiting = [writer for writer in writers if writer is not None]
    if not waiting:
        return receivers
    refused = waiting[0].write_all(waiting, ready.frame(waiting[0]))
    if not refused and len(waiting) == len(receivers):
        return []
    left = {id(writer) for writer in refused}
    return [
        each
        for each, writer in zip(receivers, writers, strict=True)
        if writer is None or id(writer) in left
    ]


class Outbox:
    """Sends a connection's events in order, and knows what state they have led to.

    Back-pressure is the server's: ``send`` returns when the server has taken the
    event, which is at once while the client keeps up. An event for a client that is
    gone, or after our own close, has nobody to reach: it is counted in
    ``metrics.SENDS_AFTER_CLOSE`` and dropped, so that a group message which crosses a
    goodbye on its way is no error. Not guaranteed: that what ``send`` has taken is
    ever seen by the client.
    """

    __slots__ = ("_frames", "_limit", "_send", "accepted", "closed", "leaving", "lost")

    def __init__(
        self, send: Send, *, frames: FrameWriter | None = None, limit: int = 0
    ) -> None:
        self._send = send
        # Our own server's way for finished frames, and the bytes that may wait there.
        self._frames = frames
        self._limit = limit
        self.accepted = False
        self.closed = False
        # The disconnect event has been read, but not handled yet; then the client is
        # lost.
        self.leaving = False
        self.lost = False

    @property
    def open(self) -> bool:
        """Whether a WebSocket was accepted and, as far as known here, is still there."""
        return self.accepted and not self.closed and not self.lost

    @property
    def writer(self) -> FrameWriter | None:
        """What takes frames for the client now; None without our own server."""
        return self._frames if self.open else None

    def put(self, ready: PreparedMessage) -> bool:
        """Send ``ready`` without waiting, where the server can; else False.

        Raises:
            TooSlow: when more than ``limit`` bytes are waiting for the client.
        """
        frames = self._frames
        if frames is None:
            return False
        if not self.accepted or self.closed or self.lost:
            metrics.SENDS_AFTER_CLOSE.add()
        elif frames.congested and frames.buffered > self._limit:
            raise TooSlow
        else:
            frames.write(ready.frame(frames))
        return True

    async def send(self, event: Event) -> None:
        """Hand ``event`` to the server.

        Raises:
            RuntimeError: whatever the server raises for an event out of order, such
                as a message before the socket was accepted.
        """
        kind = event.get("type")
        if kind == "websocket.send" and not (self.lost or self.closed):
            frames = self._frames
            if frames is not None and self.accepted and "text" in event:
                # What the server would do, without its coroutine.
                frames.write(_text_frame(frames, event["text"]))
                if frames.congested:
                    await frames.drained()
                return
            try:
                await self._send(event)
            except (OSError, RuntimeError) as error:
                self._failed(error)
            return
        if self.lost or (self.closed and kind in ("websocket.send", "websocket.close")):
            metrics.SENDS_AFTER_CLOSE.add()
            return
        if kind == "websocket.close":
            # Before the await: while the server is sending it, nothing may follow.
            self.closed = True
            code = event.get("code") or 1000
            metrics.CLOSES_SENT.add(code if self.accepted else "refused")
        elif kind == "websocket.http.response.start":
            metrics.CLOSES_SENT.add("refused")
        try:
            await self._send(event)
        except (OSError, RuntimeError) as error:
            self._failed(error)
            return
        if kind == "websocket.accept":
            self.accepted = True
            metrics.CONNECTIONS_ACCEPTED.add()

    def _failed(self, error: Exception) -> None:
        # OSError (ASGI 2.4) says that the client is gone; the disconnect event is
        # what ends the consumer. A server that has closed the socket itself may
        # call every event out of order from then on.
        if isinstance(error, RuntimeError) and not self.leaving:
            raise error
        self.lost = True
        metrics.SENDS_AFTER_CLOSE.add()


# The text that was sent last, and its frame: mostly, a group's members say the same one
# after the other.
_last: tuple[str, bytes] = ("", b"")


def _text_frame(frames: FrameWriter, text: str) -> bytes:
    global _last
    last, frame = _last
    if not frame or text != last:
        frame = frames.text_frame(text.encode())
        _last = text, frame
    return frame
