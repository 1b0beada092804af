"""Changes of users and sessions, from Django's signals to the connections they concern.

In every process: what is saved, deleted, logged out is announced through the layer once
it is committed. In those that serve connections: a watch per event loop hears it. It
knows signals and layers; what a change means is ``security.watch``'s to find out.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

from django.apps import apps
from django.contrib.auth import SESSION_KEY, get_user_model, user_logged_out
from django.core.exceptions import FieldDoesNotExist
from django.db import transaction
from django.db.models.signals import m2m_changed, post_delete, post_save
from django.utils.functional import LazyObject

from tiderace import auth, cluster, conf
from tiderace.asgi import Event, Scope, websocket_close
from tiderace.db import database_sync_to_async
from tiderace.revocation.watcher import (
    Reason,
    Registration,
    RevocationWatcher,
    announcement,
)
from tiderace.runtime import sync_bridge
from tiderace.runtime.lifespan import on_shutdown
from tiderace.security.bearer import CLOSE_UNAUTHORIZED

__all__ = [
    "CLOSE_COME_BACK",
    "AuthChanged",
    "Reason",
    "Registration",
    "RevocationWatcher",
    "announce",
    "connect_signals",
    "current_watch",
    "require",
    "session_key_of",
    "watched",
]

logger = logging.getLogger("tiderace.security")

# Columns that say nothing of what a user may do.
_HARMLESS = frozenset({"last_login"})

CLOSE_COME_BACK = 1012
"""The close code of a socket whose user may do other things now than when it was let in:
clients come back and are asked anew. Where the log-in has ended it is 4401."""

_watches: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, RevocationWatcher] = (
    weakref.WeakKeyDictionary()
)
_required = False


def current_watch() -> RevocationWatcher:
    """The watch of the running event loop, over the default layer; made at first use."""
    loop = asyncio.get_running_loop()
    watch = _watches.get(loop)
    if watch is None:
        interval = conf.current().revalidate_interval
        watch = _watches[loop] = RevocationWatcher(interval=interval)
    return watch


@on_shutdown
async def close() -> None:
    """End the watch of this event loop."""
    watch = _watches.pop(asyncio.get_running_loop(), None)
    if watch is not None:
        await watch.close()


def require() -> None:
    """Announce changes whatever ``TIDERACE["REVALIDATE"]`` says: there are topics."""
    global _required
    _required = True


def announce(
    *,
    users: tuple[object, ...] = (),
    sessions: tuple[str, ...] = (),
    everybody: bool = False,
    rights: bool = True,
    using: str | None = None,
) -> None:
    """Have every process look at its connections, once the transaction is committed.

    For changes that no signal tells of (``QuerySet.update()``, SQL), from sync code.
    What cannot be announced is logged: who is connected is looked at every
    ``TIDERACE["REVALIDATE_INTERVAL"]`` seconds anyway.

    Args:
        users: primary keys of users to look up.
        sessions: keys of sessions that have ended.
        everybody: look all connected users up.
        rights: whether groups or permissions may have changed, and not the user's own
            row alone.
        using: the database whose transaction is waited for; the default one.
    """
    message = announcement(
        users=users, sessions=sessions, everybody=everybody, rights=rights
    )
    if asyncio._get_running_loop() is not None:  # noqa: SLF001
        _send(message)  # a transaction cannot be asked about on an event loop
        return
    transaction.on_commit(functools.partial(_send, message), using=using, robust=True)


class AuthChanged(dict[str, Any]):
    """The event ``auth.changed`` for a consumer: ``{"type": ..., "reason": ...}``.

    A class of its own, since a message of the layer, which has the same shape, must not
    pass for one.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(type="auth.changed", reason=reason.value)
        self._reason = reason

    def closing(self) -> dict[str, Any]:
        """The event that closes the socket for this reason."""
        code = CLOSE_UNAUTHORIZED if self._reason.final else CLOSE_COME_BACK
        return websocket_close(code, self._reason.value)


@asynccontextmanager
async def watched(scope: Scope, tell: Callable[[Event], None]) -> AsyncIterator[None]:
    """Watch a consumer's WebSocket while it is served, where the settings want that.

    Args:
        scope: the connection's.
        tell: takes an ``AuthChanged`` in the event loop; must return at once.
    """
    if not conf.current().revalidate or scope.get("type") != "websocket":
        yield
        return
    # In a thread, for a user that nobody has looked at yet is loaded by this.
    user, key = await database_sync_to_async(_who)(scope)
    registration = current_watch().register(
        user, key, lambda reason: tell(AuthChanged(reason))
    )
    try:
        yield
    finally:
        if registration is not None:
            registration.cancel()


def _who(scope: Scope) -> tuple[Any, str]:
    user = scope.get("user")
    known = user is not None and user.is_authenticated
    return (user, session_key_of(scope)) if known else (None, "")


