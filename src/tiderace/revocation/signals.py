"""Announces changes of users, permissions and sessions to all processes.

Django's signals trigger it, after the commit of the transaction.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model, user_logged_out
from django.core.exceptions import FieldDoesNotExist
from django.db import transaction
from django.db.models.signals import m2m_changed, post_delete, post_save

from tiderace import auth, cluster, conf
from tiderace.revocation.watcher import announcement
from tiderace.runtime import sync_bridge
from tiderace.runtime.tasks import TaskGroup

__all__ = ["announce", "connect_signals", "require"]

logger = logging.getLogger("tiderace.security")

# Columns that do not affect a user's permissions.
_HARMLESS = frozenset({"last_login"})

_required = False
_sending = TaskGroup(logger)


def require() -> None:
    """Announce changes even without ``TIDERACE["REVALIDATE"]``; topics call it."""
    global _required
    _required = True


def announce(
    *,
    users: tuple[object, ...] = (),
    sessions: tuple[str, ...] = (),
    all_users: bool = False,
    rights: bool = True,
    using: str | None = None,
) -> None:
    """Make every process check its connections, once the transaction is committed.

    For changes without a signal (``QuerySet.update()``, SQL), from sync code. A failure
    is logged, since all connected users are looked up every
    ``TIDERACE["REVALIDATE_INTERVAL"]`` seconds anyway. Does nothing in projects that
    watch no connections: without ``TIDERACE["REVALIDATE"]`` and ``require()``.

    Args:
        users: primary keys of users to look up.
        sessions: keys of sessions that have ended.
        all_users: whether to look up all connected users.
        rights: whether groups or permissions may have changed, and not the user's own
            row alone.
        using: the database whose commit is awaited; None for the default one.
    """
    if not (_required or conf.current().revalidate):
        return
    message = announcement(
        users=users, sessions=sessions, all_users=all_users, rights=rights
    )
    if asyncio._get_running_loop() is not None:  # noqa: SLF001
        # Sync code on an event loop cannot block, neither for this nor for a commit.
        _sending.spawn(_send(message))
        return
    send = functools.partial(sync_bridge.call, _send, message)
    transaction.on_commit(send, using=using, robust=True)


async def _send(message: dict[str, Any]) -> None:
    try:
        await cluster.current().tell("revocation", message)
    except Exception:
        logger.exception(
            "could not announce a change of a user or session; open connections notice "
            "it within %g s",
            conf.current().revalidate_interval,
        )


def connect_signals() -> None:
    """Connect receivers to Django's signals of users, groups and sessions.

    Needs the app registry; does nothing without ``django.contrib.auth``. A second call
    changes nothing.
    """
    if not apps.is_installed("django.contrib.auth"):
        return
    user_logged_out.connect(_logged_out, dispatch_uid="tiderace")
    auth.session_ended.connect(_session_ended, dispatch_uid="tiderace")
    user_model = get_user_model()
    for model in apps.get_models():
        # Proxies and children of the user model send their own signals.
        if issubclass(model, user_model):
            post_save.connect(_user_changed, sender=model, dispatch_uid="tiderace")
            post_delete.connect(_user_changed, sender=model, dispatch_uid="tiderace")
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


def _relation(model: Any, name: str) -> Any:
    try:
        return model._meta.get_field(name)  # noqa: SLF001 (public in Django)
    except FieldDoesNotExist:
        return None


def _user_changed(
    *,
    instance: Any,
    using: str,
    created: bool = False,
    update_fields: Any = None,
    **signal: Any,
) -> None:
    harmless = update_fields is not None and _HARMLESS.issuperset(update_fields)
    if not (created or harmless):
        announce(users=(instance.pk,), rights=False, using=using)


def _rights_changed(
    *, instance: Any, action: str, reverse: bool, pk_set: Any, using: str, **signal: Any
) -> None:
    if not action.startswith("post_") or pk_set == set():
        return  # before the change, or a group that the user had already
    if not reverse:
        announce(users=(instance.pk,), using=using)
    elif pk_set is not None:
        announce(users=tuple(pk_set), using=using)
    else:
        announce(all_users=True, using=using)  # a group was emptied


def _group_changed(*, using: str, action: str = "post_delete", **signal: Any) -> None:
    if action.startswith("post_"):
        announce(all_users=True, using=using)


def _logged_out(*, request: Any = None, **signal: Any) -> None:
    # Sent before the session is emptied. Without a request the sender is
    # tiderace.auth.logout(), which sends session_ended as well.
    key = getattr(getattr(request, "session", None), "session_key", None)
    if key:
        announce(sessions=(key,), rights=False)


def _session_ended(*, session_key: str, **signal: Any) -> None:
    announce(sessions=(session_key,), rights=False)
