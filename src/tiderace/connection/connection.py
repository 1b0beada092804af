"""One connection from its first event to its last, however it ends.

It knows what a client's events and a drain mean for the connection; the order in which
handlers run and what a message may do with one are other rooms' business.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from threading import get_ident
from time import perf_counter
from typing import Any, TypeVar

from asgiref.sync import async_to_sync

from tiderace import conf, metrics
from tiderace.asgi import (
    Event,
    Receive,
    Send,
    connection_id,
    serving,
    websocket_close,
)
from tiderace.connection.background import Background
from tiderace.connection.channel import Channel
from tiderace.connection.dispatcher import Dispatcher
from tiderace.connection.inbox import LAST_EVENTS, Inbox
from tiderace.connection.log import ConnectionLog
from tiderace.connection.messages import Messages
from tiderace.connection.served import ConsumerProtocol
from tiderace.delivery.mailbox import Mailbox
from tiderace.delivery.outbox import Outbox, TooSlow
from tiderace.exceptions import StopConsumer, UnknownMessageType
from tiderace.runtime.connections import (
    ConnectionInfo,
    DrainNotice,
    process_connections,
)

__all__ = ["Connection"]

T = TypeVar("T")


class _ClosedForRestart(Exception):
    """The connection was ended by a drain, and ends as if its client had left."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


