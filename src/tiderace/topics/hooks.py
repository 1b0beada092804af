"""The hooks of an endpoint, and the function that calls hooks of an application."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec

from asgiref.sync import iscoroutinefunction

from tiderace import __version__
from tiderace.asgi import Scope
from tiderace.db import database_sync_to_async
from tiderace.protocol import codes
from tiderace.protocol.session import Refused
from tiderace.runtime.tasks import as_error
from tiderace.topics.declaration.checks import require_hooks

_HOOKS = {
    "user_info": ("self", "user", "scope"),
    "on_connect": ("self", "user", "data"),
    "on_message": ("self", "user", "data"),
    "on_api_call": ("self", "method", "params"),
}


P = ParamSpec("P")


def _plain_or_async(hook: Callable[P, Awaitable[Any]]) -> Callable[P, Any]:
    """Give a hook a type that plain methods and coroutine functions may override."""
    return hook


class TopicHooks:
    """The hooks of ``TopicsEndpoint``, which inherits them; override what you need.

    All but ``on_api_call`` may be plain methods, which run in a thread.
    """

    version = f"tiderace {__version__}"
    """The version of the server in the reply to connect."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        require_hooks(cls, _HOOKS)

    @_plain_or_async
    async def user_info(self, user: Any, scope: Scope) -> Any:
        """Return the data about this client for presence and publications, or None.

        Anything that JSON can express: a name, a colour. Not called where the token
        contains it.
        """
        return None

    @_plain_or_async
    async def on_connect(self, user: Any, data: Any) -> Any:
        """Return data for the reply to connect, or None for none.

        Args:
            user: of the connection.
            data: what the client sent with its command, as plain Python, or None.

        Raises:
            Refuse: to refuse the connection with an error.
        """
        return None

    @_plain_or_async
    async def on_message(self, user: Any, data: Any) -> None:
        """Handle a message of a client that needs no reply."""

    async def on_api_call(self, method: str, params: Any) -> Any:
        """Return the result of a call of ``rpc`` in the HTTP API.

        Args:
            method: its name.
            params: its parameters, as plain Python, or None.

        Raises:
            Refuse: to answer with an error; by default with 104, method not found.
        """
        raise Refused(codes.METHOD_NOT_FOUND)


async def call_hook(hook: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function of the application and return its result.

    A coroutine function runs on the event loop, a plain one in the connection's thread;
    an awaitable that a plain one returns is awaited.

    Raises:
        Exception: what the function raises, ``SystemExit`` as ``as_error`` returns it.
    """
    try:
        if _is_coroutine_function(hook):
            return await hook(*args, **kwargs)
        result = await _call_in_thread(hook, *args, **kwargs)
        return await result if inspect.isawaitable(result) else result
    except (SystemExit, asyncio.CancelledError) as raised:
        raise as_error(raised) from raised


def _call(hook: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Any:
    return hook(*args, **kwargs)


# One for all hooks: making one for each call takes a tenth of the call's time.
_call_in_thread = database_sync_to_async(_call)


def _is_coroutine_function(hook: Callable[..., Any]) -> bool:
    # The flag of an ``async def`` is read first: that takes a tenth of the time.
    code = getattr(hook, "__code__", None)
    if code is not None and code.co_flags & inspect.CO_COROUTINE:
        return True
    return iscoroutinefunction(hook)
