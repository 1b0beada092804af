"""One connection to a Redis or Valkey server: commands out, replies and pushes in.

redis-py makes the connection (addresses, TLS, passwords, Sentinel) and then hands over
its transport: reading through an asyncio protocol and the C parser costs a tenth of
redis-py's own reader. It knows RESP, and nothing of layers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import hiredis
import redis.exceptions

__all__ = ["Link", "LinkLost"]

_PUSHES = (b"message", b"smessage")
_ACKNOWLEDGEMENTS = (b"subscribe", b"unsubscribe", b"ssubscribe", b"sunsubscribe")


class LinkLost(ConnectionError):
    """The connection broke, or the server did not answer in time."""


class Link(asyncio.Protocol):
    """Sends commands in a pipeline and returns their replies in order.

    A server that leaves a command, or a ping after ``silence`` seconds without any
    data, unanswered for ``timeout`` seconds is taken for gone: a half-open connection
    is noticed. Used from one event loop alone.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        owner: Any,
        *,
        timeout: float,
        silence: float = 10.0,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        # The stream writer that opened the transport, and would close it when freed.
        self._owner = owner
        self._timeout = timeout
        self._silence = silence
        self._parser = hiredis.Reader(
            protocolError=LinkLost, replyError=hiredis.ReplyError
        )
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._pushed: list[tuple[bytes, bytes]] = []
        self._push_waiter: asyncio.Future[None] | None = None
        self._acknowledgements: dict[tuple[bytes, bytes], asyncio.Future[None]] = {}
        self._subscribed = False
        self._heard = self._loop.time()
        self._pinged = False
        self._lost: Exception | None = None
        transport.set_protocol(self)
        self._watch = self._loop.call_later(min(timeout, silence), self._look)

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        return self._lost is not None

    def call(self, *command: Any) -> asyncio.Future[Any]:
        """Send a command; the future gets its reply, or the server's error."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._lost is not None:
            future.set_exception(LinkLost(str(self._lost)))
            return future
        self._expect()
        self._waiting.append(future)
        self._write(command)
        return future

    def subscription(
        self, verb: str, channels: list[bytes]
    ) -> list[asyncio.Future[None]]:
        """Send ``SUBSCRIBE`` or the like; one future for each channel's confirmation."""
        if self._lost is not None:
            raise LinkLost(str(self._lost))
        kind = verb.lower().encode()
        futures = []
        for channel in channels:
            key = (kind, channel)
            future = self._acknowledgements.get(key)
            if future is None:
                self._expect()
                future = self._acknowledgements[key] = self._loop.create_future()
            futures.append(future)
        self._subscribed = True
        self._write((verb, *channels))
        return futures

    async def pushed(self) -> list[tuple[bytes, bytes]]:
        """The messages that have arrived, as (channel, payload); waits for one.

        Raises:
            LinkLost: when the connection is gone and all its messages were returned.
        """
        while not self._pushed:
            if self._lost is not None:
                raise LinkLost(str(self._lost))
            self._push_waiter = self._loop.create_future()
            await self._push_waiter
        messages, self._pushed = self._pushed, []
        return messages

    def close(self) -> None:
        """Close the connection; commands without a reply fail."""
        self._fail(LinkLost("the connection was closed"))
        self._transport.close()

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        self._pinged = False
        parser = self._parser
        parser.feed(data)
        try:
            while (reply := parser.gets()) is not False:
                self._take(reply)
        except LinkLost as error:
            self._fail(error)
            self._transport.abort()
            return
        if self._pushed and self._push_waiter is not None:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or LinkLost("the server closed the connection"))

    def _take(self, reply: Any) -> None:
        if self._subscribed and isinstance(reply, list) and reply:
            kind = reply[0]
            if kind in _PUSHES:
                self._pushed.append((reply[1], reply[2]))
                return
            if kind in _ACKNOWLEDGEMENTS:
                future = self._acknowledgements.pop((kind, reply[1]), None)
                if future is not None and not future.done():
                    future.set_result(None)
                return
            if kind == b"pong":
                return
        if not self._waiting:
            # The answer to our ping on a connection without subscriptions.
            return
        future = self._waiting.popleft()
        if future.done():
            return
        if isinstance(reply, hiredis.ReplyError):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    def _write(self, command: tuple[Any, ...]) -> None:
        try:
            self._transport.write(hiredis.pack_command(cast("tuple[bytes]", command)))
        except RuntimeError as error:
            # uvloop's transport refuses once it is closed, before it tells us so.
            self._fail(LinkLost(f"the connection is closed ({error})"))

    def _expect(self) -> None:
        """Count the server's silence from now on, if nothing was awaited before."""
        if not self._waiting and not self._acknowledgements:
            self._heard = self._loop.time()

    def _look(self) -> None:
        """Notice a server that has fallen silent."""
        if self._lost is not None:
            return
        quiet = self._loop.time() - self._heard
        if (self._waiting or self._acknowledgements or self._pinged) and (
            quiet > self._timeout
        ):
            self._fail(LinkLost(f"the server was silent for {quiet:.1f} seconds"))
            self._transport.abort()
            return
        if quiet >= self._silence and not self._waiting and not self._pinged:
            self._pinged = True
            # Its silence is counted from here on.
            self._heard = self._loop.time()
            if self._subscribed:
                self._write(("PING",))
            else:
                self.call("PING").add_done_callback(_ignore)
        self._watch = self._loop.call_later(
            min(self._timeout, self._silence) / 2, self._look
        )

    def _fail(self, error: Exception) -> None:
        if self._lost is not None:
            return
        self._lost = error
        self._watch.cancel()
        for future in (*self._waiting, *self._acknowledgements.values()):
            if not future.done():
                future.set_exception(LinkLost(str(error)))
                # Whoever waited may be gone; then nobody is to be told.
                future.exception()
        self._waiting.clear()
        self._acknowledgements.clear()
        if self._push_waiter is not None:
            self._wake()

    def _wake(self) -> None:
        waiter, self._push_waiter = self._push_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


def _ignore(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


async def connect(make_connection: Callable[[], Any], *, timeout: float) -> Link:
    """Open a connection of redis-py and take it over.

    ``make_connection`` returns a ``redis.asyncio`` connection that is not open yet and
    speaks RESP2.

    Raises:
        LinkLost: when it cannot be opened within ``timeout`` seconds.
    """
    connection = make_connection()
    try:
        async with asyncio.timeout(timeout):
            await connection.connect()
    # RuntimeError: what uvloop raises for a transport that the server has just closed.
    except (OSError, TimeoutError, RuntimeError, redis.exceptions.RedisError) as error:
        await connection.disconnect(nowait=True)
        raise LinkLost(
            f"cannot connect: {str(error) or type(error).__name__}"
        ) from error
    # There is no public way. What remains of the connection object knows no stream,
    # so that freeing it closes nothing.
    writer, connection._writer, connection._reader = connection._writer, None, None  # noqa: SLF001
    return Link(writer.transport, writer, timeout=timeout)