class Connection:
    """One consumer serving one connection.

    Two tasks: the server's hands over the client's events, and one of the connection's
    own runs the handlers. Each part holds what stands below it, so that nothing is
    left of a connection that has ended.
    """

    __slots__ = (
        "_background",
        "_channel",
        "_consumer",
        "_context",
        "_disconnected",
        "_early",
        "_idle",
        "_messages",
        "_outbox",
        "_reader",
        "_receive",
        "_report",
        "_since",
        "_started",
        "_task",
        "ident",
    )

    def __init__(
        self, consumer: ConsumerProtocol, layer: Any, receive: Receive, send: Send
    ) -> None:
        self._consumer = consumer
        self._receive = receive
        extensions = consumer.scope.get("extensions") or {}
        self._outbox = outbox = Outbox(
            send,
            frames=extensions.get("tiderace.frames"),
            limit=conf.current().outbox_limit,
        )
        self._report = report = ConnectionLog(consumer)
        self._channel = channel = Channel(consumer, layer, report)
        self._background = Background(channel, report)
        self._messages = Messages(consumer, channel, outbox, self._background, report)
        # A worker's connection has no client: its events are messages of the layer.
        worker = consumer.scope.get("type") == "channel"
        self._idle = asyncio.Event() if worker else None
        # What runs the handlers, and in which thread and context.
        self._task: asyncio.Task[None] | None = None
        self.ident = get_ident()
        self._context = contextvars.copy_context()
        self._context.run(serving.set, consumer.scope)
        self._reader: Inbox | None = None
        # What was told before there was a mailbox.
        self._early: list[Event] = []
        # Whether the connect handler was called, the disconnect handler was called.
        self._started = False
        self._disconnected = False
        self._since = perf_counter()

    # What the consumer, a drain and the monitoring ask for

    async def serve(self) -> None:
        """Serve the connection until it ends, and leave nothing behind."""
        send = self._outbox.send
        sync = self._consumer._sync  # noqa: SLF001
        self._consumer.base_send = _blocking_or_awaitable(send) if sync else send
        try:
            await self._channel.open()
        except Exception as error:
            self._report.failed(error)
            raise
        # A task, and so a context, of its own: what runs a handler elsewhere must be
        # able to say that it runs there.
        task = self._task = asyncio.get_running_loop().create_task(
            self._handle_all(), context=self._context
        )
        self._reader = Inbox(
            self._receive, self._mailbox, client=self._outbox, idle=self._idle
        )
        task.add_done_callback(self._handled_all)
        for event in self._early:
            self.tell(event)
        try:
            await self._reader.read()
        except asyncio.CancelledError:
            # The server ends the connection.
            task.cancel()
            await asyncio.wait([task])
            raise
        await task

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run ``work`` for as long as the connection lives; from any thread."""
        return self._background.spawn(work)

    def tell(self, event: Event) -> None:
        """Have the consumer handle an event of ours, in turn with its client's."""
        if self._task is None:
            self._early.append(event)
        elif not self._background.ending:
            self.spawn(self._mailbox.offer(event))

    def drain(self, notice: DrainNotice) -> None:
        """Close the socket when its consumer has done what is before this."""
        self.tell(
            {
                "type": "server.drain",
                "code": notice.code,
                "reason": notice.reason,
                "retry_after": notice.retry_after,
            }
        )

    def cut(self) -> None:
        """End now, whatever the consumer is doing."""
        if self._task is not None:
            self._task.cancel()

    # For monitoring

    topics: tuple[str, ...] = ()

    @property
    def user(self) -> Any:
        return self._consumer.scope.get("user")

    @property
    def is_websocket(self) -> bool:
        """Whether the client is connected by a WebSocket."""
        return self._consumer.scope.get("type") == "websocket"

    def describe(self) -> ConnectionInfo:
        consumer = self._consumer
        counted = hasattr(consumer.channel_layer, "attach")
        return ConnectionInfo(
            connection_id(consumer.scope),
            str(consumer.scope.get("type", "")),
            str(consumer.scope.get("path", ""))[:200],
            type(consumer).__qualname__,
            len(self._mailbox.groups) if counted else None,
        )

    @property
    def _mailbox(self) -> Mailbox[Any]:
        return self._channel.mailbox

    # From the first event to the last

    async def _handle_all(self) -> None:
        """Run the handlers until the connection ends, then what has to run at the end."""
        consumer = self._consumer
        consumer._connection = self  # noqa: SLF001
        metrics.CONNECTIONS_OPEN.add()
        ending = 1006
        self._channel.read(self._idle)
        turns = Dispatcher(
            consumer,
            self._mailbox,
            self._outbox,
            messages=self._messages,
            report=self._report,
            context=self._context,
            idle=self._idle,
        )
        try:
            await turns.run(self._handle_event)
        except StopConsumer:
            ending = 1000
            await self._close(ending)
        except TooSlow:
            # It may come back, and nobody else waits for it.
            ending = 1013
            self._report.too_slow(ending)
            await self._close(ending)
        except _ClosedForRestart as closed:
            ending = closed.code
        except Exception as error:
            ending = 1011
            self._report.failed(error)
            await self._close(ending)
            raise
        finally:
            try:
                await self._finish(ending, turns)
            finally:
                process_connections.discard(self)
                metrics.CONNECTIONS_OPEN.add(-1)
                metrics.CONNECTION_DURATION.observe(perf_counter() - self._since)
                consumer._connection = None  # noqa: SLF001

    def _handled_all(self, task: asyncio.Task[None]) -> None:
        """Wake the server's task, for the connection has ended by itself."""
        if self._reader is not None and self._reader.reading:
            self._reader.stop()
        elif not task.cancelled():
            # Raised to the server unless that has cancelled us; then it was logged.
            task.exception()

    async def _handle_event(self, event: Event) -> None:
        kind = event.get("type")
        if kind == "websocket.connect":
            self._started = True
            process_connections.add(self)
        elif kind == "http.request":
            process_connections.add(self)
        elif kind == "server.drain":
            await self._close_for_restart(event)
            return
        elif kind == "websocket.disconnect":
            await self._background.end()
            self._disconnected = True
            if self._outbox.open:
                metrics.CLOSES_RECEIVED.add(event.get("code") or 1005)
            self._outbox.lost = True
        begun = perf_counter()
        try:
            await self._consumer.dispatch(event)
        except StopConsumer:
            raise
        except Exception as error:
            if kind in LAST_EVENTS and isinstance(error, UnknownMessageType):
                pass  # nobody has to have a handler for the end
            elif kind in ("websocket.connect", "websocket.disconnect"):
                raise
            else:
                await self._report.consult(error)
        finally:
            metrics.HANDLER_DURATION.observe(perf_counter() - begun)
        if kind in LAST_EVENTS:
            # Also where the application's own handler forgot to say so.
            raise StopConsumer

    async def _close_for_restart(self, event: Event) -> None:
        """Let the consumer say goodbye if it has a handler for that; then close.

        Raises:
            _ClosedForRestart: once the socket is closed; not for an HTTP request,
                whose response the consumer ends itself.
        """
        socket = self._outbox.open
        if socket and self._reader is not None:
            # granian (seen in 2.8) closes no socket while its next event is awaited.
            self._reader.stop()
        try:
            await self._consumer.dispatch(event)
        except StopConsumer:
            raise
        except UnknownMessageType:
            pass  # an offer, which not every consumer takes
        except Exception as error:
            await self._report.consult(error)
        if socket:
            await self._close(event["code"], event["reason"])
            raise _ClosedForRestart(event["code"])

    async def _close(self, code: int, reason: str | None = None) -> None:
        """Close an accepted socket; before that the server's own refusal is better."""
        if self._outbox.open and not self._disconnected:
            try:
                await self._outbox.send(websocket_close(code, reason))
            except Exception as error:
                self._report.not_closed(error)

    async def _finish(self, ending: int, turns: Dispatcher) -> None:
        try:
            await self._background.end()
            if self._started and not self._disconnected:
                await self._disconnect(ending)
        finally:
            await self._channel.close()
            # Again, for what the disconnect handler has started.
            await self._background.end()
            turns.tidy()

    async def _disconnect(self, ending: int) -> None:
        """Run the disconnect handler that the server's own event did not reach."""
        self._disconnected = True
        self._outbox.lost = True
        event = {"type": "websocket.disconnect", "code": ending}
        try:
            await self._consumer.dispatch(event)
        except (StopConsumer, UnknownMessageType):
            pass
        except Exception as error:
            # The first error is the one to raise; this one must not hide it.
            self._report.disconnect_failed(error)


def _blocking_or_awaitable(send: Send) -> Callable[[Event], Any]:
    """``send`` for sync code: it blocks in a thread, and is awaited on a loop."""
    blocking = async_to_sync(send)

    def base_send(event: Event) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return blocking(event)
        return send(event)

    return base_send
