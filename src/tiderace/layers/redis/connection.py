"""One connection to a Redis or Valkey server: sends commands, receives replies.

redis-py opens the connection (addresses, TLS, passwords, Sentinel). Then this module takes
over the transport: its asyncio protocol, with the parser in C, reads in a tenth of the
time of redis-py's own reader.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import hiredis
import redis.exceptions

_MESSAGE_TYPES = (b"message", b"smessage")
_SUBSCRIPTION_TYPES = (b"subscribe", b"unsubscribe", b"ssubscribe", b"sunsubscribe")

# Seconds without data after which the server is pinged.
_HEALTH_CHECK_INTERVAL = 10.0

# redis-py's errors when the server refuses to open a connection.
REFUSALS = (redis.exceptions.AuthenticationError, redis.exceptions.ResponseError)

# Seconds until a health check that came late is repeated.
_LATE_CHECK_DELAY = 0.01

# Bytes of unread messages above which reading pauses. Messages then wait at the server,
# which disconnects a client that falls far behind; what was missed is fetched afterwards.
_MAX_UNREAD_SIZE = 32 * 1024 * 1024


class ConnectionLost(ConnectionError):
    """The connection broke, or the server did not reply in time."""


@dataclass(slots=True, eq=False)
class _SubscriptionCommand:
    """A ``SUBSCRIBE`` or ``UNSUBSCRIBE`` that is not fully confirmed yet."""

    kind: bytes
    channels: set[bytes]
    confirmed: asyncio.Future[None]
    begun: float


class RedisConnection(asyncio.Protocol):
    """Sends commands in a pipeline and returns their replies in order.

    A connection is lost when the server does not reply to a command or a ping for
    ``timeout`` seconds, so a half-open connection is detected. A pub/sub connection is
    also lost when its event loop was blocked as long: the messages in its socket are of
    unknown age, and after a reconnect they are read from the streams with their age. A
    connection belongs to one event loop, and serves either ``execute`` or
    ``execute_pubsub``, since errors do not show which of them they are for.
    """

    def __init__(
        self, transport: asyncio.Transport, stream_writer: Any, *, timeout: float
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        # Kept, since it closes the transport when it is freed.
        self._stream_writer = stream_writer
        self._timeout = timeout
        self._parser = hiredis.Reader(
            protocolError=ConnectionLost, replyError=hiredis.ReplyError
        )
        # Commands that are written together in the next iteration of the event loop.
        self._unwritten: list[bytes] = []
        # When each command was begun, and the future of its reply.
        self._replies: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._messages: list[tuple[bytes, bytes | None]] = []
        self._unread_size = 0
        self._reading_paused = False
        self._subscription_commands: deque[_SubscriptionCommand] = deque()
        self._is_pubsub = False
        # Called when messages have arrived, and when the connection is lost.
        self.notify: Callable[[], None] = lambda: None
        self._last_data = self._loop.time()
        # When a pub/sub connection was pinged; None once data has arrived.
        self._pinged_at: float | None = None
        self._error: Exception | None = None
        transport.set_protocol(self)
        self._check_interval = min(timeout, _HEALTH_CHECK_INTERVAL) / 10
        self._health_timer = self._loop.call_later(
            self._check_interval, self._check_health
        )

    @property
    def lost(self) -> bool:
        """Whether the connection is closed or broken."""
        return self._error is not None

    @property
    def peer_address(self) -> str:
        """The IP address of the server."""
        return str(self._transport.get_extra_info("peername")[0])

    def execute(self, *command: Any, begun: float | None = None) -> asyncio.Future[Any]:
        """Send a command; the future gets its reply, or the server's error.

        The reply is overdue ``timeout`` seconds after ``begun``, by default now.
        """
        packed = hiredis.pack_command(cast("tuple[bytes]", command))
        return self.execute_packed(packed, begun)

    def execute_packed(
        self, command: bytes, begun: float | None = None
    ) -> asyncio.Future[Any]:
        """Send a command that is packed in the server's protocol; as ``execute``."""
        reply: asyncio.Future[Any] = self._loop.create_future()
        if self._error is not None:
            reply.set_exception(ConnectionLost(str(self._error)))
            return reply
        self._replies.append((begun or self._loop.time(), reply))
        self._write(command)
        return reply

    def execute_pubsub(
        self, command: str, channels: list[bytes]
    ) -> asyncio.Future[None]:
        """Send ``SUBSCRIBE``, ``UNSUBSCRIBE`` or their sharded forms.

        The future is done when the server has confirmed all channels; it gets the error
        when the server refuses.
        """
        confirmed: asyncio.Future[None] = self._loop.create_future()
        if self._error is not None:
            confirmed.set_exception(ConnectionLost(str(self._error)))
            return confirmed
        self._is_pubsub = True
        self._subscription_commands.append(
            _SubscriptionCommand(
                command.lower().encode(), set(channels), confirmed, self._loop.time()
            )
        )
        self._write(hiredis.pack_command(cast("tuple[bytes]", (command, *channels))))
        return confirmed

    def take_messages(self) -> list[tuple[bytes, bytes | None]]:
        """Return the unread messages as (channel, payload), and clear them.

        A payload of None means that the server has ended the subscription, since the
        channel's slot has moved to another node.
        """
        messages, self._messages, self._unread_size = self._messages, [], 0
        if self._reading_paused:
            self._reading_paused = False
            self._pinged_at = None
            now = self._last_data = self._loop.time()
            for command in self._subscription_commands:
                command.begun = now
            self._transport.resume_reading()
        return messages

    def close(self) -> None:
        """Close the connection; commands without a reply fail."""
        self._fail(ConnectionLost("the connection was closed"))
        self._transport.close()

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._last_data = self._loop.time()
        self._pinged_at = None
        if self._is_pubsub and self._cut_after_standstill():
            return
        handle = self._handle_pubsub_reply if self._is_pubsub else self._handle_reply
        parser = self._parser
        parser.feed(data)
        try:
            while (reply := parser.gets()) is not False:
                handle(reply)
        except ConnectionLost as error:
            self._abort(error)
            return
        if self._messages:
            if self._unread_size > _MAX_UNREAD_SIZE and not self._reading_paused:
                self._reading_paused = True
                self._transport.pause_reading()
            self.notify()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionLost("the server closed the connection"))

    def _handle_reply(self, reply: Any) -> None:
        if not self._replies:
            # The reply to a ping on a connection without subscriptions.
            return
        _, future = self._replies.popleft()
        if future.done():
            return
        if isinstance(reply, hiredis.ReplyError):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    def _handle_pubsub_reply(self, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            if self._subscription_commands:
                _set_exception(self._subscription_commands.popleft().confirmed, reply)
            return
        if not isinstance(reply, list) or not reply:
            return  # the reply to a ping that was sent before the first SUBSCRIBE
        kind = reply[0]
        if kind in _MESSAGE_TYPES:
            self._messages.append((reply[1], reply[2]))
            self._unread_size += len(reply[2])
        elif kind in _SUBSCRIPTION_TYPES:
            self._confirm_channel(kind, reply[1])

    def _confirm_channel(self, kind: bytes, channel: bytes) -> None:
        commands = self._subscription_commands
        command = commands[0] if commands else None
        if command is not None and command.kind == kind and channel in command.channels:
            command.channels.remove(channel)
            if not command.channels:
                commands.popleft()
                if not command.confirmed.done():
                    command.confirmed.set_result(None)
        elif kind == b"sunsubscribe":
            self._messages.append((channel, None))

    def _write(self, command: bytes) -> None:
        """Send a command together with others of this iteration of the event loop."""
        if not self._unwritten:
            self._loop.call_soon(self._flush)
        self._unwritten.append(command)

    def _flush(self) -> None:
        commands, self._unwritten = self._unwritten, []
        if self._error is not None:
            return
        try:
            self._transport.write(b"".join(commands))
        except RuntimeError as error:
            # uvloop's transport raises this once it is closed, before connection_lost.
            self._fail(ConnectionLost(f"the connection is closed ({error})"))

    def _check_health(self) -> None:
        """Ping an idle server; close the connection when a reply is overdue."""
        if self._error is not None or (
            self._is_pubsub and self._cut_after_standstill()
        ):
            return
        now = self._loop.time()
        is_late = now - self._health_timer.when() > self._check_interval
        # When late, check again once the loop has read the socket.
        delay = _LATE_CHECK_DELAY if is_late else self._check_interval
        self._health_timer = self._loop.call_later(delay, self._check_health)
        if is_late or self._reading_paused:
            return
        begun = self._waiting_since()
        if begun is not None and now - begun > self._timeout:
            silence = f"the server was silent for {now - begun:.1f} seconds"
            self._abort(ConnectionLost(silence))
        elif begun is None and now - self._last_data >= _HEALTH_CHECK_INTERVAL:
            if self._is_pubsub:
                self._pinged_at = now
                self._write(hiredis.pack_command(("PING",)))
            else:
                self.execute("PING").add_done_callback(retrieve_exception)

    def _waiting_since(self) -> float | None:
        """Return when the oldest command or ping without a reply was begun."""
        if self._replies:
            return self._replies[0][0]
        if self._subscription_commands:
            return self._subscription_commands[0].begun
        return self._pinged_at

    def _cut_after_standstill(self) -> bool:
        """Close the connection if the loop was blocked for long; return whether it is lost."""
        late = self._loop.time() - self._health_timer.when()
        if late > self._timeout:
            self._messages.clear()
            reason = f"the event loop stood still for {late:.1f} seconds"
            self._abort(ConnectionLost(reason))
        return self.lost

    def _abort(self, error: ConnectionLost) -> None:
        self._fail(error)
        self._transport.abort()

    def _fail(self, error: Exception) -> None:
        if self._error is not None:
            return
        self._error = error
        self._health_timer.cancel()
        commands = [command.confirmed for command in self._subscription_commands]
        for future in (*(reply for _, reply in self._replies), *commands):
            _set_exception(future, ConnectionLost(str(error)))
        self._replies.clear()
        self._subscription_commands.clear()
        self.notify()


def _set_exception(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        # A cancelled caller would not retrieve it.
        retrieve_exception(future)


def retrieve_exception(future: asyncio.Future[Any]) -> None:
    """Read the exception of a finished future so that asyncio does not log it."""
    if not future.cancelled():
        future.exception()


async def connect(
    make_connection: Callable[[], Any], *, timeout: float
) -> RedisConnection:
    """Open a connection of redis-py and take over its transport.

    Args:
        make_connection: returns a ``redis.asyncio`` connection that is not open yet and
            speaks RESP2.
        timeout: seconds to open it, and for each reply.

    Raises:
        ConnectionLost: when it cannot be opened within ``timeout`` seconds.
        hiredis.ReplyError: when the server refuses the user, password or database.
    """
    connection = make_connection()
    try:
        with raise_swallowed_cancellation():
            async with asyncio.timeout(timeout):
                await connection.connect()
    except REFUSALS as error:
        await connection.disconnect(nowait=True)
        raise hiredis.ReplyError(str(error)) from error
    # RuntimeError: uvloop's error for a transport that the server has just closed.
    except (OSError, TimeoutError, RuntimeError, redis.exceptions.RedisError) as error:
        await connection.disconnect(nowait=True)
        raise ConnectionLost(
            f"cannot connect: {str(error) or type(error).__name__}"
        ) from error
    except asyncio.CancelledError:
        await connection.disconnect(nowait=True)
        raise
    # redis-py has no public API for it. Without its streams the connection object does not
    # close the transport when it is freed.
    writer, connection._writer, connection._reader = connection._writer, None, None  # noqa: SLF001
    return RedisConnection(writer.transport, writer, timeout=timeout)


@contextlib.contextmanager
def raise_swallowed_cancellation() -> Iterator[None]:
    """Raise ``CancelledError`` at the end when the task was cancelled meanwhile.

    redis-py swallows a cancellation while it queries sentinels or nodes of a cluster; the
    code that has cancelled the task would wait forever.
    """
    before = cancellation_count()
    try:
        yield
    finally:
        if cancellation_count() > before:
            raise asyncio.CancelledError


def cancellation_count() -> int:
    """Return how often the running task was cancelled."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
