"""Serves one connection with a consumer, from its first event to its clean-up."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
from collections.abc import Callable
from time import perf_counter
from typing import Any

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
from tiderace.connection.background import BackgroundTasks
from tiderace.connection.dispatcher import Dispatcher
from tiderace.connection.eager import EagerPath
from tiderace.connection.handlers import (
    UNHANDLED,
    ConsumerProtocol,
    HandlerCaller,
    Handlers,
)
from tiderace.connection.inbox import LAST_EVENTS, EventReader, Inbox
from tiderace.connection.log import ConnectionLog
from tiderace.delivery.mailbox import Mailbox
from tiderace.delivery.outbox import Outbox, TooSlow
from tiderace.exceptions import StopConsumer, UnknownMessageType
from tiderace.runtime.connections import (
    ConnectionInfo,
    DrainNotice,
    process_connections,
)

__all__ = ["Connection"]


# Events that change the state of the connection, each with the exceptions of its handler
# that are raised without ``on_error``.
_OWN_EVENTS: dict[str, type[Exception] | tuple[type[Exception], ...]] = {
    "websocket.connect": Exception,
    "websocket.disconnect": Exception,
    "http.request": StopConsumer,
    "http.disconnect": UNHANDLED,
    "server.drain": UNHANDLED,
}


class _ClosedForRestart(Exception):
    """A drain has closed the connection, which ends as after a disconnect."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


