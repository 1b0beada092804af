"""One connection to a Redis or Valkey server: commands out, replies and pushes in.

redis-py makes the connection (addresses, TLS, passwords, Sentinel) and then hands over
its transport: reading through an asyncio protocol and the C parser costs a tenth of
redis-py's own reader. It knows RESP, and nothing of layers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import hiredis
import redis.exceptions

__all__ = ["ConnectionLost", "RedisConnection"]

_PUSHES = (b"message", b"smessage")
_ACKNOWLEDGEMENTS = (b"subscribe", b"unsubscribe", b"ssubscribe", b"sunsubscribe")

# Bytes of messages that nobody has taken yet. Beyond it we stop reading, so that they
# wait at the server, which cuts off who stays behind; what was missed is then fetched.
_PUSHED_AT_MOST = 32 * 1024 * 1024


class ConnectionLost(ConnectionError):
    """The connection broke, or the server did not answer in time."""


@dataclass(slots=True, eq=False)
class _Order:
    """A ``SUBSCRIBE`` or the like that the server has not confirmed in full yet."""

    kind: bytes
    channels: set[bytes]
    done: asyncio.Future[None]


class RedisConnection(asyncio.Protocol):
    """Sends commands in a pipeline and returns their replies in order.

    A server that leaves a command, or a ping after ``silence`` seconds without any
    data, unanswered for ``timeout`` seconds is taken for gone: a half-open connection
    is noticed. Used from one event loop alone, and either for ``call`` or for
    ``subscription``: the errors of the one could not be told from those of the other.
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
            protocolError=ConnectionLost, replyError=hiredis.ReplyError
        )
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._pushed: list[tuple[bytes, bytes | None]] = []
        self._pushed_size = 0
        self._paused = False
        self._orders: deque[_Order] = deque()
        self._subscribed = False
        # Called when something was pushed, and when the connection is lost.
        self.notify: Callable[[], None] = _nobody
        self._heard = self._loop.time()
        self._pinged = False
        self._lost: Exception | None = None
        transport.set_protocol(self)
        self._watch = self._loop.call_later(min(timeout, silence), self._look)

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        return self._lost is not None

    @property
    def peer(self) -> str:
        """The address of the server, as the system knows it."""
        return str(self._transport.get_extra_info("peername")[0])

    def call(self, *command: Any) -> asyncio.Future[Any]:
        """Send a command; the future gets its reply, or the server's error."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._lost is not None:
            future.set_exception(ConnectionLost(str(self._lost)))
            return future
        self._expect()
        self._waiting.append(future)
        self._write(command)
        return future

    def subscription(self, verb: str, channels: list[bytes]) -> asyncio.Future[None]:
        """Send ``SUBSCRIBE`` or the like; done when the server has confirmed all of it.

        The future gets the server's error when it refuses.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        if self._lost is not None:
            future.set_exception(ConnectionLost(str(self._lost)))
            return future
        self._expect()
        self._subscribed = True
        self._orders.append(_Order(verb.lower().encode(), set(channels), future))
        self._write((verb, *channels))
        return future

    def take_pushed(self) -> list[tuple[bytes, bytes | None]]:
        """The messages that have arrived since the last call, as (channel, payload).

        Without a payload: the server sends nothing more on that channel, which has
        moved to another one.
        """
        messages, self._pushed, self._pushed_size = self._pushed, [], 0
        if self._paused:
            self._paused = False
            self._heard = self._loop.time()
            self._transport.resume_reading()
        return messages

    def close(self) -> None:
        """Close the connection; commands without a reply fail."""
        self._fail(ConnectionLost("the connection was closed"))
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
        except ConnectionLost as error:
            self._fail(error)
            self._transport.abort()
            return
        if self._pushed:
            if self._pushed_size > _PUSHED_AT_MOST and not self._paused:
                self._paused = True
                self._transport.pause_reading()
            self.notify()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionLost("the server closed the connection"))

    def _take(self, reply: Any) -> None:
        if self._subscribed:
            self._take_subscribed(reply)
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

    def _take_subscribed(self, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            if self._orders:
                order = self._orders.popleft()
                if not order.done.done():
                    order.done.set_exception(reply)
                    # Whoever waited may be gone; then nobody is to be told.
                    order.done.exception()
            return
        if not isinstance(reply, list) or not reply:
            return  # the answer to a ping that was sent before subscribing
        kind = reply[0]
        if kind in _PUSHES:
            self._pushed.append((reply[1], reply[2]))
            self._pushed_size += len(reply[2])
        elif kind in _ACKNOWLEDGEMENTS:
            self._confirm(kind, reply[1])

    def _confirm(self, kind: bytes, channel: bytes) -> None:
        order = self._orders[0] if self._orders else None
        if order is not None and order.kind == kind and channel in order.channels:
            order.channels.remove(channel)
            if not order.channels:
                self._orders.popleft()
                if not order.done.done():
                    order.done.set_result(None)
        elif kind == b"sunsubscribe":
            self._pushed.append((channel, None))

    def _write(self, command: tuple[Any, ...]) -> None:
        try:
            self._transport.write(hiredis.pack_command(cast("tuple[bytes]", command)))
        except RuntimeError as error:
            # uvloop's transport refuses once it is closed, before it tells us so.
            self._fail(ConnectionLost(f"the connection is closed ({error})"))

    def _expect(self) -> None:
        """Count the server's silence from now on, if nothing was awaited before."""
        if not self._waiting and not self._orders:
            self._heard = self._loop.time()

    def _look(self) -> None:
        """Notice a server that has fallen silent."""
        if self._lost is not None:
            return
        # Of a connection that we do not read we cannot say that it is silent.
        quiet = 0.0 if self._paused else self._loop.time() - self._heard
        if (self._waiting or self._orders or self._pinged) and quiet > self._timeout:
            self._fail(ConnectionLost(f"the server was silent for {quiet:.1f} seconds"))
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
        orders = [order.done for order in self._orders]
        for future in (*self._waiting, *orders):
            if not future.done():
                future.set_exception(ConnectionLost(str(error)))
                # Whoever waited may be gone; then nobody is to be told.
                future.exception()
        self._waiting.clear()
        self._orders.clear()
        self.notify()


def _nobody() -> None:
    """Nobody wants to know."""


def _ignore(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


async def connect(
    make_connection: Callable[[], Any], *, timeout: float
) -> RedisConnection:
    """Open a connection of redis-py and take it over.

    ``make_connection`` returns a ``redis.asyncio`` connection that is not open yet and
    speaks RESP2.

    Raises:
        LinkLost: when it cannot be opened within ``timeout`` seconds.
    """
    connection = make_connection()
    task = asyncio.current_task()
    cancellations = 0 if task is None else task.cancelling()
    try:
        async with asyncio.timeout(timeout):
            await connection.connect()
    # RuntimeError: what uvloop raises for a transport that the server has just closed.
    except (OSError, TimeoutError, RuntimeError, redis.exceptions.RedisError) as error:
        await connection.disconnect(nowait=True)
        _pass_on_cancellation(task, cancellations)
        raise ConnectionLost(
            f"cannot connect: {str(error) or type(error).__name__}"
        ) from error
    if task is not None and task.cancelling() > cancellations:
        await connection.disconnect(nowait=True)
        _pass_on_cancellation(task, cancellations)
    # There is no public way. What remains of the connection object knows no stream,
    # so that freeing it closes nothing.
    writer, connection._writer, connection._reader = connection._writer, None, None  # noqa: SLF001
    return RedisConnection(writer.transport, writer, timeout=timeout)


def _pass_on_cancellation(task: asyncio.Task[Any] | None, before: int) -> None:
    # Asking sentinels, redis-py keeps to itself that it was cancelled; whoever cancelled
    # would wait for ever.
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError
