"""Sends a connection's messages in order; the only caller of the server's ``send``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from tiderace import metrics
from tiderace.asgi import Event, Send, websocket_send
from tiderace.json_compat import well_formed_text


class TooSlow(Exception):
    """The client reads too slowly: its outbox is over its limit."""


class WriteSchedule(Protocol):
    """When the frames of an event loop are written."""

    due: bool
    """Whether the loop has a callback that writes them."""


class _NothingToWrite:
    due = False


NOTHING_TO_WRITE: WriteSchedule = _NothingToWrite()
"""The schedule of a server that takes no frames."""


class FrameWriter(Protocol):
    """Writes finished frames to one socket: the contract of ``ServerFrameWriter``."""

    on_text: Callable[[str], bool] | None
    """Called with each text message of the client, before it is queued for ``receive``;
    it is not queued where this returns True. Pongs are handled so, without waking the
    connection's task."""

    def text_frame(self, payload: bytes) -> bytes:
        """Return a text message as a frame for any socket."""

    def binary_frame(self, payload: bytes) -> bytes:
        """Return a binary message as a frame for any socket."""

    def write(self, frame: bytes) -> None:
        """Queue a frame, in order with ASGI's messages; return at once."""

    def write_all(self, writers: Iterable[Any], frame: bytes) -> list[Any]:
        """Queue a frame for many sockets; return those it was not queued for."""

    async def drained(self) -> None:
        """Wait until the socket is not congested any more, or is closed."""

    @property
    def scheduler(self) -> WriteSchedule:
        """The schedule of all sockets of the server in this event loop."""

    @property
    def congested(self) -> bool:
        """Whether the transport's buffer is full, since the client reads slowly."""

    @property
    def unsent(self) -> bool:
        """Whether the kernel has not taken all bytes that were written to the transport."""

    @property
    def buffered(self) -> int:
        """Bytes that the kernel has not taken yet."""


class PreparedMessage:
    """A message for many clients, encoded once for all of them.

    Args:
        text_data: text to send, with U+FFFD for lone surrogates; if it is given,
            ``bytes_data`` is ignored.
        bytes_data: bytes to send.

    Raises:
        ValueError: when neither is given.
    """

    __slots__ = ("_frame", "event")

    def __init__(self, text_data: str | None = None, bytes_data: bytes | None = None):
        if text_data is not None:
            text_data = well_formed_text(text_data)
        self.event: dict[str, Any] = websocket_send(text_data, bytes_data)
        self._frame: bytes | None = None

    def frame(self, frames: FrameWriter) -> bytes:
        """Return the message as a frame, which is built at the first call."""
        frame = self._frame
        if frame is None:
            text = self.event.get("text")
            if text is None:
                frame = frames.binary_frame(self.event["bytes"])
            else:
                frame = frames.text_frame(text.encode())
            self._frame = frame
        return frame


class Outbox:
    """Sends the events of one connection in order, and keeps the state of its socket.

    Back-pressure is the server's: ``send`` returns when the server has taken the
    event, which is at once while the client keeps up. An event for a client that is
    gone, or after a close, is counted in ``metrics.SENDS_AFTER_CLOSE`` and dropped: a
    group message may arrive during a close. Not guaranteed: that the
    client receives what ``send`` has taken.

    Args:
        send: ASGI's.
        frames: the frame writer of Tiderace's own server, or None with other servers.
        limit: the bytes that may wait in ``frames`` before ``put`` raises.

    Attributes:
        accepted: whether the WebSocket was accepted.
        answered: whether it was accepted, closed or refused.
        closed: whether a close event was sent.
        leaving: whether the disconnect event was read but is not handled yet.
        lost: whether the client is gone.
    """

    __slots__ = (
        "_frames",
        "_limit",
        "_send",
        "accepted",
        "answered",
        "closed",
        "leaving",
        "lost",
    )

    def __init__(
        self, send: Send, *, frames: FrameWriter | None = None, limit: int = 0
    ) -> None:
        self._send = send
        self._frames = frames
        self._limit = limit
        self.accepted = False
        self.answered = False
        self.closed = False
        self.leaving = False
        self.lost = False

    @property
    def open(self) -> bool:
        """Whether a WebSocket was accepted and, as far as is known, is still there."""
        return self.accepted and not self.closed and not self.lost

    @property
    def writer(self) -> FrameWriter | None:
        """The frame writer while the socket is open; None with other servers."""
        return self._frames if self.open else None

    @property
    def write_schedule(self) -> WriteSchedule:
        """When the server writes frames, the same for all sockets of an event loop."""
        return NOTHING_TO_WRITE if self._frames is None else self._frames.scheduler

    def put(self, message: PreparedMessage) -> bool:
        """Send ``message`` without waiting; return False if the server cannot.

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
            frames.write(message.frame(frames))
        return True

    async def send(self, event: Event) -> None:
        """Pass ``event`` to the server.

        Raises:
            RuntimeError: the server's, for an event out of order, such as a message
                before the socket was accepted.
        """
        kind = event.get("type")
        if kind == "websocket.send" and not (self.lost or self.closed):
            frames = self._frames
            if frames is not None and self.accepted and "text" in event:
                # Do what the server's send does, without creating its coroutine.
                frames.write(_text_frame(frames, event["text"]))
                if frames.congested:
                    await frames.drained()
                return
        elif self.lost or (
            self.closed and kind in ("websocket.send", "websocket.close")
        ):
            metrics.SENDS_AFTER_CLOSE.add()
            return
        elif kind == "websocket.close":
            # Set before the await: nothing may be sent after the close.
            self.closed = self.answered = True
            code = event.get("code") or 1000
            metrics.CLOSES_SENT.add(code if self.accepted else "refused")
        elif kind == "websocket.http.response.start":
            self.answered = True
            metrics.CLOSES_SENT.add("refused")
        try:
            await self._send(event)
        except (OSError, RuntimeError) as error:
            # OSError (ASGI 2.4) means that the client is gone; the consumer ends with the
            # disconnect event. A server that has closed the socket itself may raise
            # RuntimeError for every later event.
            if isinstance(error, RuntimeError) and not self.leaving:
                raise
            self.lost = True
            metrics.SENDS_AFTER_CLOSE.add()
            return
        if kind == "websocket.accept":
            self.accepted = self.answered = True
            metrics.CONNECTIONS_ACCEPTED.add()


# The text that was sent last, and its frame: mostly the consumers of a group send the
# same text, one after the other.
_last: tuple[str, bytes] = ("", b"")


def _text_frame(frames: FrameWriter, text: str) -> bytes:
    global _last
    last, frame = _last
    if not frame or text != last:
        frame = frames.text_frame(text.encode())
        _last = text, frame
    return frame