class Connection:
    """One consumer serving one connection.

    The server's task reads the client's events; a task of the connection's own runs
    the handlers. However the connection ends, its disconnect handler has run once, its
    background tasks have ended and its channel has left its groups.

    Args:
        consumer: the consumer; gets its layer, its channel and ``base_send``.
        handlers: the consumer's functions.
        layer: its channel layer, or None.
        receive: ASGI's.
        send: ASGI's.

    Attributes:
        background: the tasks beside the handlers.
    """

    __slots__ = (
        "_caller",
        "_consumer",
        "_context",
        "_disconnected",
        "_early",
        "_handlers",
        "_idle",
        "_inbox",
        "_layer",
        "_log",
        "_outbox",
        "_reader",
        "_receive",
        "_since",
        "_started",
        "_task",
        "background",
    )

    def __init__(
        self,
        consumer: ConsumerProtocol,
        handlers: Handlers,
        layer: Any,
        receive: Receive,
        send: Send,
    ) -> None:
        scope = consumer.scope
        self._consumer = consumer
        self._handlers = handlers
        self._layer = layer
        self._receive = receive
        extensions = scope.get("extensions") or {}
        self._outbox = Outbox(
            send,
            frames=extensions.get("tiderace.frames"),
            limit=conf.current().outbox_limit,
        )
        self._log = ConnectionLog(scope, type(consumer).__qualname__)
        self._inbox = Inbox(layer)
        self.background = BackgroundTasks(self._inbox)
        # A worker's connection has no client: its events are messages of the layer.
        self._idle = asyncio.Event() if scope.get("type") == "channel" else None
        self._task: asyncio.Task[None] | None = None
        self._context = contextvars.copy_context()
        self._context.run(serving.set, scope)
        self._reader: EventReader | None = None
        # Events of ``queue_event`` from before there was a mailbox.
        self._early: list[Event] = []
        # Whether the connect handler and the disconnect handler were called.
        self._started = False
        self._disconnected = False
        self._since = perf_counter()

    async def serve(self) -> None:
        """Serve the connection until it has ended and is cleaned up."""
        try:
            await self._open()
        except Exception as error:
            self._log.failed(error)
            raise
        # A task, and so a context, of its own: a handler that is run eagerly must find
        # itself in the same task as the others.
        task = self._task = asyncio.get_running_loop().create_task(
            self._handle_all(), context=self._context
        )
        self._reader = EventReader(
            self._receive, self._mailbox, outbox=self._outbox, idle=self._idle
        )
        task.add_done_callback(self._handled_all)
        for event in self._early:
            self.queue_event(event)
        try:
            await self._reader.read()
        except asyncio.CancelledError:
            # The server ends the connection.
            task.cancel()
            await asyncio.wait([task])
            raise
        await task

    def queue_event(self, event: Event) -> None:
        """Queue an event of Tiderace itself, handled in turn with the client's."""
        if self._task is None:
            self._early.append(event)
        elif not self.background.ending:
            self.background.spawn(self._mailbox.offer(event))

    def drain(self, notice: DrainNotice) -> None:
        """Close the socket once the consumer has handled the events before this."""
        self.queue_event(
            {
                "type": "server.drain",
                "code": notice.code,
                "reason": notice.reason,
                "retry_after": notice.retry_after,
            }
        )

    def cut(self) -> None:
        """End now, also in the middle of a handler."""
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
        return self._inbox.mailbox

    async def _open(self) -> None:
        """Create the channel, and set the consumer's attributes."""
        consumer, layer, send = self._consumer, self._layer, self._outbox.send
        sync = self._handlers.sync
        consumer.base_send = _blocking_or_awaitable(send) if sync else send
        consumer.channel_layer = layer
        await self._inbox.open()
        if layer is not None:
            name = self._log.channel_name = self._inbox.channel_name
            consumer.channel_name = name
            consumer.channel_receive = functools.partial(layer.receive, name)

    async def _handle_all(self) -> None:
        """Run the handlers until the connection ends, then clean up."""
        metrics.CONNECTIONS_OPEN.add()
        ending = 1006
        if self._layer is not None:
            self._inbox.read_layer(self._consumer.channel_receive, self._idle)
        self._caller = caller = HandlerCaller(
            self._consumer,
            self._handlers,
            self._mailbox,
            self._outbox,
            background=self.background,
            log=self._log,
        )
        eager = EagerPath(
            self._consumer,
            self._handlers,
            self._mailbox,
            self._outbox,
            caller=caller,
            context=self._context,
        )
        dispatcher = Dispatcher(
            self._mailbox, caller, self._handlers.dispatch, eager, self._idle
        )
        try:
            await dispatcher.run(_OWN_EVENTS, self._handle_own_event)
        except StopConsumer:
            ending = 1000
            await self._close(ending)
        except TooSlow:
            # "Try again later": the client may connect again.
            ending = 1013
            self._log.too_slow(ending)
            await self._close(ending)
        except _ClosedForRestart as closed:
            ending = closed.code
        except Exception as error:
            ending = 1011
            self._log.failed(error)
            await self._close(ending)
            raise
        finally:
            try:
                await self._finish(ending)
            finally:
                process_connections.discard(self)
                metrics.CONNECTIONS_OPEN.add(-1)
                metrics.CONNECTION_DURATION.observe(perf_counter() - self._since)

    def _handled_all(self, task: asyncio.Task[None]) -> None:
        """Wake the server's task if the connection has ended by itself."""
        if self._reader is not None and self._reader.reading:
            self._reader.stop()
        elif not task.cancelled():
            # Retrieved, so that asyncio does not log it: ``serve`` raises it, or the
            # server has cancelled the connection and it was logged.
            task.exception()

    async def _handle_own_event(self, event: Event) -> None:
        """Handle one of ``_OWN_EVENTS``.

        Raises:
            StopConsumer: after the last event, whether or not its handler raises it.
        """
        kind = event["type"]
        if kind == "server.drain":
            await self._close_for_restart(event)
            return
        if kind == "websocket.disconnect":
            await self.background.end()
            self._disconnected = True
            if self._outbox.open:
                metrics.CLOSES_RECEIVED.add(event.get("code") or 1005)
            self._outbox.lost = True
        elif kind == "websocket.connect":
            self._started = True
            process_connections.add(self)
        elif kind == "http.request":
            process_connections.add(self)
        try:
            await self._dispatch(event, perf_counter())
        except UnknownMessageType:
            if kind not in LAST_EVENTS:
                raise
        if kind in LAST_EVENTS:
            raise StopConsumer

    async def _dispatch(self, event: Event, began: float = 0.0) -> None:
        await self._caller.call(
            self._handlers.dispatch(event), began, passing=_OWN_EVENTS[event["type"]]
        )

    async def _close_for_restart(self, event: Event) -> None:
        """Call the ``server_drain`` handler if there is one, then close the socket.

        Raises:
            _ClosedForRestart: once the socket is closed; not for an HTTP request,
                whose response the consumer ends itself.
        """
        is_socket = self._outbox.open
        if is_socket and self._reader is not None:
            # granian (seen in 2.8) closes no socket while its next event is awaited.
            self._reader.stop()
        with contextlib.suppress(UnknownMessageType):
            await self._dispatch(event)
        if is_socket:
            await self._close(event["code"], event["reason"])
            raise _ClosedForRestart(event["code"])

    async def _close(self, code: int, reason: str | None = None) -> None:
        """Close an accepted socket; one that is not accepted is refused by the server."""
        if self._outbox.open and not self._disconnected:
            try:
                await self._outbox.send(websocket_close(code, reason))
            except Exception as error:
                self._log.not_closed(error)

    async def _finish(self, ending: int) -> None:
        try:
            await self.background.end()
            if self._started and not self._disconnected:
                await self._disconnect(ending)
        finally:
            groups = getattr(self._consumer, "groups", None) or ()
            await self._inbox.close(groups, self._log)
            # Again, for tasks that the disconnect handler has started.
            await self.background.end()
            self._caller.close_stale_db_connections()

    async def _disconnect(self, ending: int) -> None:
        """Call the disconnect handler when no event of the server has done so."""
        self._disconnected = True
        self._outbox.lost = True
        try:
            await self._dispatch({"type": "websocket.disconnect", "code": ending})
        except (StopConsumer, UnknownMessageType):
            pass
        except Exception as error:
            # Not raised: it would hide the first error.
            self._log.disconnect_failed(error)


def _blocking_or_awaitable(send: Send) -> Callable[[Event], Any]:
    """Return ``send`` for sync consumers: it blocks in a thread, and is awaitable else."""
    blocking = async_to_sync(send)

    def base_send(event: Event) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return blocking(event)
        return send(event)

    return base_send
