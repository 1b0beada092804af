"""Looks up the state of many users and sessions at once, and compares it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import FieldDoesNotExist
from django.utils.crypto import constant_time_compare

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser

__all__ = ["AccountState", "Found", "Reason", "look_up", "renew", "session_reference"]


# Keys that every database accepts in one query.
_IN_QUERY = 500


class Reason(StrEnum):
    """Why an open connection has to end, or to be checked again."""

    LOGGED_OUT = "logged_out"
    """The session was ended, in this tab or another, by its user or by an administrator."""
    SESSION_EXPIRED = "session_expired"
    """The session has expired."""
    PASSWORD_CHANGED = "password_changed"  # noqa: S105 (no password)
    """The password was changed; as in Django, that ends the sessions before it."""
    DEACTIVATED = "deactivated"
    """``is_active`` was switched off."""
    DELETED = "deleted"
    """The user was deleted."""
    PERMISSIONS_CHANGED = "permissions_changed"
    """The groups, permissions or staff flags of the user, or those of a group, changed."""

    @property
    def final(self) -> bool:
        """Whether the log-in has ended; else only the permissions have changed."""
        return self is not Reason.PERMISSIONS_CHANGED


class AccountState(msgspec.Struct, frozen=True):
    """The state of a user at one time, as far as connections depend on it."""

    auth_hash: str
    """Changes with the password."""
    active: bool
    flags: tuple[bool, bool]
    """``is_staff`` and ``is_superuser``."""
    rights: bytes | None = None
    """A digest of groups and permissions; None until they are looked up."""

    @classmethod
    def of(cls, user: AbstractBaseUser, rights: bytes | None = None) -> AccountState:
        """Return the state of ``user`` as loaded, without a query."""
        return cls(
            user.get_session_auth_hash(),
            user.is_active,
            (
                bool(getattr(user, "is_staff", False)),
                bool(getattr(user, "is_superuser", False)),
            ),
            rights,
        )

    def change_to(self, now: AccountState | None) -> Reason | None:
        """Return the most serious change from this state to ``now``, or None."""
        if now is None:
            return Reason.DELETED
        if self.active and not now.active:
            return Reason.DEACTIVATED
        if not constant_time_compare(self.auth_hash, now.auth_hash):
            return Reason.PASSWORD_CHANGED
        if self.flags != now.flags or (
            self.rights is not None and self.rights != now.rights
        ):
            return Reason.PERMISSIONS_CHANGED
        return None


# No struct: the class of users is imported by type checkers alone, and the documentation
# evaluates the annotations of structs.
@dataclass(frozen=True, slots=True)
class Found:
    """The result of a look-up."""

    users: dict[str, tuple[AbstractBaseUser, AccountState]] = field(
        default_factory=dict
    )
    """Users by their primary key as text; one that is missing does not exist."""
    sessions: dict[str, float | None] = field(default_factory=dict)
    """By session key, when it expires (seconds since 1970), None where the engine does
    not store that; a missing one does not exist."""


def look_up(user_ids: Collection[str], session_keys: Collection[str]) -> Found:
    """Look up users and sessions.

    It takes four queries for the users, however many, and one for 500 sessions where
    they are in the database; others are queried for one session at a time. Blocks:
    call it in a thread.
    """
    model = get_user_model()
    users = {
        str(user.pk): user
        for user in model._default_manager.filter(pk__in=list(user_ids))  # noqa: SLF001 (public in Django)
    }
    rights = _rights(model, [user.pk for user in users.values()])
    return Found(
        {
            user_id: (user, AccountState.of(user, rights[user.pk]))
            for user_id, user in users.items()
        },
        _sessions(session_keys),
    )


def renew(user: Any, fresh: AbstractBaseUser) -> None:
    """Copy the fields of ``fresh``, loaded later, to ``user``."""
    for each in fresh._meta.concrete_fields:  # noqa: SLF001 (public in Django)
        setattr(user, each.attname, getattr(fresh, each.attname))
    # The attributes in which Django's backend caches permissions.
    for cache in ("_perm_cache", "_user_perm_cache", "_group_perm_cache"):
        user.__dict__.pop(cache, None)


def session_reference(session_key: str) -> str:
    """Return a name for a session in messages that does not reveal its key."""
    data = b"tiderace.revocation.account_state" + session_key.encode("utf-8", "replace")
    return hashlib.sha256(data).hexdigest()[:32]


def _rights(model: Any, user_keys: list[Any]) -> dict[Any, bytes]:
    """Return a digest of the groups and permissions of each user."""
    groups = _related(model, "groups", user_keys)
    own = _related(model, "user_permissions", user_keys)
    of_groups: dict[Any, set[Any]] = {}
    if everything := set().union(*groups.values()):
        group = model._meta.get_field("groups").related_model  # noqa: SLF001 (public in Django)
        of_groups = _related(group, "permissions", everything)
    digests = {}
    for key in user_keys:
        mine = groups.get(key, set())
        parts = (
            sorted(mine, key=str),
            sorted(own.get(key, set()), key=str),
            sorted(set().union(*(of_groups.get(each, ()) for each in mine)), key=str),
        )
        digests[key] = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return digests


def _related(model: Any, name: str, keys: Iterable[Any]) -> dict[Any, set[Any]]:
    """Return the keys on the other side of a relation, by those on this side."""
    found: dict[Any, set[Any]] = defaultdict(set)
    try:
        model._meta.get_field(name)  # noqa: SLF001 (public in Django)
    except FieldDoesNotExist:
        return found  # a user model without Django's permissions
    wanted = {"pk__in": list(keys), f"{name}__isnull": False}
    rows = model._default_manager.filter(**wanted)  # noqa: SLF001 (likewise)
    for this, other in rows.values_list("pk", name):
        found[this].add(other)
    return found


def _sessions(keys: Collection[str]) -> dict[str, float | None]:
    if not keys:
        return {}
    store = import_module(settings.SESSION_ENGINE).SessionStore
    if settings.SESSION_ENGINE.endswith("signed_cookies"):
        # The session is the cookie, so its existence cannot be checked.
        return dict.fromkeys(keys)
    if hasattr(store, "get_model_class"):
        rows = store.get_model_class()._default_manager.values_list(  # noqa: SLF001 (likewise)
            "session_key", "expire_date"
        )
        ordered = list(keys)
        return {
            key: expires.timestamp()
            for start in range(0, len(ordered), _IN_QUERY)
            for key, expires in rows.filter(
                session_key__in=ordered[start : start + _IN_QUERY]
            )
        }
    return {key: None for key in keys if store().exists(key)}
