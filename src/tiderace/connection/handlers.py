"""Calls the handlers of one consumer, and passes their errors to ``on_error``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum
from time import perf_counter
from typing import Any, NamedTuple, Protocol

from tiderace import conf, metrics
from tiderace.asgi import Event, Scope
from tiderace.connection.background import BackgroundTasks
from tiderace.connection.log import ConnectionLog
from tiderace.delivery.mailbox import Mailbox
from tiderace.delivery.outbox import Outbox, PreparedMessage
from tiderace.exceptions import StopConsumer, UnknownMessageType
from tiderace.runtime import threads
from tiderace.runtime.tasks import as_error

UNHANDLED = (StopConsumer, UnknownMessageType)
"""The exceptions of ``HandlerCaller.call`` where a missing handler is no error."""


def get_handler_name(message: Event) -> str:
    """Return the name of the method that handles ``message``: its type, dots as ``_``.

    Raises:
        ValueError: for a message without a type, or with one that would name a
            private attribute.
    """
    if "type" not in message:
        raise ValueError("Incoming message has no 'type' attribute")
    name = str(message["type"]).replace(".", "_")
    if name.startswith("_"):
        raise ValueError("Malformed type in message (leading underscore)")
    return name


class Access(Enum):
    """How a message of the layer may call a method."""

    REFUSED = "never"
    IN_TURN = "after the handlers of earlier messages"
    CONCURRENT = "beside other handlers"


class Handlers(NamedTuple):
    """The functions of a class of consumers that its connections call.

    All connections share them: bound to each consumer they would be 0.3 KB of a socket.
    """

    find: Callable[[Any, Event], Callable[[Event], Coroutine[Any, Any, None]] | None]
    """Returns a consumer's handler of a layer's message if it may be called without
    ``dispatch``."""
    access: Callable[[str], Access]
    """Returns how a message of the layer may call the method of this name."""
    on_error: Callable[[Any, Exception], Awaitable[None]]
    """Raises if the connection of a consumer ends because of this exception of a handler."""
    sync: bool
    """Whether handlers are plain functions, run in the connection's thread."""


class ConsumerProtocol(Protocol):
    """A consumer, as its connection uses it. Its class has ``Handlers`` in addition."""

    scope: Scope
    channel_layer: Any
    channel_name: str
    base_send: Callable[[Event], Any]
    accepts_broadcasts: bool

    @property
    def channel_receive(self) -> Callable[[], Awaitable[Any]]:
        """Returns the next message of the channel."""

    def dispatch(self, message: Event) -> Coroutine[Any, Any, None]:
        """Call the handler of an event or message."""


class HandlerCaller:
    """Calls the handlers of one connection's consumer, and handles their errors.

    Args:
        consumer: the consumer.
        handlers: those of its class.
        mailbox: holds messages back while too many handlers run beside each other.
        outbox: takes broadcasts.
        background: runs the handlers marked ``@concurrent``.
        log: logs dropped messages and errors.
    """

    __slots__ = (
        "_background",
        "_concurrent",
        "_consumer",
        "_handlers",
        "_log",
        "_mailbox",
        "_outbox",
        "_thread",
    )

    def __init__(
        self,
        consumer: ConsumerProtocol,
        handlers: Handlers,
        mailbox: Mailbox[Any],
        outbox: Outbox,
        *,
        background: BackgroundTasks,
        log: ConnectionLog,
    ) -> None:
        self._consumer = consumer
        self._handlers = handlers
        self._mailbox = mailbox
        self._outbox = outbox
        self._background = background
        self._log = log
        # None below a sync caller, whose own thread runs the sync code.
        self._thread = threads.current()
        if self._thread is not None and not handlers.sync:
            # A sync handler is one call, which needs no thread after it.
            self._thread.holds = True
        # How many @concurrent handlers are running.
        self._concurrent = 0

    async def call(
        self,
        work: Awaitable[None],
        began: float = 0.0,
        *,
        passing: type[Exception] | tuple[type[Exception], ...] = StopConsumer,
    ) -> None:
        """Await a handler, and pass an exception of it to ``on_error``.

        Args:
            work: the handler, called.
            began: when it was called, if it is to be timed; else 0.
            passing: exceptions that are raised without ``on_error``.

        Raises:
            Exception: one of ``passing``, or what ``on_error`` raises: the connection
                is to end.
            asyncio.CancelledError: when the connection is cut.
        """
        try:
            await work
        except (Exception, SystemExit, asyncio.CancelledError) as raised:
            if isinstance(raised, asyncio.CancelledError):
                threads.forget_cancelled_call()
            error = as_error(raised)
            try:
                if isinstance(error, passing):
                    raise error
                await self._handlers.on_error(self._consumer, error)
                self._log.handler_failed_and_goes_on(error)
            finally:
                # Its traceback holds this frame: a cycle, and with it the connection.
                del error
        finally:
            if began:
                metrics.HANDLER_DURATION.observe(perf_counter() - began)

    async def handle_message(
        self, message: Event | PreparedMessage, began: float = 0.0
    ) -> None:
        """Call the handler of a layer's message, or drop the message.

        Raises:
            TooSlow: when a broadcast finds the outbox full.
            Exception: as ``call``.
        """
        if isinstance(message, PreparedMessage):
            await self._send_broadcast(message)
            return
        try:
            name = get_handler_name(message)
        except (ValueError, TypeError) as error:
            self._log.dropped(message, str(error))
            return
        access = self._handlers.access(name)
        if name == "layer_gap" and not hasattr(self._consumer, name):
            return  # a handler for it is optional
        if access is Access.REFUSED:
            self._log.dropped(
                message, "only handlers the application defines can be called"
            )
            return
        # A copy, for the reason given in ``EagerPath.run_eagerly``.
        work = self._consumer.dispatch(dict(message))
        if access is Access.CONCURRENT:
            self._start(work)
            return
        try:
            await self.call(work, began, passing=UNHANDLED)
        except UnknownMessageType:
            self._log.dropped(message, "no handler for it")

    def release_thread(self) -> None:
        """Release the thread that the handler has used, if it has used one."""
        if self._thread is not None and self._thread.used:
            self._thread.release()

    async def _send_broadcast(self, message: PreparedMessage) -> None:
        if not self._consumer.accepts_broadcasts:
            self._log.dropped(
                "a broadcast", "the consumer does not say accepts_broadcasts = True"
            )
        elif not self._outbox.put(message):
            await self._outbox.send(message.event)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a handler beside the others; hold further messages if it is the last."""
        self._concurrent += 1
        self._background.spawn(work).add_done_callback(self._concurrent_done)
        if self._concurrent >= conf.current().concurrent_handlers:
            # Events are not held, so that a client that leaves is noticed.
            self._mailbox.hold()

    def _concurrent_done(self, task: asyncio.Task[None]) -> None:
        self._concurrent -= 1
        self._mailbox.release()
