"""What every ASGI middleware here starts from: hold the inner app, copy the scope.

It knows the shape of an ASGI call, and nothing of what a middleware puts in a scope.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from tiderace.asgi import ASGIApp, Receive, Scope, Send
from tiderace.runtime.threads import isolated

__all__ = ["BaseMiddleware", "socket_thread"]


class BaseMiddleware:
    """An ASGI app around another one.

    One instance serves all connections, so nothing about a connection may be kept
    on it; that belongs in the scope. The usual subclass writes into a scope and goes
    on::

        class TenantMiddleware(BaseMiddleware):
            async def __call__(self, scope, receive, send):
                scope["tenant"] = await find_tenant(scope)
                return await super().__call__(scope, receive, send)
    """

    def __init__(self, inner: ASGIApp) -> None:
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Serve the connection by the inner app, and return what that returns.

        The inner app gets a copy of the scope: what it writes there is not seen by
        the apps outside.
        """
        return await self.inner(dict(scope), receive, send)


def socket_thread(scope: Scope) -> AbstractAsyncContextManager[Any]:
    """Give a WebSocket a thread of its own for sync code, while it is being served.

    Without it the session look-ups of all sockets queue behind each other in the one
    thread of the process. Other kinds of connection are left as they are: Django's
    own handler does the like for HTTP.
    """
    if scope.get("type") == "websocket":
        return isolated()
    return nullcontext()
