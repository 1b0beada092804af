"""One connection being served: its tasks, its mailbox, its outbox, its end.

It knows a consumer as something with handlers, a layer as the place messages come
from, and ASGI's ``receive`` and ``send``; what applications write stands in
``tiderace.consumer``.

The server's task of the connection hands over the client's events, one at a time; a
task of the connection's own runs the handlers, strictly one after the other. A message
of the layer whose consumer has nothing else to do is handled where it is delivered, as
if in that task, so that it costs no switch; see ``Connection._take_now``.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from enum import Enum
from threading import get_ident
from time import perf_counter
from typing import Any, Protocol, TypeVar, cast

from asgiref.sync import async_to_sync

from tiderace import conf, metrics, threads
from tiderace import db as database
from tiderace.asgi import (
    Event,
    Receive,
    Scope,
    Send,
    describe,
    log_fields,
    serving,
    websocket_close,
)
from tiderace.delivery.mailbox import Lane, Mailbox
from tiderace.delivery.outbox import Outbox, Ready, TooSlow
from tiderace.drain import Notice, process_drain
from tiderace.exceptions import StopConsumer, UnknownMessageType
from tiderace.layers.base import LocalDelivery

__all__ = ["Access", "Connection", "Served", "get_handler_name"]

logger = logging.getLogger("tiderace.consumer")

T = TypeVar("T")


def get_handler_name(message: Event) -> str:
    """The method that handles ``message``: its type with dots as underscores.

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
    """What a message of the layer may do with a method."""

    REFUSED = "not call it"
    IN_TURN = "call it, after the messages before it"
    CONCURRENT = "call it beside others"


class Served(Protocol):
    """What a connection needs of its consumer.

    Names of ours begin with an underscore, to leave the others to the application.
    """

    scope: Scope
    channel_layer: Any
    channel_name: str
    channel_receive: Callable[[], Awaitable[Any]]
    base_send: Callable[[Event], Any]
    accepts_broadcasts: bool
    _connection: Connection | None
    _sync: bool

    async def dispatch(self, message: Event) -> None:
        """Call the handler of ``message``."""

    async def _consult(self, error: Exception) -> None:
        """Let the application decide what ``error`` means."""

    def _route(self, message: Event) -> Callable[[Event], Any] | None:
        """The handler of a layer's message where nothing else is to be decided."""

    def _layer_access(self, name: str) -> Access:
        """What a message of the layer may do with the method ``name``."""


class _Failed:
    """A source of events broke: what it raised, to be raised where handlers run."""

    __slots__ = ("consult", "error")

    def __init__(self, error: BaseException, *, consult: bool = False) -> None:
        self.error = error
        # Whether ``on_error`` has not seen it yet.
        self.consult = consult


