"""An accepted WebSocket until both sides have said goodbye: messages, pings, closing.

It knows RFC 6455 through its parts and ASGI's events after ``websocket.accept``; it
knows neither the handshake nor uvicorn's configuration.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.utils import ClientDisconnected

from tiderace.asgi import Event
from tiderace.server.frames import (
    binary_frame,
    close_frame,
    ping_frame,
    pong_frame,
    text_frame,
)
from tiderace.server.keepalive import KeepAlive
from tiderace.server.parser import FrameParser, ProtocolError
from tiderace.server.read_queue import ReadQueue
from tiderace.server.writer import ServerFrameWriter

__all__ = ["ServerConnection"]

# Messages go both ways; we have said goodbye and await the client's; it is over.
_OPEN, _CLOSING, _CLOSED = "open", "closing", "closed"


class ServerConnection:
    """What the two sides say to each other, from the answer to the handshake on.

    ``close_timeout`` is how many seconds a client has to answer our goodbye and to
    take what comes before it; ``refusal_timeout`` how many one has that broke the
    protocol to read why and to hang up.
    """

    __slots__ = (
        "_close_timeout",
        "_frames",
        "_incoming",
        "_keep_alive",
        "_loop",
        "_owed_pong",
        "_reader",
        "_refusal_timeout",
        "_state",
        "_timer",
        "_transport",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        frames: ServerFrameWriter,
        incoming: ReadQueue,
        loop: asyncio.AbstractEventLoop,
        *,
        max_size: int,
        close_timeout: float,
        refusal_timeout: float,
    ) -> None:
        self._transport = transport
        self._frames = frames
        self._incoming = incoming
        self._loop = loop
        self._close_timeout = close_timeout
        self._refusal_timeout = refusal_timeout
        self._reader = FrameParser(max_size)
        self._keep_alive: KeepAlive | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._owed_pong: bytes | None = None
        self._state = _OPEN
        frames.open()

    def keep_alive(self, interval: float, timeout: float | None) -> None:
        """Ping the client every ``interval`` seconds, for an answer in ``timeout``."""
        self._keep_alive = KeepAlive(self, self._loop, interval, timeout)

    # The application's side.

    async def send(self, message: Event) -> None:
        """Take ``websocket.send`` or ``websocket.close``; wait for a slow client.

        Raises:
            ClientDisconnected: an ``OSError``, when the client is gone.
            RuntimeError: when the message may not come, or not now.
            ValueError: when a close has a code or a reason that may not be sent.
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
        """Say goodbye after all that was sent before, and await the client's.

        Once one side has said it, only the time to wait can still be shortened.
        """
        if self._state is _OPEN:
            self._frames.end(close_frame(code, reason))
            self._state = _CLOSING
            self._incoming.disconnect(code, reason)
            self._cut_after(self._close_timeout if timeout is None else timeout)
        elif timeout is not None:
            self._cut_after(timeout)

    # The client's side.

    def feed(self, data: bytes) -> None:
        """Read what the client sent; what comes after the end is thrown away."""
        if self._keep_alive is not None:
            self._keep_alive.heard()
        if self._state is _CLOSED:
            return
        try:
            self._reader.feed(data, self)
        except ProtocolError as failure:
            self._refuse(failure.code, failure.reason)

    def text_received(self, text: str) -> None:
        """Queue a text message for the application."""
        if self._state is _OPEN:
            self._incoming.put({"type": "websocket.receive", "text": text}, len(text))

    def bytes_received(self, data: bytes) -> None:
        """Queue a binary message for the application."""
        if self._state is _OPEN:
            self._incoming.put({"type": "websocket.receive", "bytes": data}, len(data))

    def ping_received(self, payload: bytes) -> None:
        """Answer it; of many by a client that does not read, only the last."""
        if self._frames.congested:
            self._owed_pong = payload
        else:
            self._frames.write(pong_frame(payload))

    def caught_up(self) -> None:
        """The client reads again: send the pong that is still owed."""
        payload, self._owed_pong = self._owed_pong, None
        if payload is not None:
            self._frames.write(pong_frame(payload))

    def pong_received(self, payload: bytes) -> None:
        """Nothing to do: any bytes are a sign of life."""

    def close_received(self, code: int | None, reason: str) -> None:
        """Answer the client's goodbye, or take it as the answer to ours; then hang up."""
        if self._state is _OPEN:
            self._incoming.disconnect(1005 if code is None else code, reason)
            self._frames.finish(close_frame(code))
        else:
            self._frames.flush()
        self._hang_up()

    def _refuse(self, code: int, reason: str) -> None:
        """End a connection whose client broke the protocol, and tell it why."""
        if self._state is _CLOSING:
            self._hang_up()
            return
        self._incoming.disconnect(code, reason)
        self._frames.finish(close_frame(code, reason))
        if not self._transport.can_write_eof() or self._transport.is_closing():
            self._hang_up()
            return
        # Closing with unread bytes would reset the connection, and the close frame
        # with it; so only our half is closed, and the rest thrown away.
        self._state = _CLOSED
        self._transport.write_eof()
        self._cut_after(self._refusal_timeout)

    # The keep-alive's side.

    def send_ping(self) -> None:
        """Ping the client."""
        self._frames.write(ping_frame())

    def is_read_from(self) -> bool:
        """Whether a pong could be seen."""
        return not self._incoming.paused

    def ping_unanswered(self) -> None:
        """Take the client for lost: 1011, for a proxy that still listens."""
        self._incoming.disconnect(1006, "keepalive ping timeout")
        self._frames.finish(close_frame(1011, "keepalive ping timeout"))
        self._hang_up()

    # The end.

    def lost(self) -> None:
        """Take note that the connection is no more."""
        self._state = _CLOSED
        # Megabytes at the worst, which would else wait for the garbage collector.
        self._reader.discard()
        self._stop_clocks()

    def _hang_up(self) -> None:
        self._state = _CLOSED
        self._transport.close()
        self._cut_after(self._close_timeout)

    def _cut_after(self, seconds: float) -> None:
        """Give the client so long to go by itself."""
        self._stop_clocks()
        self._timer = self._loop.call_later(seconds, self._frames.cut)

    def _stop_clocks(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._keep_alive is not None:
            self._keep_alive.stop()
            self._keep_alive = None


def _encoded(message: Event) -> bytes:
    text = message.get("text")
    if text is None:
        raise RuntimeError("the ASGI message 'websocket.send' needs 'text' or 'bytes'")
    encoded: bytes = text.encode()
    return encoded
