"""The base class of ASGI middleware, and the thread of a socket's sync code."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from tiderace.asgi import ASGIApp, Receive, Scope, Send
from tiderace.runtime.threads import isolated

__all__ = ["BaseMiddleware", "socket_thread"]


class BaseMiddleware:
    """An ASGI app around another one.

    One instance serves all connections, so data of a connection belongs in its scope
    and not on the instance. A typical subclass writes into the scope and goes on::

        class TenantMiddleware(BaseMiddleware):
            async def __call__(self, scope, receive, send):
                scope["tenant"] = await find_tenant(scope)
                return await super().__call__(scope, receive, send)
    """

    def __init__(self, inner: ASGIApp) -> None:
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Serve the connection with the inner app, and return its result.

        The inner app gets a copy of the scope, so outer apps do not see what it writes.
        """
        return await self.inner(dict(scope), receive, send)


def socket_thread(scope: Scope) -> AbstractAsyncContextManager[Any]:
    """Return a context in which a WebSocket's sync code has a thread of its own.

    Without it the session look-ups of all sockets run in the one thread of the process.
    Other kinds of connection are left alone: Django's handler does the same for HTTP.
    """
    if scope.get("type") == "websocket":
        return isolated()
    return nullcontext()