class _ClosedForRestart(Exception):
    """The connection was ended by a drain, and ends as if its client had left."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


class _Begun:
    """A handler that was begun where its message was delivered, and has to wait."""

    __slots__ = ("_waits_for", "_work", "begun", "consult", "error")

    def __init__(
        self,
        work: Coroutine[Any, Any, None],
        waits_for: Any,
        *,
        consult: bool = False,
        begun: float = 0.0,
    ) -> None:
        self._work = work
        # When, if it is one of those that are timed.
        self.begun = begun
        # Whether ``on_error`` is to see what it raises.
        self.consult = consult
        # What it has yielded: a future, as a task is given it.
        self._waits_for = waits_for
        # To be raised in it instead of waiting.
        self.error: BaseException | None = None

    def __await__(self) -> Generator[Any, Any, None]:
        work, waits_for, error = self._work, self._waits_for, self.error
        value = None
        while True:
            if error is None:
                try:
                    value = yield waits_for
                except BaseException as raised:
                    error = raised
            try:
                if error is None:
                    waits_for = work.send(value)
                else:
                    thrown, error = error, None
                    waits_for = work.throw(thrown)
            except StopIteration:
                return


if sys.version_info >= (3, 12):
    from asyncio.tasks import _swap_current_task
else:
    # What asyncio's own _enter_task and _leave_task keep.
    _current_tasks: dict[asyncio.AbstractEventLoop, asyncio.Task[Any]]
    _current_tasks = asyncio.tasks._current_tasks  # type: ignore[attr-defined]  # noqa: SLF001

    def _swap_current_task(
        loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any] | None
    ) -> asyncio.Task[Any] | None:
        outer = _current_tasks.pop(loop, None)
        if task is not None:
            _current_tasks[loop] = task
        return outer


# Whether a handler is being run where its message was delivered.
_stepping = False

# One in so many handlers of group messages is timed: looking at the clock twice is
# little, but so is what most of them do.
_TIMED = 64
_untimed = 0

# After these events nothing more can happen on a connection.
_LAST_EVENTS = frozenset({"http.disconnect", "websocket.disconnect"})


class Connection:
    """One consumer serving one connection: its tasks, its mailbox, its end."""

    __slots__ = (
        "_begun",
        "_concurrent",
        "_consumer",
        "_context",
        "_disconnected",
        "_ending",
        "_feeding",
        "_idle",
        "_interrupted",
        "_layer",
        "_loop",
        "_mailbox",
        "_only_messages",
        "_outbox",
        "_reader",
        "_receive",
        "_started",
        "_task",
        "_tasks",
        "_thread",
        "_waiting",
        "ident",
    )

    def __init__(
        self, consumer: Served, layer: Any, receive: Receive, send: Send
    ) -> None:
        self._consumer = consumer
        self._layer = layer
        self._receive = receive
        extensions = consumer.scope.get("extensions") or {}
        self._outbox = Outbox(
            send,
            frames=extensions.get("tiderace.frames"),
            limit=conf.current().outbox_limit,
        )
        self._loop = asyncio.get_running_loop()
        self.ident = get_ident()
        # None below a sync caller, whose own thread runs the sync code.
        self._thread = threads.current()
        self._mailbox: Mailbox[Any] = Mailbox("", 0)
        # What runs the handlers, and in which context.
        self._task: asyncio.Task[None] | None = None
        self._context = contextvars.copy_context()
        self._context.run(serving.set, consumer.scope)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._concurrent: set[asyncio.Task[Any]] = set()
        # A worker's connection has no client: its events are messages of the layer.
        self._only_messages = consumer.scope.get("type") == "channel"
        self._idle = asyncio.Event() if self._only_messages else None
        # The server's task, whether it is reading events, and was told to stop that.
        self._reader: asyncio.Task[Any] | None = None
        self._feeding = False
        self._interrupted = False
        # Whether the connection's task has nothing to do.
        self._waiting = False
        # Whether the connect handler was called, the tasks are being cancelled, the
        # disconnect handler was called.
        self._started = False
        self._ending = False
        self._disconnected = False
        self._begun = perf_counter()

    async def serve(self) -> None:
        """Serve the connection until it ends, and leave nothing behind."""
        try:
            await self._open()
        except Exception as error:
            await self._fail(error)
            raise
        here = asyncio.current_task()
        assert here is not None  # noqa: S101 (this is a coroutine)
        # A task, and so a context, of its own: what runs a handler elsewhere must be
        # able to say that it runs there.
        task = self._task = self._loop.create_task(
            self._handle_all(), context=self._context
        )
        self._feeding = True
        self._reader = here
        task.add_done_callback(self._stop_feeding)
        try:
            await self._feed(self._receive, Lane.EVENT)
        except asyncio.CancelledError:
            self._feeding = False
            if not self._interrupted or here.uncancel() > 0:
                # The server ends the connection.
                task.cancel()
                await asyncio.wait([task])
                raise
        self._feeding = False
        await task

    def _stop_feeding(self, task: asyncio.Task[None]) -> None:
        """Wake the server's task, for the connection has ended by itself."""
        if self._feeding:
            self._stop_reading()
        elif not task.cancelled():
            # Raised to the server unless that has cancelled us; then it was logged.
            task.exception()

    def _stop_reading(self) -> None:
        """Wait for no more events of the client."""
        if self._feeding and self._reader is not None:
            self._feeding = False
            self._interrupted = True
            self._reader.cancel()

    async def _handle_all(self) -> None:
        """Run the handlers until the connection ends, then what has to run at the end."""
        consumer = self._consumer
        consumer._connection = self  # noqa: SLF001
        metrics.CONNECTIONS_OPEN.add()
        ending = 1006
        feeds = self._more_feeds()
        try:
            await self._run()
        except StopConsumer:
            ending = 1000
            await self._close(ending)
        except TooSlow:
            ending = 1013
            await self._give_up(ending)
        except _ClosedForRestart as closed:
            ending = closed.code
        except Exception as error:
            ending = 1011
            await self._fail(error)
            raise
        finally:
            try:
                await self._finish(ending, feeds)
            finally:
                process_drain.leave(self)
                metrics.CONNECTIONS_OPEN.add(-1)
                metrics.CONNECTION_DURATION.observe(perf_counter() - self._begun)
                consumer._connection = None  # noqa: SLF001

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        if asyncio._get_running_loop() is not self._loop:  # noqa: SLF001
            # A sync handler, in its thread.
            return asyncio.run_coroutine_threadsafe(
                self._adopt(work), self._loop
            ).result()
        task = self._loop.create_task(work, context=threads.background_context())
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def drain(self, notice: Notice) -> None:
        """Close the socket when its consumer has done what is before this."""
        if not self._ending:
            event = {
                "type": "server.drain",
                "code": notice.code,
                "reason": notice.reason,
                "retry_after": notice.retry_after,
            }
            self.spawn(self._mailbox.offer(event))

    def cut(self) -> None:
        """End now, whatever the consumer is doing."""
        if self._task is not None:
            self._task.cancel()

    def tell(self, event: Event) -> None:
        """Have the consumer handle an event of ours, in turn with its client's."""
        if not self._ending:
            self.spawn(self._mailbox.offer(event))

    async def _adopt(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return self.spawn(work)

    async def _open(self) -> None:
        """Give the consumer its channel and its way to the client."""
        consumer, layer = self._consumer, self._layer
        consumer.channel_layer = layer
        if consumer._sync:  # noqa: SLF001
            consumer.base_send = _blocking_or_awaitable(self._outbox.send)
        else:
            consumer.base_send = self._outbox.send
        if layer is None:
            return
        name = await layer.new_channel()
        consumer.channel_name = name
        consumer.channel_receive = functools.partial(layer.receive, name)
        if isinstance(layer, LocalDelivery):
            self._mailbox = layer.attach(name)
            self._mailbox.take_now = self._take_now
        else:
            self._mailbox = Mailbox(name, 0)

    def _more_feeds(self) -> list[asyncio.Task[None]]:
        """For a layer of another project: a task that reads it message by message."""
        if self._layer is None or isinstance(self._layer, LocalDelivery):
            return []
        source = self._consumer.channel_receive
        return [self._loop.create_task(self._feed(source, Lane.MESSAGE))]

    async def _feed(self, source: Callable[[], Awaitable[Any]], lane: Lane) -> None:
        """Hand over what ``source`` returns, one at a time, until nothing more can come."""
        mailbox = self._mailbox
        try:
            while True:
                item = await source()
                kind = item.get("type") if lane is Lane.EVENT else None
                if kind == "websocket.disconnect":
                    self._outbox.leaving = True
                await mailbox.offer(item, lane)
                if kind in _LAST_EVENTS:
                    return
                if self._idle is not None:
                    # A worker's messages are work: what is read ahead would be lost
                    # with a handler that fails.
                    await self._idle.wait()
        except Exception as error:
            await mailbox.offer(_Failed(error))

    async def _run(self) -> None:
        while True:
            lane, item = await self._next()
            if isinstance(item, _Begun):
                try:
                    await item
                except StopConsumer:
                    raise
                except Exception as error:
                    if not item.consult:
                        raise
                    await self._consult(error)
                if item.begun:
                    metrics.HANDLER_DURATION.observe(perf_counter() - item.begun)
            elif isinstance(item, _Failed):
                if not item.consult or not isinstance(item.error, Exception):
                    raise item.error
                if isinstance(item.error, StopConsumer):
                    raise item.error
                await self._consult(item.error)
            elif lane is Lane.EVENT and not self._only_messages:
                await self._handle_event(item)
            else:
                # What a worker handles is work, like a client's events.
                begun = perf_counter() if self._only_messages else _now_and_then()
                await self._handle_message(item)
                if begun:
                    metrics.HANDLER_DURATION.observe(perf_counter() - begun)
            if self._thread is not None and self._thread.used:
                self._tidy_thread(self._thread)

    async def _next(self) -> tuple[Lane, Any]:
        if self._idle is not None:
            self._idle.set()
        self._waiting = True
        self._clear_way()
        try:
            return await self._mailbox.next()
        except asyncio.CancelledError as cancelled:
            begun = self._mailbox.take_first()
            if not isinstance(begun, _Begun):
                raise
            # Meant for the handler that was begun elsewhere; if it copes with it, as
            # asyncio.timeout() does, the connection goes on.
            begun.error = cancelled
            return Lane.EVENT, begun
        finally:
            self._waiting = False
            self._mailbox.writer = None
            if self._idle is not None:
                self._idle.clear()

    def _clear_way(self) -> None:
        """Let broadcasts pass by the connection while it has nothing to do."""
        if self._consumer.accepts_broadcasts and not self._mailbox.held:
            self._mailbox.writer = self._outbox.writer

    def _take_now(self, message: Event | Ready) -> bool:
        """Run the handler of ``message`` here, as the connection's own task would.

        Only while that task waits for something to do. A message that is sent from a
        handler run in this way waits for its own task, so a chain of sends is no chain
        of calls. A handler that has to wait is carried on by its task.
        """
        global _stepping
        task = self._task
        if (
            not self._waiting
            or _stepping
            or task is None
            # What asyncio.get_running_loop() would say, without its getpid().
            or get_ident() != self.ident
            or not self._loop.is_running()
        ):
            return False
        if type(message) is Ready:
            try:
                if self._consumer.accepts_broadcasts and self._outbox.put(message):
                    self._clear_way()
                    return True
            except TooSlow as error:
                self._waiting = False
                self._mailbox.writer = None
                self._mailbox.put_first(_Failed(error))
                return True
        work: Coroutine[Any, Any, None]
        event = cast("Event", message)
        handler = self._consumer._route(event)  # noqa: SLF001
        if handler is None:
            work = self._handle_message(message)
        else:
            # A copy, for the reason given in ``_handle_message``.
            work = handler(dict(event))
        self._waiting = False
        self._mailbox.writer = None
        _stepping = True
        begun = _now_and_then()
        outer = _swap_current_task(self._loop, task)
        try:
            waits_for = self._context.run(work.send, None)
        except StopIteration:
            if begun:
                metrics.HANDLER_DURATION.observe(perf_counter() - begun)
            self._waiting = True
            self._clear_way()
            if self._thread is not None and self._thread.used:
                self._tidy_thread(self._thread)
        except (Exception, asyncio.CancelledError) as error:
            self._mailbox.put_first(_Failed(error, consult=handler is not None))
        else:
            self._mailbox.put_first(
                _Begun(work, waits_for, consult=handler is not None, begun=begun)
            )
        finally:
            _swap_current_task(self._loop, outer)
            _stepping = False
        return True

    async def _handle_event(self, event: Event) -> None:
        kind = event.get("type")
        if kind == "websocket.connect":
            self._started = True
            process_drain.enter(self)
        elif kind == "http.request":
            process_drain.enter(self)
        elif kind == "server.drain":
            await self._close_for_restart(event)
            return
        elif kind == "websocket.disconnect":
            await self._cancel_tasks()
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
            if kind in _LAST_EVENTS and isinstance(error, UnknownMessageType):
                pass  # nobody has to have a handler for the end
            elif kind in ("websocket.connect", "websocket.disconnect"):
                raise
            else:
                await self._consult(error)
        finally:
            metrics.HANDLER_DURATION.observe(perf_counter() - begun)
        if kind in _LAST_EVENTS:
            # Also where the application's own handler forgot to say so.
            raise StopConsumer

    async def _close_for_restart(self, event: Event) -> None:
        """Let the consumer say goodbye if it has a handler for that; then close.

        Raises:
            _ClosedForRestart: once the socket is closed; not for an HTTP request,
                whose response the consumer ends itself.
        """
        socket = self._outbox.open
        if socket:
            # granian (seen in 2.8) closes no socket while its next event is awaited.
            self._stop_reading()
        try:
            await self._consumer.dispatch(event)
        except StopConsumer:
            raise
        except UnknownMessageType:
            pass  # an offer, which not every consumer takes
        except Exception as error:
            await self._consult(error)
        if socket:
            await self._close(event["code"], event["reason"])
            raise _ClosedForRestart(event["code"])

    async def _handle_message(self, message: Event | Ready) -> None:
        consumer = self._consumer
        if type(message) is Ready:
            if not consumer.accepts_broadcasts:
                self._drop(
                    "a broadcast",
                    "the consumer does not say accepts_broadcasts = True",
                )
            elif not self._outbox.put(message):
                await self._outbox.send(message.event)
            return
        assert not isinstance(message, Ready)  # noqa: S101 (for the type checker)
        try:
            name = get_handler_name(message)
        except (ValueError, TypeError) as error:
            self._drop(message, str(error))
            return
        access = consumer._layer_access(name)  # noqa: SLF001
        if name == "layer_gap" and not hasattr(consumer, name):
            return  # an offer, which not every consumer takes
        if access is Access.REFUSED:
            self._drop(message, "only handlers the application defines can be called")
            return
        # A copy of the outermost dict alone: handlers written for Channels pop the
        # type or add keys, and the other members hold the same object.
        work = self._dispatch_message(dict(message))
        if access is Access.CONCURRENT:
            self._start_concurrent(work)
        else:
            await work

    def _start_concurrent(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.spawn(work)
        self._concurrent.add(task)
        task.add_done_callback(self._concurrent_done)
        if len(self._concurrent) >= conf.current().concurrent_handlers:
            # Messages wait; events do not, or nobody would see the client leave.
            self._mailbox.hold()

    def _concurrent_done(self, task: asyncio.Task[None]) -> None:
        self._concurrent.discard(task)
        self._mailbox.release()

    async def _dispatch_message(self, message: Event) -> None:
        try:
            await self._consumer.dispatch(message)
        except UnknownMessageType:
            self._drop(message, "no handler for it")
        except StopConsumer:
            raise
        except Exception as error:
            await self._consult(error)

    def _drop(self, message: Event | str, why: str) -> None:
        metrics.MESSAGES_DROPPED_UNHANDLED.add()
        kind = message.get("type") if isinstance(message, dict) else message
        logger.warning(
            "%s dropped a message of type %r (%s); define the method for it, or check "
            "the type where it is sent (%s)",
            type(self._consumer).__qualname__,
            kind,
            why,
            describe(self._consumer.scope),
            extra=self._fields("unhandled_message", message_type=kind),
        )

    async def _consult(self, error: Exception) -> None:
        """Let ``on_error`` decide; it raises when the connection is to end."""
        consumer = self._consumer
        await consumer._consult(error)  # noqa: SLF001
        metrics.CONSUMER_ERRORS.add()
        logger.warning(
            "%s goes on after %r (%s)",
            type(consumer).__qualname__,
            error,
            describe(consumer.scope),
            exc_info=error,
            extra=self._fields("handler_failed_and_goes_on"),
        )

    async def _fail(self, error: Exception) -> None:
        """Say that the connection ends because of ``error``, here and to the client."""
        consumer = self._consumer
        metrics.CONSUMER_ERRORS.add()
        fields = self._fields("handler_failed")
        # Without the traceback, which the server logs for what is raised to it.
        logger.error(
            "%s failed with %r and is closed (%s, user %s, channel %s)",
            type(consumer).__qualname__,
            error,
            describe(consumer.scope),
            fields["user_id"],
            fields["channel_name"],
            extra=fields,
        )
        await self._close(1011)

    def _fields(self, reason: str, **more: Any) -> dict[str, Any]:
        """What a log record about this connection has, see ``log_fields``."""
        return log_fields(
            self._consumer.scope,
            reason,
            channel_name=getattr(self._consumer, "channel_name", None),
            consumer=type(self._consumer).__qualname__,
            **more,
        )

    async def _give_up(self, code: int) -> None:
        """The client reads too slowly; it may come back, and nobody else waits for it."""
        metrics.SLOW_CLIENTS.add()
        logger.warning(
            "a client has left more than %d bytes unread and is closed with %d (%s)",
            conf.current().outbox_limit,
            code,
            describe(self._consumer.scope),
            extra=self._fields("slow_client", code=code),
        )
        await self._close(code)

    async def _close(self, code: int, reason: str | None = None) -> None:
        """Close an accepted socket; before that the server's own refusal is better."""
        if self._outbox.open and not self._disconnected:
            try:
                await self._outbox.send(websocket_close(code, reason))
            except Exception as error:
                logger.debug(
                    "could not close %s: %r", describe(self._consumer.scope), error
                )

    async def _finish(self, ending: int, feeds: list[asyncio.Task[None]]) -> None:
        try:
            await self._cancel_tasks()
            if self._started and not self._disconnected:
                await self._disconnect(ending)
        finally:
            for feed in feeds:
                feed.cancel()
            self._mailbox.take_now = None
            if isinstance(self._layer, LocalDelivery):
                await self._layer.detach(self._mailbox)
            elif self._layer is not None:
                await self._leave_declared_groups()
            # Again, for what the disconnect handler has started.
            await self._cancel_tasks()
            await _ended(feeds)
            if self._thread is not None and self._thread.used:
                self._tidy_thread(self._thread)

    async def _disconnect(self, ending: int) -> None:
        """Run the disconnect handler that the server's own event did not reach."""
        self._disconnected = True
        self._outbox.lost = True
        event = {"type": "websocket.disconnect", "code": ending}
        try:
            await self._consumer.dispatch(event)
        except (StopConsumer, UnknownMessageType):
            pass
        except Exception:
            # The first error is the one to raise; this one must not hide it.
            logger.exception(
                "%s failed in its disconnect handler (%s)",
                type(self._consumer).__qualname__,
                describe(self._consumer.scope),
                extra=self._fields("disconnect_handler_failed"),
            )

    async def _leave_declared_groups(self) -> None:
        """For a layer of another project: the groups that the consumer names itself."""
        for group in getattr(self._consumer, "groups", None) or ():
            try:
                await self._layer.group_discard(group, self._consumer.channel_name)
            except Exception:
                logger.exception(
                    "could not leave group %s",
                    group,
                    extra=self._fields("group_not_left", group=group),
                )

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None or self._ending:
            return
        report = self._loop.create_task(self._report(error))
        self._tasks.add(report)
        report.add_done_callback(self._tasks.discard)

    async def _report(self, error: BaseException) -> None:
        if isinstance(error, Exception) and not isinstance(error, StopConsumer):
            try:
                await self._consult(error)
            except Exception as decided:
                error = decided
            else:
                return
        # Raised where handlers run, for there the connection ends.
        await self._mailbox.offer(_Failed(error))

    async def _cancel_tasks(self) -> None:
        self._ending = True
        while tasks := list(self._tasks):  # one may start another while it ends
            for task in tasks:
                task.cancel()
            await _ended(tasks)

    def _tidy_thread(self, thread: threads.ConnectionThread) -> None:
        """Close what a handler's database work left too old, in the thread it used.

        Only when a handler used a thread, and nobody waits for it: a message that
        touches no database costs no thread hop.
        """
        if not self._consumer._sync:  # noqa: SLF001 (sync handlers have done it)
            thread.submit(database.close_old_connections)
        thread.release()


async def _ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Wait until cancelled tasks are over; what they still raise is logged."""
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception) and not isinstance(result, StopConsumer):
            logger.error("a background task failed while it ended", exc_info=result)


def _now_and_then() -> float:
    """The time for one handler in so many, else 0."""
    global _untimed
    _untimed += 1
    if _untimed < _TIMED:
        return 0.0
    _untimed = 0
    return perf_counter()


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
