"""Consumers: one object per connection, whose methods handle its events and messages.

    class Clock(AsyncConsumer):
        async def websocket_connect(self, event): ...
        async def time_changed(self, event): ...      # {"type": "time.changed"}

It knows a layer as the place messages come from, and a connection as ASGI's
``receive`` and ``send``; what a WebSocket or a request is stands in ``generic``.

How a consumer runs: the server's task of the connection runs the handlers, strictly
one after the other; one more task hands it the client's events, one at a time. A
layer of ours pushes into the connection's mailbox and costs no task. However the
connection ends (the client leaves, a handler raises, the server cancels), the
``websocket.disconnect`` handler has run exactly once, background tasks are over, and
every group is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from enum import Enum
from typing import Any, ClassVar, TypeVar, cast

from asgiref.sync import (
    async_to_sync,
    iscoroutinefunction,
    markcoroutinefunction,
)

from tiderace import DEFAULT_CHANNEL_LAYER, conf, metrics, threads
from tiderace import db as database
from tiderace.asgi import (
    Event,
    Receive,
    Scope,
    Send,
    describe,
    websocket_close,
)
from tiderace.db import database_sync_to_async
from tiderace.delivery.mailbox import Lane, Mailbox
from tiderace.delivery.outbox import Outbox
from tiderace.exceptions import StopConsumer, UnknownMessageType
from tiderace.layers import get_channel_layer
from tiderace.layers.base import LocalDelivery

__all__ = [
    "AsyncConsumer",
    "StopConsumer",
    "SyncConsumer",
    "await_many_dispatch",
    "concurrent",
    "get_channel_layer",
    "get_handler_name",
]

logger = logging.getLogger("tiderace.consumer")

T = TypeVar("T")
Handler = Callable[[Any], Any]
F = TypeVar("F", bound=Callable[..., Any])

# After these events nothing more can happen on a connection.
_LAST_EVENTS = frozenset({"http.disconnect", "websocket.disconnect"})

# Events of the server, which no message of a layer may imitate.
_ASGI_HANDLERS = frozenset(
    {
        "http_disconnect",
        "http_request",
        "websocket_connect",
        "websocket_disconnect",
        "websocket_receive",
    }
)


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


def concurrent(handler: F) -> F:
    """Mark a handler of layer messages to run beside the connection's other handlers.

        @concurrent
        async def report_wanted(self, event): ...

    The next message does not wait for it, so its effects may come in any order. At
    most ``TIDERACE["CONCURRENT_HANDLERS"]`` of them run for one connection; the next
    one then waits. They are cancelled when the connection ends.
    """
    handler._tiderace_concurrent = True  # type: ignore[attr-defined]  # noqa: SLF001
    return handler


def verb(method: F) -> F:
    """Let a coroutine method be called in a thread too, where it blocks until done.

    So that ``self.send(...)`` in a handler that is a plain ``def`` sends, instead of
    making a coroutine that nobody awaits.
    """

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        # None in a thread, where get_running_loop() would raise.
        if asyncio._get_running_loop() is None:  # noqa: SLF001
            return async_to_sync(method)(*args, **kwargs)
        return method(*args, **kwargs)

    return cast("F", markcoroutinefunction(call))


async def await_many_dispatch(
    sources: Sequence[Callable[[], Awaitable[Any]]],
    dispatch: Callable[[Any], Awaitable[Any]],
) -> None:
    """Await ``dispatch`` with what ``sources`` return, one result at a time, for ever.

    For code written for Channels that builds its own loop; our consumers do not need
    it. Each source is read at most one result ahead. Results that are there together
    are dispatched in the order of ``sources``. An exception of a source or of
    ``dispatch`` ends the loop; every source is then cancelled and awaited.
    """
    tasks = [asyncio.ensure_future(source()) for source in sources]
    try:
        while True:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for index, task in enumerate(tasks):
                if task.done():
                    await dispatch(task.result())
                    tasks[index] = asyncio.ensure_future(sources[index]())
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task


class _Access(Enum):
    """What a message of the layer may do with a method."""

    REFUSED = "not call it"
    IN_TURN = "call it, after the messages before it"
    CONCURRENT = "call it beside others"


class _Failed:
    """A source of events broke: what it raised, to be raised where handlers run."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class AsyncConsumer:
    """Handles one connection with coroutines.

    A message ``{"type": "chat.message"}`` is handled by the method ``chat_message``.
    Events of the server may reach any method; messages of the layer reach only those
    that the application itself defined, neither the verbs of the base classes
    (``send``, ``close``, ``dispatch``, ...) nor the handlers of server events. A layer
    message without a handler is logged and dropped.

    A handler that is a plain ``def`` runs in a thread, as ``database_sync_to_async``
    would run it; ``send`` and the other verbs need no ``await`` there.

    Attributes:
        scope: the ASGI scope of the connection, the very object the server passed.
        channel_layer: the layer of ``channel_layer_alias``, or None.
        channel_name: this connection's channel; only with a layer.
        base_send: sends an ASGI event to the client.
    """

    _sync: ClassVar[bool] = False
    channel_layer_alias: str = DEFAULT_CHANNEL_LAYER

    scope: Scope
    channel_layer: Any
    channel_name: str
    channel_receive: Callable[[], Awaitable[Any]]
    base_send: Callable[[Event], Any]

    _connection: _Connection | None = None
    # By method name, what a message of the layer may do with it.
    _access: ClassVar[dict[str, _Access]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._access = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection until it ends."""
        self.scope = scope
        _set_anonymous_user(scope)
        pool = threads.default_pool(conf.current().sync_threads)
        async with threads.isolated(pool):
            await _Connection(self, receive, send).serve()

    @classmethod
    def as_asgi(
        cls, **initkwargs: Any
    ) -> Callable[[Scope, Receive, Send], Coroutine[Any, Any, Any]]:
        """An ASGI application that makes one consumer per connection.

        ``initkwargs`` are passed to ``__init__`` each time. (The type says Coroutine,
        for that is what the types of Django's ``path()`` take.)
        """

        async def app(scope: Scope, receive: Receive, send: Send) -> Any:
            consumer = cls(**initkwargs)
            return await consumer(scope, receive, send)

        app.consumer_class = cls  # type: ignore[attr-defined]
        app.consumer_initkwargs = initkwargs  # type: ignore[attr-defined]
        # The class's name and documentation, but not its attributes.
        functools.update_wrapper(app, cls, updated=())
        return app

    async def dispatch(self, message: Event) -> None:
        """Call the handler of ``message``.

        Raises:
            UnknownMessageType: a ``ValueError``, when there is none.
        """
        handler = self._handler(message)
        if _is_coroutine_method(handler):
            await handler(message)
        else:
            await self._call(handler, message)

    @verb
    async def send(self, message: Event) -> None:
        """Send an ASGI event to the client."""
        await self.base_send(message)

    async def on_error(self, error: Exception) -> None:
        """Decide what an exception of a handler means; called once per exception.

        Raise (as this default does, with ``error``) and the connection ends: the
        error is logged with the connection's data, an accepted socket is closed with
        1011, groups are left, the disconnect handler runs, and the server is told.
        Return, and the connection goes on with the next message. An exception of the
        connect or disconnect handler always ends the connection.
        """
        raise error

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run ``work`` in the background for as long as the connection lives.

        The task is cancelled and awaited when the connection ends, before the
        disconnect handler runs. What it raises goes through ``on_error``.

        Raises:
            RuntimeError: while this consumer serves no connection.
        """
        connection = self._connection
        if connection is None:
            work.close()
            raise RuntimeError(
                f"{type(self).__name__}.spawn() was called while it serves no "
                "connection; call it from a handler"
            )
        return connection.spawn(work)

    async def _call(self, handler: Callable[..., Any], *arguments: Any) -> None:
        """Call ``handler``: on the loop if it cannot block, else in a thread."""
        # In a sync consumer a plain function around a coroutine function blocks
        # while that runs, as @async_to_sync does; in an async one it returns it.
        blocks = not iscoroutinefunction(handler) if self._sync else may_block(handler)
        if blocks:
            result = await database_sync_to_async(handler)(*arguments)
        else:
            result = handler(*arguments)
        if inspect.isawaitable(result):  # a plain function may give a coroutine, too
            await result

    def _handler(self, message: Event) -> Handler:
        handler: Handler | None = getattr(self, get_handler_name(message), None)
        if not callable(handler):
            raise UnknownMessageType(f"No handler for message type {message['type']}")
        return handler

    @classmethod
    def _layer_access(cls, name: str) -> _Access:
        """What a message of the layer may do with the method ``name``.

        It may call only what the application defined: a name that one of our own
        classes has is a verb or an event of the server, also where the application
        overrides it.
        """
        access = cls._access.get(name)
        if access is None:
            if name in _ASGI_HANDLERS or any(
                name in vars(base) or name in vars(base).get("__annotations__", ())
                for base in cls.__mro__
                if base.__module__ in _OUR_MODULES
            ):
                access = _Access.REFUSED
            elif getattr(getattr(cls, name, None), "_tiderace_concurrent", False):
                access = _Access.CONCURRENT
            else:
                access = _Access.IN_TURN
            # A type that no method has is not remembered: strangers may choose it.
            if hasattr(cls, name):
                cls._access[name] = access
        return access


class SyncConsumer(AsyncConsumer):
    """Handles one connection with plain functions, in a thread.

    Handlers of one connection run one after the other, each wholly in one thread;
    those of different connections run side by side on a bounded pool
    (``TIDERACE["SYNC_THREADS"]``). Below a sync caller, as in Django's ``TestCase``,
    they run in the caller's thread and see its database connection.

    A handler that is ``async def`` runs on the event loop; ``send`` and the other
    verbs return something to await there.
    """

    _sync = True

    def send(self, message: Event) -> Any:
        """Send an ASGI event to the client; waits until the server has taken it.

        On the event loop, in an ``async def`` handler, it returns an awaitable.
        """
        return self.base_send(message)


_OUR_MODULES = frozenset(
    {"tiderace.consumer", "tiderace.generic.http", "tiderace.generic.websocket"}
)


class _Connection:
    """One consumer serving one connection: its tasks, its mailbox, its end."""

    __slots__ = (
        "_concurrent",
        "_consumer",
        "_disconnected",
        "_ending",
        "_layer",
        "_loop",
        "_mailbox",
        "_only_messages",
        "_outbox",
        "_receive",
        "_started",
        "_tasks",
        "_thread",
    )

    def __init__(
        self,
        consumer: AsyncConsumer,
        receive: Receive,
        send: Send,
    ) -> None:
        self._consumer = consumer
        self._loop = asyncio.get_running_loop()
        self._receive = receive
        self._outbox = Outbox(send)
        # None below a sync caller, whose own thread runs the sync code.
        self._thread = threads.current()
        self._layer: Any = None
        self._mailbox: Mailbox[Any] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._concurrent: set[asyncio.Task[Any]] = set()
        # A worker's connection has no client: its events are messages of the layer.
        self._only_messages = consumer.scope.get("type") == "channel"
        # Whether the connect handler was called, the tasks are being cancelled, the
        # disconnect handler was called.
        self._started = False
        self._ending = False
        self._disconnected = False

    async def serve(self) -> None:
        """Run the handlers until the connection ends, and leave nothing behind."""
        consumer = self._consumer
        consumer._connection = self  # noqa: SLF001
        metrics.CONNECTIONS_OPEN.add()
        ending = 1006
        feeds: list[asyncio.Task[None]] = []
        try:
            feeds = await self._open()
            await self._run()
        except StopConsumer:
            ending = 1000
            await self._close(ending)
        except Exception as error:
            ending = 1011
            await self._fail(error)
            raise
        finally:
            try:
                await self._finish(ending, feeds)
            finally:
                metrics.CONNECTIONS_OPEN.add(-1)
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

    async def _adopt(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return self.spawn(work)

    async def _open(self) -> list[asyncio.Task[None]]:
        consumer = self._consumer
        mailbox: Mailbox[Any]
        layer = self._layer = get_channel_layer(consumer.channel_layer_alias)
        consumer.channel_layer = layer
        if consumer._sync:  # noqa: SLF001
            consumer.base_send = _blocking_or_awaitable(self._outbox.send)
        else:
            consumer.base_send = self._outbox.send
        create_task = self._loop.create_task
        if layer is None:
            mailbox = self._mailbox = Mailbox("", 0)
            return [create_task(self._feed(mailbox, self._receive, Lane.EVENT))]
        name = await layer.new_channel()
        consumer.channel_name = name
        consumer.channel_receive = functools.partial(layer.receive, name)
        if isinstance(layer, LocalDelivery):
            self._mailbox = mailbox = layer.attach(name)
            return [create_task(self._feed(mailbox, self._receive, Lane.EVENT))]
        # A layer of another project: read it message by message.
        self._mailbox = mailbox = Mailbox(name, 0)
        return [
            create_task(self._feed(mailbox, self._receive, Lane.EVENT)),
            create_task(self._feed(mailbox, consumer.channel_receive, Lane.MESSAGE)),
        ]

    async def _feed(
        self,
        mailbox: Mailbox[Any],
        source: Callable[[], Awaitable[Any]],
        lane: Lane,
    ) -> None:
        try:
            while True:
                item = await source()
                if lane is Lane.EVENT and item.get("type") == "websocket.disconnect":
                    self._outbox.leaving = True
                await mailbox.offer(item, lane)
        except Exception as error:
            await mailbox.offer(_Failed(error))

    async def _run(self) -> None:
        mailbox = self._open_mailbox()
        thread = self._thread
        while True:
            lane, item = await mailbox.next()
            if isinstance(item, _Failed):
                raise item.error
            if lane is Lane.EVENT and not self._only_messages:
                await self._handle_event(item)
            else:
                await self._handle_message(item)
            if thread is not None and thread.used:
                self._tidy_thread(thread)

    async def _handle_event(self, event: Event) -> None:
        kind = event.get("type")
        if kind == "websocket.connect":
            self._started = True
        elif kind == "websocket.disconnect":
            await self._cancel_tasks()
            self._disconnected = True
            self._outbox.lost = True
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
        if kind in _LAST_EVENTS:
            # Also where the application's own handler forgot to say so.
            raise StopConsumer

    async def _handle_message(self, message: Event) -> None:
        consumer = self._consumer
        try:
            name = get_handler_name(message)
        except (ValueError, TypeError) as error:
            self._drop(message, str(error))
            return
        access = consumer._layer_access(name)  # noqa: SLF001
        if name == "layer_gap" and not hasattr(consumer, name):
            return  # an offer, which not every consumer takes
        if access is _Access.REFUSED:
            self._drop(message, "only handlers the application defines can be called")
            return
        # A copy of the outermost dict alone: handlers written for Channels pop the
        # type or add keys, and the other members hold the same object.
        work = self._dispatch_message(dict(message))
        if access is _Access.CONCURRENT:
            self._start_concurrent(work)
        else:
            await work

    def _start_concurrent(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.spawn(work)
        self._concurrent.add(task)
        task.add_done_callback(self._concurrent_done)
        if len(self._concurrent) >= conf.current().concurrent_handlers:
            # Messages wait; events do not, or nobody would see the client leave.
            self._open_mailbox().hold()

    def _concurrent_done(self, task: asyncio.Task[None]) -> None:
        self._concurrent.discard(task)
        self._open_mailbox().release()

    def _open_mailbox(self) -> Mailbox[Any]:
        assert self._mailbox is not None  # noqa: S101 (set by _open)
        return self._mailbox

    async def _dispatch_message(self, message: Event) -> None:
        try:
            await self._consumer.dispatch(message)
        except UnknownMessageType:
            self._drop(message, "no handler for it")
        except StopConsumer:
            raise
        except Exception as error:
            await self._consult(error)

    def _drop(self, message: Event, why: str) -> None:
        metrics.MESSAGES_DROPPED_UNHANDLED.add()
        kind = message.get("type") if isinstance(message, dict) else message
        logger.warning(
            "%s dropped a message of type %r (%s); define the method for it, or check "
            "the type where it is sent (%s)",
            type(self._consumer).__qualname__,
            kind,
            why,
            describe(self._consumer.scope),
        )

    async def _consult(self, error: Exception) -> None:
        """Let ``on_error`` decide; it raises when the connection is to end."""
        consumer = self._consumer
        await consumer._call(consumer.on_error, error)  # noqa: SLF001
        metrics.CONSUMER_ERRORS.add()
        logger.warning(
            "%s goes on after %r (%s)",
            type(consumer).__qualname__,
            error,
            describe(consumer.scope),
            exc_info=error,
        )

    async def _fail(self, error: Exception) -> None:
        """Say that the connection ends because of ``error``, here and to the client."""
        consumer = self._consumer
        metrics.CONSUMER_ERRORS.add()
        user_id = _user_id(consumer.scope)
        # Without the traceback, which the server logs for what is raised to it.
        logger.error(
            "%s failed with %r and is closed (%s, user %s, channel %s)",
            type(consumer).__qualname__,
            error,
            describe(consumer.scope),
            user_id,
            getattr(consumer, "channel_name", None),
            extra={
                "path": consumer.scope.get("path"),
                "client": consumer.scope.get("client"),
                "user_id": user_id,
                "channel_name": getattr(consumer, "channel_name", None),
                "consumer": type(consumer).__qualname__,
            },
        )
        await self._close(1011)

    async def _close(self, code: int) -> None:
        """Close an accepted socket; before that the server's own refusal is better."""
        if self._outbox.open and not self._disconnected:
            try:
                await self._outbox.send(websocket_close(code))
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
            mailbox = self._mailbox
            if mailbox is not None and isinstance(self._layer, LocalDelivery):
                await self._layer.detach(mailbox)
            elif mailbox is not None and self._layer is not None:
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
            )

    async def _leave_declared_groups(self) -> None:
        """For a layer of another project: the groups that the consumer names itself."""
        for group in getattr(self._consumer, "groups", None) or ():
            try:
                await self._layer.group_discard(group, self._consumer.channel_name)
            except Exception:
                logger.exception("could not leave group %s", group)

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None or self._ending or self._mailbox is None:
            return
        report = self._loop.create_task(self._report(error, self._mailbox))
        self._tasks.add(report)
        report.add_done_callback(self._tasks.discard)

    async def _report(self, error: BaseException, mailbox: Mailbox[Any]) -> None:
        if isinstance(error, Exception) and not isinstance(error, StopConsumer):
            try:
                await self._consult(error)
            except Exception as decided:
                error = decided
            else:
                return
        # Raised where handlers run, for there the connection ends.
        await mailbox.offer(_Failed(error))

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


def _user_id(scope: Scope) -> Any:
    """The primary key of the connection's user, if it is known without a query."""
    try:
        return getattr(scope.get("user"), "pk", None)
    except Exception:  # a lazy user, not loaded; the log line must not fail for it
        return None


def _is_coroutine_method(handler: Any) -> bool:
    """Whether ``handler`` is a method written as ``async def``: the case to be fast in."""
    try:
        flags: int = handler.__func__.__code__.co_flags
    except AttributeError:
        return False
    return bool(flags & inspect.CO_COROUTINE)


def may_block(function: Callable[..., Any]) -> bool:
    """Whether calling ``function`` on the event loop may block it.

    A plain function may; one that wraps a coroutine function, as decorators do, only
    makes the coroutine.
    """
    return not (
        iscoroutinefunction(function) or iscoroutinefunction(inspect.unwrap(function))
    )


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


def _set_anonymous_user(scope: Scope) -> None:
    """Without an auth middleware the user is anonymous, not missing."""
    if "user" in scope or scope.get("type") not in ("websocket", "http"):
        return
    from django.apps import apps

    if apps.ready and apps.is_installed("django.contrib.auth"):
        from django.contrib.auth.models import AnonymousUser

        scope["user"] = AnonymousUser()