def session_key_of(scope: Scope) -> str:
    """The key of the session that says who the connection's user is; empty without one.

    The user may come from elsewhere (a token), although there is a session too; then
    that says nothing of the connection.
    """
    session: Any = scope.get("session")
    if issubclass(type(session), LazyObject):
        session = session._wrapped  # noqa: SLF001 (how a lazy object is looked into)
    # Read when the user was looked up; else it was not the session that said who.
    said = getattr(session, "_session_cache", None)
    user_id = getattr(scope.get("user"), "pk", None)
    if not said or user_id is None or said.get(SESSION_KEY) != str(user_id):
        return ""
    return str(session.session_key or "")


# From signals


def connect_signals() -> None:
    """Listen to Django's signals of users, groups and sessions; again is the same as once.

    Needs the app registry. Without ``django.contrib.auth`` there is nothing to do.
    """
    if not apps.is_installed("django.contrib.auth"):
        return
    user_logged_out.connect(_logged_out, dispatch_uid="tiderace")
    auth.session_ended.connect(_session_ended, dispatch_uid="tiderace")
    for model in _user_models():
        post_save.connect(_saved, sender=model, dispatch_uid="tiderace")
        post_delete.connect(_deleted, sender=model, dispatch_uid="tiderace")
    user_model = get_user_model()
    for name in ("groups", "user_permissions"):
        if relation := _relation(user_model, name):
            through = relation.remote_field.through
            m2m_changed.connect(
                _rights_changed, sender=through, dispatch_uid="tiderace"
            )
    if relation := _relation(user_model, "groups"):
        group = relation.related_model
        post_delete.connect(_group_changed, sender=group, dispatch_uid="tiderace")
        if of_group := _relation(group, "permissions"):
            through = of_group.remote_field.through
            m2m_changed.connect(_group_changed, sender=through, dispatch_uid="tiderace")


def _user_models() -> Iterator[type]:
    """The user model, and its proxies and children, which send signals of their own."""
    user_model = get_user_model()
    return (model for model in apps.get_models() if issubclass(model, user_model))


def _relation(model: Any, name: str) -> Any:
    try:
        return model._meta.get_field(name)  # noqa: SLF001 (public in Django)
    except FieldDoesNotExist:
        return None


def _wanted(receiver: Callable[..., None]) -> Callable[..., None]:
    """Do nothing in a project where nobody is watched."""

    @functools.wraps(receiver)
    def wrapper(**signal: Any) -> None:
        if _required or conf.current().revalidate:
            receiver(**signal)

    return wrapper


@_wanted
def _saved(
    *, instance: Any, created: bool, update_fields: Any, using: str, **signal: Any
) -> None:
    if created or (update_fields is not None and _HARMLESS.issuperset(update_fields)):
        return
    announce(users=(instance.pk,), rights=False, using=using)


@_wanted
def _deleted(*, instance: Any, using: str, **signal: Any) -> None:
    announce(users=(instance.pk,), rights=False, using=using)


@_wanted
def _rights_changed(
    *, instance: Any, action: str, reverse: bool, pk_set: Any, using: str, **signal: Any
) -> None:
    if not action.startswith("post_") or pk_set == set():
        return  # before a change, or none: a group that the user had already
    if not reverse:
        announce(users=(instance.pk,), using=using)
    elif pk_set is not None:
        announce(users=tuple(pk_set), using=using)
    else:
        announce(everybody=True, using=using)  # a group was emptied


@_wanted
def _group_changed(*, using: str, action: str = "post_delete", **signal: Any) -> None:
    if action.startswith("post_"):
        announce(everybody=True, using=using)


@_wanted
def _logged_out(*, request: Any = None, **signal: Any) -> None:
    # Sent before the session is emptied. Without a request it is our own logout(),
    # which says which session it was.
    key = getattr(getattr(request, "session", None), "session_key", None)
    if key:
        announce(sessions=(key,), rights=False)


@_wanted
def _session_ended(*, session_key: str, **signal: Any) -> None:
    announce(sessions=(session_key,), rights=False)


# To all processes

_sending: set[asyncio.Task[None]] = set()


def _send(message: dict[str, Any]) -> None:
    if asyncio._get_running_loop() is None:  # noqa: SLF001
        sync_bridge.call(_tell, message)
    else:
        # Sync code on an event loop, which may not wait for it.
        task = asyncio.get_running_loop().create_task(_tell(message))
        _sending.add(task)
        task.add_done_callback(_sending.discard)


async def _tell(message: dict[str, Any]) -> None:
    try:
        await cluster.current().tell("revocation", message)
    except Exception:
        logger.exception(
            "could not announce a change of a user or session; open connections notice "
            "it within %g s",
            conf.current().revalidate_interval,
        )
