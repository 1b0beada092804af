"""Ends or re-checks open connections when their user or session changes."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Any

from django.contrib.auth import SESSION_KEY

from tiderace import conf
from tiderace.asgi import Event, Scope, unwrap_lazy, websocket_close
from tiderace.db import database_sync_to_async
from tiderace.revocation.account_state import Reason
from tiderace.revocation.registrations import Registration
from tiderace.revocation.watcher import RevocationWatcher
from tiderace.runtime.lifespan import on_shutdown
from tiderace.security.bearer import CLOSE_UNAUTHORIZED

__all__ = [
    "CLOSE_COME_BACK",
    "AuthChanged",
    "close",
    "current_watcher",
    "session_key_of",
]

CLOSE_COME_BACK = 1012
"""The close code of a socket whose user has other permissions than at the handshake:
clients reconnect and are checked again. At the end of a log-in it is 4401."""

_watchers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, RevocationWatcher] = (
    weakref.WeakKeyDictionary()
)


def current_watcher() -> RevocationWatcher:
    """Return the watcher of the running event loop, which the first call makes."""
    loop = asyncio.get_running_loop()
    watcher = _watchers.get(loop)
    if watcher is None:
        interval = conf.current().revalidate_interval
        watcher = _watchers[loop] = RevocationWatcher(interval=interval)
    return watcher


@on_shutdown
async def close() -> None:
    """Stop the watcher of this event loop."""
    watcher = _watchers.pop(asyncio.get_running_loop(), None)
    if watcher is not None:
        await watcher.close()


class AuthChanged(dict[str, Any]):
    """The event ``auth.changed`` for a consumer: ``{"type": ..., "reason": ...}``.

    Its class distinguishes it from a message of the layer with the same content, which
    any sender may have sent.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(type="auth.changed", reason=reason.value)
        self._reason = reason

    def closing(self) -> dict[str, Any]:
        """Return the event that closes the socket for this reason."""
        code = CLOSE_UNAUTHORIZED if self._reason.final else CLOSE_COME_BACK
        return websocket_close(code, self._reason.value)


async def watch(scope: Scope, notify: Callable[[Event], None]) -> Registration | None:
    """Watch a consumer's WebSocket until the result is cancelled, if ``REVALIDATE`` is set.

    Args:
        scope: the connection's.
        notify: takes an ``AuthChanged`` in the event loop; must return at once.

    Returns:
        None when there is nothing to watch.
    """
    if not conf.current().revalidate or scope.get("type") != "websocket":
        return None
    user = scope.get("user")
    # In a thread, because it loads a lazy user.
    key = await database_sync_to_async(session_key_of)(scope)
    return current_watcher().register(
        user, key, lambda reason: notify(AuthChanged(reason))
    )


def session_key_of(scope: Scope) -> str:
    """Return the key of the session that names the connection's user; empty without one.

    The user may come from elsewhere (a token) although there is a session too; then the
    session's end does not concern the connection.
    """
    # First, since it may load a lazy user, and the session with it.
    user_id = getattr(scope.get("user"), "pk", None)
    session = unwrap_lazy(scope.get("session"))
    # Filled when the user was looked up; else the user is not from the session.
    data = getattr(session, "_session_cache", None)
    if not data or user_id is None or data.get(SESSION_KEY) != str(user_id):
        return ""
    return str(session.session_key or "")
