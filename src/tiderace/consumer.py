"""Consumers: one object per connection, whose methods handle its events and messages.

    class Clock(AsyncConsumer):
        async def websocket_connect(self, event): ...
        async def time_changed(self, event): ...      # {"type": "time.changed"}

The consumers here handle ASGI events; those for WebSockets and HTTP requests are in
``tiderace.generic``.

The handlers of a consumer run one at a time, in one task and one context. However the
connection ends (the client leaves, a handler raises, the server cancels), the
``websocket.disconnect`` handler has run exactly once, background tasks have ended, and
the channel has left all groups.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from threading import get_ident
from typing import Any, ClassVar, TypeVar

from asgiref.sync import iscoroutinefunction

from tiderace import DEFAULT_CHANNEL_LAYER
from tiderace.asgi import Event, Receive, Scope, Send, mark_application
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
from tiderace.revocation.auth_changed import AuthChanged, watch
from tiderace.runtime import threads
from tiderace.runtime.connections import process_connections
from tiderace.runtime.sync_bridge import callable_in_threads

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

# Attributes that Channels' consumers do not have: an application's handler of such a
# name is called.
_ADDED = frozenset({"accepts_broadcasts", "on_error", "spawn"})

# Methods that applications override, and how similar a misspelt name is, from 0 to 1.
_OVERRIDDEN = (
    *("connect", "receive", "receive_json", "disconnect", "on_error", "handle"),
    *("encode_json", "decode_json"),
)
_SIMILAR = 0.8

# Handlers of the server's events, which messages of a layer must not call.
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
        async def report_requested(self, event): ...

    The next message does not wait for it, so the order of effects is not guaranteed. At
    most ``TIDERACE["CONCURRENT_HANDLERS"]`` of them run for one connection; further
    messages wait. They are cancelled when the connection ends. Handlers that are a plain
    ``def`` share the connection's one thread, so they do not run beside each other.
    """
    handler._tiderace_concurrent = True  # type: ignore[attr-defined]  # noqa: SLF001
    return handler


