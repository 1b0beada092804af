"""Serves one connection with a consumer, from its first event to its clean-up."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Coroutine, Iterable
from time import perf_counter
from typing import Any

from django.conf import settings

from tiderace import conf, metrics
from tiderace.asgi import (
    Event,
    Receive,
    Send,
    connection_id,
    printable,
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
from tiderace.layers.base import LocalDelivery
from tiderace.layers.manager import layer_attribute
from tiderace.runtime.connections import (
    ConnectionInfo,
    DrainNotice,
    process_connections,
)
from tiderace.runtime.sync_bridge import callable_in_threads
from tiderace.runtime.tasks import as_error

UNANSWERED_AFTER = 3.0
"""Seconds after ``connect()`` without an accept or a close, after which a warning is logged
while ``DEBUG`` is on."""

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
    the handlers. However the connection ends, its channel has left its groups, its
    background tasks have ended and its disconnect handler has run once. A handler that
    goes on when the client is gone is cancelled after ``TIDERACE["DISCONNECT_TIMEOUT"]``
    seconds, and left behind if it has not ended after half of that again.

    Args:
        consumer: the consumer; gets its layer, its channel and ``base_send``.
        handlers: those of the consumer's class.
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
        "_ended",
        "_ending_future",
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
        # Events of ``queue_event`` from before there was a mailbox, if there are any.
        self._early: list[Event] | None = None
        # Whether the connect handler and the disconnect handler were called.
        self._started = False
        self._disconnected = False
        self._ending_future: asyncio.Future[None] | None = None
        self._ended = False
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
        self._task = self._create_task(self._handle_all())
        reader = self._reader = EventReader(
            self._receive, self._mailbox, outbox=self._outbox, idle=self._idle
        )
        # With a context, since it would be a copy of the running one: 64 bytes.
        self._task.add_done_callback(reader.stop, context=self._context)
        for event in self._early or ():
            self.queue_event(event)
        cancelled = taken = None
        try:
            taken = await reader.read()
            # Mostly the disconnect handler ends in the iteration of the loop that follows.
            await asyncio.sleep(0)
        except asyncio.CancelledError as error:
            # The server ends the connection.
            cancelled = error
            self.cut()
        if not self._task.done():
            end = self._create_task(self._end(taken))
            while not end.done():
                try:
                    await asyncio.wait([end])
                except asyncio.CancelledError as error:
                    cancelled = error
                    self.cut()
        failure = None
        # A task that was left behind is not done.
        if self._task.done() and not self._task.cancelled():
            # Read in any case, so that asyncio does not log it.
            failure = self._task.exception()
        if cancelled is not None:
            raise cancelled
        if failure is not None:
            raise failure

    def queue_event(self, event: Event) -> None:
        """Queue an event of Tiderace itself, handled in turn with the client's."""
        if self._task is None:
            self._early = [*(self._early or ()), event]
        else:
            self._mailbox.post(event)

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
        """End now, also in the middle of a handler, but not of the disconnect handler."""
        if self._task is not None and not self._ending.done():
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
        counted = layer_attribute(consumer.channel_layer, "attach") is not None
        return ConnectionInfo(
            connection_id(consumer.scope),
            str(consumer.scope.get("type", "")),
            printable(str(consumer.scope.get("path", "")))[:200],
            type(consumer).__qualname__,
            len(self._mailbox.groups) if counted else None,
        )

    @property
    def _ending(self) -> asyncio.Future[None]:
        """Done when no handler but the disconnect handler is running."""
        if self._ending_future is None:
            self._ending_future = asyncio.get_running_loop().create_future()
        return self._ending_future

    @property
    def _mailbox(self) -> Mailbox[Any]:
        return self._inbox.mailbox

    async def _open(self) -> None:
        """Create the channel, and set the consumer's attributes."""
        consumer, layer, send = self._consumer, self._layer, self._outbox.send
        sync = self._handlers.sync
        consumer.base_send = callable_in_threads(send) if sync else send
        consumer.channel_layer = layer
        await self._inbox.open()
        if layer is not None:
            self._log.channel_name = self._inbox.channel_name
            consumer.channel_name = self._inbox.channel_name

    def _create_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work, context=self._context)

    async def _end(self, taken: asyncio.Future[None] | None) -> None:
        """Wait for the handlers and then the disconnect handler, within their time limits.

        Args:
            taken: done when the client's last event is taken; None if the client is
                not gone.
        """
        assert self._task is not None  # noqa: S101 (set by ``serve``)
        assert self._reader is not None  # noqa: S101
        last = self._reader.last
        if taken is None:
            await _first_of(self._task, self._ending)
        elif last is not None and last["type"] == "http.disconnect":
            await asyncio.wait([taken], timeout=0)
            if not taken.done():
                # It runs while the handler of the request does, which may stream.
                self._disconnected = True
                self.background.spawn(self._disconnect_beside(last))
        await self._inbox.leave_groups(self._groups, self._log)
        if not await self._ends_in_time("a handler", self._ending):
            self._task = self._create_task(self._finish(1006))
        if not await self._ends_in_time("the disconnect handler"):
            await self._clean_up()

    async def _ends_in_time(self, what: str, *stage: asyncio.Future[None]) -> bool:
        """Wait until the task or ``stage`` is done, and cancel the task if it takes long.

        A handler takes long when it runs for the limit, whatever the client has sent
        behind it. A worker has its own limit. Returns False if the task goes on all the
        same.
        """
        assert self._task is not None  # noqa: S101
        assert self._reader is not None  # noqa: S101
        limit = None if self._idle is not None else conf.current().disconnect_timeout
        unread = None
        while unread != (unread := self._reader.unread):
            if await _first_of(self._task, *stage, timeout=limit):
                return True
        self._log.cut(what, limit)
        self._task.cancel()
        if await _first_of(self._task, *stage, timeout=limit and limit / 2):
            return True
        self._log.left_behind(what)
        return False

    async def _disconnect_beside(self, event: Event) -> None:
        with contextlib.suppress(StopConsumer, UnknownMessageType):
            await self._consumer.dispatch(event)

    async def _handle_all(self) -> None:
        """Run the handlers until the connection ends, then clean up."""
        metrics.CONNECTIONS_OPEN.add()
        ending = 1006
        if self._layer is not None and not isinstance(self._layer, LocalDelivery):
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
        dispatcher = Dispatcher(self._mailbox, caller, eager, self._idle)
        try:
            await dispatcher.run(self._handle_event)
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
        except (Exception, SystemExit, asyncio.CancelledError) as raised:
            error = as_error(raised)
            ending = 1011
            self._log.failed(error)
            await self._close(ending)
            raise error  # noqa: B904 (its cause is set)
        finally:
            await self._finish(ending)

    def _handle_event(self, event: Event) -> Coroutine[Any, Any, None]:
        if event.get("type") in _OWN_EVENTS:
            return self._handle_own_event(event)
        return self._caller.call(self._consumer.dispatch(event), perf_counter())

    async def _handle_own_event(self, event: Event) -> None:
        """Handle one of ``_OWN_EVENTS``.

        Raises:
            StopConsumer: after the last event, whether or not its handler raises it.
        """
        kind = event["type"]
        if kind == "server.drain":
            await self._close_for_restart(event)
            return
        if kind in LAST_EVENTS and self._disconnected:
            raise StopConsumer
        if kind == "websocket.disconnect":
            await self._stop_handlers()
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
        if kind == "websocket.connect" and not self._outbox.answered:
            self._expect_answer()

    def _expect_answer(self) -> None:
        if conf.configured() and settings.DEBUG:
            loop = asyncio.get_running_loop()
            loop.call_later(UNANSWERED_AFTER, self._check_answer)

    def _check_answer(self) -> None:
        if not (self._outbox.answered or self._ended or self._outbox.lost):
            self._log.unanswered(UNANSWERED_AFTER)

    async def _dispatch(self, event: Event, began: float = 0.0) -> None:
        await self._caller.call(
            self._consumer.dispatch(event), began, passing=_OWN_EVENTS[event["type"]]
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

    @property
    def _groups(self) -> Iterable[str]:
        return getattr(self._consumer, "groups", None) or ()

    async def _stop_handlers(self) -> None:
        """End all but the disconnect handler, which is called next."""
        if not self._ending.done():
            self._ending.set_result(None)
        await self.background.end(conf.current().disconnect_timeout / 2)

    async def _finish(self, ending: int) -> None:
        if self._reader is not None:
            self._reader.stop()
        try:
            await self._stop_handlers()
            if self._started and not self._disconnected:
                await self._disconnect(ending)
        finally:
            await self._clean_up()

    async def _clean_up(self) -> None:
        if self._ended:
            return
        self._ended = True
        try:
            await self._inbox.close(self._groups, self._log)
            # Again, for tasks that the disconnect handler has started.
            await self._stop_handlers()
            self._caller.release_thread()
        finally:
            process_connections.discard(self)
            metrics.CONNECTIONS_OPEN.add(-1)
            metrics.CONNECTION_DURATION.observe(perf_counter() - self._since)

    async def _disconnect(self, ending: int) -> None:
        """Call the disconnect handler when no event of the server has done so."""
        self._disconnected = True
        self._outbox.lost = True
        # The client's event, which came during a handler that was then cut.
        last = self._reader and ending == 1006 and self._reader.last
        try:
            await self._dispatch(
                last or {"type": "websocket.disconnect", "code": ending}
            )
        except (StopConsumer, UnknownMessageType):
            pass
        except Exception as error:
            # It is logged, not raised, since it would hide the first error.
            self._log.disconnect_failed(error)


async def _first_of(
    *futures: asyncio.Future[None], timeout: float | None = None
) -> bool:
    """Return whether one of ``futures`` is done within ``timeout`` seconds."""
    if any(future.done() for future in futures):
        return True
    done, _ = await asyncio.wait(
        futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
    )
    return bool(done)
