"""A WebSocket after the handshake: messages, pings and the closing handshake."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.utils import ClientDisconnected

from tiderace.asgi import Event
from tiderace.runtime.tasks import READING
from tiderace.server.delays import DelayedCall, Delays
from tiderace.server.frames import (
    binary_frame,
    close_frame,
    ping_frame,
    pong_frame,
    text_frame,
)
from tiderace.server.parser import FrameParser, ProtocolError
from tiderace.server.read_queue import ReadQueue
from tiderace.server.writer import ServerFrameWriter

# Messages go both ways; our close frame is sent and the client's awaited; it is over.
_OPEN, _CLOSING, _CLOSED = "open", "closing", "closed"


class ServerConnection:
    """One WebSocket, from the end of the handshake on.

    Args:
        transport: the transport.
        frames: queues the frames to be sent.
        read_queue: takes the events for the application.
        loop: the event loop.
        max_size: bytes of the largest message taken.
        close_timeout: seconds in which the client has to read what was sent, and to
            answer our close frame.
        refusal_timeout: seconds in which a client that broke the protocol has to read
            the reason and to close.
    """

    __slots__ = (
        "_close_timeout",
        "_delays",
        "_frames",
        "_loop",
        "_parser",
        "_pending_pong",
        "_ping_interval",
        "_ping_timeout",
        "_ping_timer",
        "_read_queue",
        "_received",
        "_refusal_timeout",
        "_state",
        "_timer",
        "_transport",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        frames: ServerFrameWriter,
        read_queue: ReadQueue,
        loop: asyncio.AbstractEventLoop,
        *,
        max_size: int,
        close_timeout: float,
        refusal_timeout: float,
    ) -> None:
        self._transport = transport
        self._frames = frames
        self._read_queue = read_queue
        self._loop = loop
        self._close_timeout = close_timeout
        self._refusal_timeout = refusal_timeout
        self._parser = FrameParser(max_size)
        self._ping_interval = 0.0
        self._ping_timeout: float | None = None
        self._ping_timer: DelayedCall | None = None
        # Whether the client has sent something since the last ping.
        self._received = True
        self._timer: asyncio.TimerHandle | None = None
        self._pending_pong: bytes | None = None
        self._state = _OPEN
        frames.open()

    def keep_alive(
        self, interval: float, timeout: float | None, delays: Delays
    ) -> None:
        """Ping the client every ``interval`` seconds; expect any bytes within ``timeout``.

        Any bytes count, since a pong may queue behind a long upload. While the server
        itself does not read from the client, the client has longer. With None no answer
        is expected; the pings keep proxies and NAT tables from dropping the connection.
        """
        self._ping_interval, self._ping_timeout = interval, timeout
        self._delays = delays
        self._ping_after(interval)

    # From the application

    async def send(self, message: Event) -> None:
        """Send ``websocket.send`` or ``websocket.close``; wait for a slow client.

        Raises:
            ClientDisconnected: an ``OSError``, when the client is gone.
            RuntimeError: for another message, or one that is not allowed now.
            ValueError: for a close code or reason that must not be sent.
        """
        kind = message["type"]
        if self._state is not _OPEN:
            self._check_not_closed()
        elif kind == "websocket.send":
            data = message.get("bytes")
            frames = self._frames
            if data is None:
                frames.write(text_frame(_encoded(message)))
            else:
                frames.write(binary_frame(data))
            if frames.congested:
                await frames.drained()
                self._check_not_closed()
            return
        elif kind == "websocket.close":
            self.close(message.get("code") or 1000, message.get("reason") or "")
            return
        raise RuntimeError(
            f"the ASGI message {kind!r} may not come now: the connection is {self._state}"
        )

    def _check_not_closed(self) -> None:
        if self._state is _CLOSED:
            raise ClientDisconnected

    def close(self, code: int, reason: str = "", timeout: float | None = None) -> None:
        """Send a close frame after what is queued, and wait for the client's.

        On a connection that is closing, only the time to wait is changed.
        """
        if self._state is _OPEN:
            self._frames.end(close_frame(code, reason))
            self._state = _CLOSING
            self._read_queue.disconnect(code, reason)
            self._cut_after(self._close_timeout if timeout is None else timeout)
        elif timeout is not None:
            self._cut_after(timeout)

    # From the client

    def feed(self, data: bytes) -> None:
        """Parse what the client sent; ignore what comes after the end."""
        self._received = True
        if self._state is _CLOSED:
            return
        try:
            self._parser.feed(data, self)
        except ProtocolError as error:
            self._refuse(error.code, error.reason)
        if self._parser.paused:
            self._pause()

    def _pause(self) -> None:
        """Read on when the application has received messages, else in the next tick."""
        if self._state is not _CLOSED:
            self._transport.pause_reading()
            self._read_queue.read_on = self._read_on
            if not self._read_queue.paused:
                self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        """Parse what was read before a pause, then read from the client again."""
        try:
            if self._state is not _CLOSED:
                self._parser.resume(self)
        except ProtocolError as error:
            self._refuse(error.code, error.reason)
        if self._parser.paused and self._state is not _CLOSED:
            self._pause()
        elif not self._transport.is_closing():
            self._transport.resume_reading()

    def text_received(self, text: str) -> None:
        """Queue a text message for the application."""
        if self._state is _OPEN:
            on_text = self._frames.on_text
            if on_text is not None and on_text(text):
                return
            queue = self._read_queue
            queue.put({"type": "websocket.receive", "text": text}, len(text))
            if queue.paused:
                self._parser.paused = True

    def bytes_received(self, data: bytes) -> None:
        """Queue a binary message for the application."""
        if self._state is _OPEN:
            queue = self._read_queue
            queue.put({"type": "websocket.receive", "bytes": data}, len(data))
            if queue.paused:
                self._parser.paused = True

    def ping_received(self, payload: bytes) -> None:
        """Send a pong; while the client does not read, only one for its last ping."""
        if self._frames.congested:
            self._pending_pong = payload
        else:
            self._frames.write(pong_frame(payload))

    def caught_up(self) -> None:
        """Send the pong that was held back: the client reads again."""
        payload, self._pending_pong = self._pending_pong, None
        if payload is not None:
            self._frames.write(pong_frame(payload))

    def close_received(self, code: int | None, reason: str) -> None:
        """Answer the client's close frame if it is the first one, then hang up."""
        if self._state is _OPEN:
            self._read_queue.disconnect(1005 if code is None else code, reason)
            self._frames.finish(close_frame(code))
        else:
            self._frames.flush()
        self._hang_up()

    def _refuse(self, code: int, reason: str) -> None:
        """Close a connection whose client broke the protocol, with the reason."""
        if self._state is _CLOSING:
            self._hang_up()
            return
        self._read_queue.disconnect(code, reason)
        self._frames.finish(close_frame(code, reason))
        if not self._transport.can_write_eof() or self._transport.is_closing():
            self._hang_up()
            return
        # Closing with unread bytes would reset the connection, and lose the close frame.
        # So only our half is closed, and what the client still sends is ignored.
        self._state = _CLOSED
        self._transport.write_eof()
        self._cut_after(self._refusal_timeout)

    def _ping_after(self, seconds: float) -> None:
        self._ping_timer = self._delays.call_later(seconds, self._ping)

    def _ping(self) -> None:
        self._frames.write(ping_frame())
        if self._ping_timeout is None:
            self._ping_after(self._ping_interval)
        else:
            self._received = False
            self._check_after(self._ping_timeout)

    def _check_after(self, seconds: float) -> None:
        self._ping_timer = self._delays.call_later(seconds, self._check_received)

    def _check_received(self) -> None:
        """Close the connection if the client has sent nothing since the ping.

        The close frame with 1011 is for a proxy.
        """
        if self._received:
            self._ping_after(max(0.0, self._ping_interval - (self._ping_timeout or 0)))
            return
        if self._read_queue.paused:
            self._check_after(self._ping_interval)
        else:
            # uvloop runs the late timers of a loop that was blocked before it reads.
            self._ping_timer = self._delays.call_later(READING, self._give_up)

    def _give_up(self) -> None:
        if self._received or self._read_queue.paused:
            self._check_received()
            return
        self._read_queue.disconnect(1006, "keepalive ping timeout")
        self._frames.finish(close_frame(1011, "keepalive ping timeout"))
        self._hang_up()

    # The end

    def lost(self) -> None:
        """Clean up after the transport has closed."""
        self._state = _CLOSED
        # May hold megabytes, until the garbage collector runs.
        self._parser.discard()
        self._stop_timers()

    def _hang_up(self) -> None:
        self._state = _CLOSED
        self._transport.close()
        self._cut_after(self._close_timeout)

    def _cut_after(self, seconds: float) -> None:
        """Abort the connection unless the client closes it in ``seconds``."""
        self._stop_timers()
        self._timer = self._loop.call_later(seconds, self._frames.cut)

    def _stop_timers(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ping_timer is not None:
            self._ping_timer.cancel()
            self._ping_timer = None


def _encoded(message: Event) -> bytes:
    text = message.get("text")
    if text is None:
        raise RuntimeError("the ASGI message 'websocket.send' needs 'text' or 'bytes'")
    encoded: bytes = text.encode()
    return encoded