async def await_many_dispatch(
    consumer_callables: Sequence[Callable[[], Awaitable[Any]]],
    dispatch: Callable[[Any], Awaitable[Any]],
) -> None:
    """Await ``dispatch`` with each result of the callables, one at a time, for ever.

    For code written for Channels that has a loop of its own; Tiderace's consumers do
    not use it. Each callable is read at most one result ahead. Results available at the
    same time are dispatched in the order of ``consumer_callables``. An exception of a
    callable or of ``dispatch`` ends the loop; the other callables are then cancelled and
    awaited.
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
    Events of the server may call any method. Messages of the layer may call only
    methods that the application defines: neither those of Channels' classes (``send``,
    ``close``, ``dispatch``, ...) nor handlers of the server's events. A message of the
    layer without a handler is logged and dropped.

    A handler that is a plain ``def`` runs in a thread, as ``database_sync_to_async``
    runs it; ``send`` and the other methods that send need no ``await`` there.

    Attributes:
        scope: the ASGI scope of the connection, the same object that the server passed.
        channel_layer: the layer of ``channel_layer_alias``, or None.
        channel_name: this connection's channel; set only with a layer.
        base_send: sends an ASGI event to the client.
        accepts_broadcasts: whether ``group_broadcast`` sends to the client of this
            consumer, without a call of its handlers and its ``send``.
    """

    _sync: bool = False
    channel_layer_alias: str = DEFAULT_CHANNEL_LAYER
    # Off by default: a broadcast calls no handler, and so skips the handlers' checks.
    accepts_broadcasts: bool = False

    scope: Scope
    channel_layer: Any
    channel_name: str
    base_send: Callable[[Event], Any]

    # Both None while no connection is served.
    _background: BackgroundTasks | None = None
    _thread_id: int | None = None
    # How a message of the layer may call a method, by the method's name.
    _access: ClassVar[dict[str, Access]] = {}
    # The coroutine method that may be called without dispatch(), by type of message.
    _routes: ClassVar[dict[str, str]] = {}
    _known_handlers: ClassVar[Handlers | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._access = {}
        cls._routes = {}
        cls._known_handlers = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection until it ends."""
        self.scope = scope
        _set_anonymous_user(scope)
        async with threads.isolated():
            layer = get_channel_layer(self.channel_layer_alias)
            connection = Connection(self, self._handlers(), layer, receive, send)
            self._background, self._thread_id = connection.background, get_ident()
            registration = None
            try:
                registration = await watch(scope, connection.queue_event)
                await connection.serve()
            finally:
                if registration is not None:
                    registration.cancel()
                self._background = self._thread_id = None

    @classmethod
    def as_asgi(
        cls, **initkwargs: Any
    ) -> Callable[[Scope, Receive, Send], Coroutine[Any, Any, Any]]:
        """Return an ASGI application that makes one consumer per connection.

        ``initkwargs`` are passed to ``__init__`` each time. (The return type has
        Coroutine because the type of Django's ``path()`` requires it.)
        """

        process_connections.expected = True
        _note_misspelt_methods(cls)

        # No coroutine function: its coroutine would be 0.25 KB of each socket.
        @mark_application
        def app(
            scope: Scope, receive: Receive, send: Send
        ) -> Coroutine[Any, Any, None]:
            return cls(**initkwargs)(scope, receive, send)

        app.consumer_class = cls  # type: ignore[attr-defined]
        app.consumer_initkwargs = initkwargs  # type: ignore[attr-defined]
        # The class's name and documentation, but not its attributes.
        functools.update_wrapper(app, cls, updated=())
        return app

    async def dispatch(self, message: Event) -> None:
        """Call the handler of ``message``.

        Raises:
            UnknownMessageType: a ``ValueError``, when the consumer has no handler for it.
        """
        handler = self._handler(message)
        if _is_coroutine_method(handler):
            await handler(message)
        else:
            await self._call(handler, message)

    @callable_in_threads
    async def send(self, message: Event) -> None:
        """Send an ASGI event to the client."""
        await self.base_send(message)

    @functools.cached_property
    def channel_receive(self) -> Callable[[], Awaitable[Any]]:
        """Returns the next message of this connection's channel; only with a layer."""
        # Not made before it is used: few consumers read their channel themselves.
        return functools.partial(self.channel_layer.receive, self.channel_name)

    async def on_error(self, error: Exception) -> None:
        """Decide whether an exception of a handler ends the connection.

        Called once for each exception of a handler or background task, in turn with the
        handlers. If it raises (the default raises ``error``), the connection ends: the
        error is logged with the connection's data, an accepted socket is closed with
        1011, groups are left, the disconnect handler runs, and the error is raised to
        the server. If it returns, the connection goes on with the next message.

        Not called for the connect and disconnect handlers, whose exceptions always end
        the connection, nor for ``StopConsumer``.
        """
        raise error

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run ``work`` in the background for as long as the connection lives.

        May be called from any thread. The task is cancelled and awaited when the
        connection ends, before the disconnect handler runs. Its exceptions are passed to
        ``on_error``.

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

    @classmethod
    def _handlers(cls) -> Handlers:
        """Return the handlers of this class, which are made once."""
        handlers = cls._known_handlers
        if handlers is None:
            handlers = cls._known_handlers = Handlers(
                cls._find_handler, cls._layer_access, cls._call_on_error, cls._sync
            )
        return handlers

    async def _call_on_error(self, error: Exception) -> None:
        await self._call(self.on_error, error)

    async def _call(self, handler: Callable[..., Any], *arguments: Any) -> None:
        """Call ``handler``, in a thread if it may block."""
        # A plain function around a coroutine function blocks in a sync consumer, as
        # @async_to_sync does; in an async consumer it returns the coroutine.
        blocks = not iscoroutinefunction(handler) if self._sync else may_block(handler)
        if blocks:
            result = await database_sync_to_async(handler)(*arguments)
        else:
            result = handler(*arguments)
        if inspect.isawaitable(result):  # a plain function may return a coroutine
            await result

    async def _close_stale(self, message: AuthChanged) -> None:
        """Close the socket: the default handler of ``auth.changed``."""
        await self.base_send(message.closing())

    def _find_handler(self, message: Event) -> Handler | None:
        """Return the handler of a layer's message if it may be called directly.

        None if ``dispatch`` has to be called: for a type without a handler, a handler
        that must not be called, is concurrent or a plain function, and for a class with
        its own ``dispatch``.
        """
        name: str | None
        try:
            name = self._routes[message["type"]]
        except (KeyError, TypeError):
            name = self._find_route(message)
        # An attribute of the instance may hide the method that was checked.
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
                return self._close_stale
            raise UnknownMessageType(f"No handler for message type {message['type']}")
        return handler

    @classmethod
    def _layer_access(cls, name: str) -> Access:
        """Return how a message of the layer may call the method ``name``.

        A name of Channels' own classes is refused, also where the application overrides
        the method.
        """
        access = cls._access.get(name)
        if access is None:
            owners = [
                base.__module__ in _OUR_MODULES
                for base in cls.__mro__
                if name in vars(base) or name in vars(base).get("__annotations__", ())
            ]
            if name in _ADDED:
                del owners[1:]
            if name in _ASGI_HANDLERS or any(owners):
                access = Access.REFUSED
            elif getattr(getattr(cls, name, None), "_tiderace_concurrent", False):
                access = Access.CONCURRENT
            else:
                access = Access.IN_TURN
            # Only names of methods are cached: senders can choose any other name.
            if hasattr(cls, name):
                cls._access[name] = access
        return access


class SyncConsumer(AsyncConsumer):
    """Handles one connection with plain functions, in a thread.

    Handlers of one connection run one after the other, each wholly in one thread;
    those of different connections run side by side on a bounded pool
    (``TIDERACE["SYNC_THREADS"]``). Below a sync caller, as in Django's ``TestCase``,
    they run in the caller's thread and use its database connection.

    A handler that is ``async def`` runs on the event loop; ``send`` and the other
    methods that send return an awaitable there.
    """

    _sync = True

    def send(self, message: Event) -> Any:
        """Send an ASGI event to the client; block until the server has taken it.

        On the event loop, in an ``async def`` handler, it returns an awaitable.
        """
        return self.base_send(message)


_OUR_MODULES = frozenset(
    {"tiderace.consumer", "tiderace.generic.http", "tiderace.generic.websocket"}
)


def _is_coroutine_method(handler: Any) -> bool:
    """Return whether ``handler`` is an ``async def`` method; the fast, usual case."""
    try:
        flags: int = handler.__func__.__code__.co_flags
    except AttributeError:
        return False
    return bool(flags & inspect.CO_COROUTINE)


def may_block(function: Callable[..., Any]) -> bool:
    """Return whether calling ``function`` on the event loop may block the loop.

    A plain function may. A wrapper of a coroutine function, as decorators return it,
    only creates the coroutine. For a callable object, its ``__call__`` decides.
    """
    while isinstance(function, functools.partial):
        function = function.func
    return not any(
        iscoroutinefunction(each)
        for each in (function, inspect.unwrap(function), type(function).__call__)
    )


def _note_misspelt_methods(cls: type[Any]) -> None:
    """Log the methods of a consumer that look like a misspelt one, such as ``recieve``."""
    for method in [each for each in vars(cls) if not each.startswith("_")]:
        meant = difflib.get_close_matches(method, _OVERRIDDEN, n=1, cutoff=_SIMILAR)
        # A name that contains another, as "connected" does, has a meaning of its own.
        if not meant or meant[0] in method:
            continue
        inherited = getattr(getattr(cls, meant[0], None), "__module__", "")
        if inherited.startswith("tiderace."):
            logger.warning(
                "%s.%s.%s() is called for messages of the layer alone; did you mean "
                "%s()?",
                cls.__module__,
                cls.__qualname__,
                method,
                meant[0],
            )


def _set_anonymous_user(scope: Scope) -> None:
    """Set ``scope["user"]`` to the anonymous user where no auth middleware has set it."""
    if "user" in scope or scope.get("type") not in ("websocket", "http"):
        return
    from django.apps import apps

    if apps.ready and apps.is_installed("django.contrib.auth"):
        from django.contrib.auth.models import AnonymousUser

        scope["user"] = AnonymousUser()
