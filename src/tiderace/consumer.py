"""Consumers: one object per connection, whose methods handle its events and messages.

    class Clock(AsyncConsumer):
        async def websocket_connect(self, event): ...
        async def time_changed(self, event): ...      # {"type": "time.changed"}

It knows a layer as the place messages come from, and a connection as ASGI's
``receive`` and ``send``; what a WebSocket or a request is stands in ``generic``.

How a consumer runs (``tiderace.connection``): its handlers run strictly one after the
other, in one task and one context. However the connection ends (the client leaves, a
handler raises, the server cancels), the ``websocket.disconnect`` handler has run
exactly once, background tasks are over, and every group is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from threading import get_ident
from typing import Any, ClassVar, TypeVar, cast

from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction

from tiderace import DEFAULT_CHANNEL_LAYER, conf
from tiderace.asgi import Event, Receive, Scope, Send
from tiderace.connection import (
    Access,
    BackgroundTasks,
    Connection,
    Handlers,
    get_handler_name,
)
from tiderace.db import database_sync_to_async
from tiderace.exceptions import StopConsumer, UnknownMessageType
from tiderace.layers import get_channel_layer
from tiderace.revocation.connections import AuthChanged, watched
from tiderace.runtime import threads

__all__ = [
    "AsyncConsumer",
    "StopConsumer",
    "SyncConsumer",
    "await_many_dispatch",
    "concurrent",
    "get_channel_layer",
    "get_handler_name",
]

T = TypeVar("T")
Handler = Callable[[Any], Any]
F = TypeVar("F", bound=Callable[..., Any])

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


def concurrent(handler: F) -> F:
    """Mark a handler of layer messages to run beside the connection's other handlers.

        @concurrent
        async def report_wanted(self, event): ...

    The next message does not wait for it, so its effects may come in any order. At
    most ``TIDERACE["CONCURRENT_HANDLERS"]`` of them run for one connection; the next
    one then waits. They are cancelled when the connection ends. Plain ``def`` handlers
    share the connection's one thread, so they are not concurrent with each other.
    """
    handler._tiderace_concurrent = True  # type: ignore[attr-defined]  # noqa: SLF001
    return handler


def verb(method: F) -> F:
    """Let a coroutine method be called in a thread too, where it blocks until done.

    So that ``self.send(...)`` in a handler that is a plain ``def`` sends, instead of
    making a coroutine that nobody awaits.
    """
    if getattr(method, "_tiderace_verb", False):
        return method

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        # None in a thread, where get_running_loop() would raise.
        if asyncio._get_running_loop() is None:  # noqa: SLF001
            return async_to_sync(method)(*args, **kwargs)
        return method(*args, **kwargs)

    call._tiderace_verb = True  # type: ignore[attr-defined]  # noqa: SLF001
    return cast("F", markcoroutinefunction(call))


async def await_many_dispatch(
    consumer_callables: Sequence[Callable[[], Awaitable[Any]]],
    dispatch: Callable[[Any], Awaitable[Any]],
) -> None:
    """Await ``dispatch`` with what the callables return, one result at a time, for ever.

    For code written for Channels that builds its own loop; our consumers do not need
    it. Each callable is read at most one result ahead. Results that are there together
    are dispatched in the order of ``consumer_callables``. An exception of one or of
    ``dispatch`` ends the loop; what the others return is then cancelled and awaited.
    """
    tasks = [asyncio.ensure_future(each()) for each in consumer_callables]
    try:
        while True:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for index, task in enumerate(tasks):
                if task.done():
                    await dispatch(task.result())
                    tasks[index] = asyncio.ensure_future(consumer_callables[index]())
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task


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
        accepts_broadcasts: whether ``group_broadcast`` reaches the client of this
            consumer, past its handlers and its ``send``.
    """

    _sync: bool = False
    channel_layer_alias: str = DEFAULT_CHANNEL_LAYER
    # Off unless a class says otherwise: a broadcast passes its handlers by, and so
    # whatever they check.
    accepts_broadcasts: bool = False

    scope: Scope
    channel_layer: Any
    channel_name: str
    channel_receive: Callable[[], Awaitable[Any]]
    base_send: Callable[[Event], Any]

    # Both None while no connection is served.
    _background: BackgroundTasks | None = None
    _thread_id: int | None = None
    # By method name, what a message of the layer may do with it.
    _access: ClassVar[dict[str, Access]] = {}
    # By type of message, the name of the coroutine method that handles it.
    _routes: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._access = {}
        cls._routes = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection until it ends."""
        self.scope = scope
        _set_anonymous_user(scope)
        pool = threads.default_pool(conf.current().sync_threads)
        async with threads.isolated(pool):
            layer = get_channel_layer(self.channel_layer_alias)
            connection = Connection(self, self._handlers(), layer, receive, send)
            self._background, self._thread_id = connection.background, get_ident()
            try:
                async with watched(scope, connection.tell):
                    await connection.serve()
            finally:
                self._background = self._thread_id = None

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
        background = self._background
        if background is None:
            work.close()
            raise RuntimeError(
                f"{type(self).__name__}.spawn() was called while it serves no "
                "connection; call it from a handler"
            )
        return background.spawn(work)

    def _handlers(self) -> Handlers:
        return Handlers(
            self.dispatch,
            self._find_handler,
            self._layer_access,
            self._call_on_error,
            self._sync,
        )

    async def _call_on_error(self, error: Exception) -> None:
        await self._call(self.on_error, error)

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

    async def _end_stale(self, message: AuthChanged) -> None:
        """What happens without an ``auth_changed`` handler: the socket is closed."""
        await self.base_send(message.closing())

    def _find_handler(self, message: Event) -> Handler | None:
        """The handler of a layer's message where nothing else is to be decided.

        None for whatever the long way has to look at: a type without a handler, one
        that may not be called or runs beside others, a plain function, a ``dispatch``
        of the application's own.
        """
        name: str | None
        try:
            name = self._routes[message["type"]]
        except (KeyError, TypeError):
            name = self._find_route(message)
        # What stands in the object itself may be anything.
        if name is None or name in self.__dict__:
            return None
        handler: Handler = getattr(self, name)
        return handler

    @classmethod
    def _find_route(cls, message: Event) -> str | None:
        try:
            name = get_handler_name(message)
        except (ValueError, TypeError):
            return None
        method = inspect.getattr_static(cls, name, None)
        if (
            cls.dispatch is AsyncConsumer.dispatch
            and inspect.iscoroutinefunction(method)
            and cls._layer_access(name) is Access.IN_TURN
        ):
            cls._routes[message["type"]] = name
            return name
        return None

    def _handler(self, message: Event) -> Handler:
        handler: Handler | None = getattr(self, get_handler_name(message), None)
        if not callable(handler):
            if isinstance(message, AuthChanged):
                return self._end_stale
            raise UnknownMessageType(f"No handler for message type {message['type']}")
        return handler

    @classmethod
    def _layer_access(cls, name: str) -> Access:
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
                access = Access.REFUSED
            elif getattr(getattr(cls, name, None), "_tiderace_concurrent", False):
                access = Access.CONCURRENT
            else:
                access = Access.IN_TURN
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
    makes the coroutine. Of an object that is called, its ``__call__`` is meant.
    """
    while isinstance(function, functools.partial):
        function = function.func
    return not any(
        iscoroutinefunction(each)
        for each in (function, inspect.unwrap(function), type(function).__call__)
    )


def _set_anonymous_user(scope: Scope) -> None:
    """Without an auth middleware the user is anonymous, not missing."""
    if "user" in scope or scope.get("type") not in ("websocket", "http"):
        return
    from django.apps import apps

    if apps.ready and apps.is_installed("django.contrib.auth"):
        from django.contrib.auth.models import AnonymousUser

        scope["user"] = AnonymousUser()
