"""The users of connections: looked up by the session, logged in, logged out."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from django.conf import settings
from django.contrib.auth import (
    BACKEND_SESSION_KEY,
    HASH_SESSION_KEY,
    SESSION_KEY,
    get_user_model,
    load_backend,
    user_logged_in,
    user_logged_out,
)
from django.core.exceptions import ImproperlyConfigured
from django.dispatch import Signal
from django.utils.crypto import constant_time_compare
from django.utils.functional import LazyObject, SimpleLazyObject, empty

from tiderace.asgi import ASGIApp, Scope, Send, fill_lazy, unwrap_lazy
from tiderace.db import database_sync_to_async
from tiderace.middleware import BaseMiddleware, ScopeMiddleware
from tiderace.sessions import CookieMiddleware, LazySession, SessionMiddleware

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.auth.models import AnonymousUser
    from django.contrib.sessions.backends.base import SessionBase

    User: TypeAlias = AbstractBaseUser | AnonymousUser

__all__ = [
    "AuthMiddleware",
    "AuthMiddlewareStack",
    "BaseMiddleware",
    "CookieMiddleware",
    "SessionMiddleware",
    "UserLazyObject",
    "database_sync_to_async",
    "get_user",
    "login",
    "logout",
    "session_ended",
]

session_ended = Signal()
"""Sent by ``logout`` with the ``session_key`` of the deleted session."""


@database_sync_to_async
def get_user(scope: Scope) -> User:
    """Return the user of the session in ``scope``.

    An ``AnonymousUser`` where no user is logged in, where the user's backend is no
    longer among ``AUTHENTICATION_BACKENDS``, and where the session's hash no longer
    matches (a changed password): such a session is flushed. A hash made with one of
    ``SECRET_KEY_FALLBACKS`` matches.

    Raises:
        ValueError: the scope has no session.
    """
    session = _session(scope, "Cannot find session in scope.")
    try:
        user_id = _get_user_session_key(session)
        backend_path = session[BACKEND_SESSION_KEY]
    except KeyError:
        return anonymous_user()
    if backend_path not in settings.AUTHENTICATION_BACKENDS:
        return anonymous_user()
    user: User | None = load_backend(backend_path).get_user(user_id)
    if user is None:
        return anonymous_user()
    if hasattr(user, "get_session_auth_hash") and not _verified(scope, session, user):
        session.flush()
        return anonymous_user()
    return user


@database_sync_to_async
def login(
    scope: Scope, user: AbstractBaseUser | None, backend: str | None = None
) -> None:
    """Log ``user`` in: write it into the session and into ``scope["user"]``.

    The data of an anonymous visitor's session is kept; another user's session is flushed
    first. The session is not saved: over HTTP that happens with the response, on a
    WebSocket call ``await scope["session"].asave()``. No cookie can be set on an open
    WebSocket, so the browser does not learn the key of a new session.

    Args:
        scope: the connection's scope, with a session.
        user: the user; None takes ``scope["user"]``.
        backend: dotted path of the authentication backend; by default the one that
            authenticated the user, or the only one configured.

    Raises:
        ValueError: there is no session, no user, or more than one backend.
    """
    session = _session(scope, "Cannot find session in scope.")
    if user is None:
        user = scope.get("user")
    if user is None:
        raise ValueError(
            "User must be passed as an argument or must be present in the scope."
        )
    auth_hash = ""
    if hasattr(user, "get_session_auth_hash"):
        auth_hash = user.get_session_auth_hash()
    if SESSION_KEY in session:
        if _get_user_session_key(session) != user.pk or (
            auth_hash
            and not constant_time_compare(session.get(HASH_SESSION_KEY, ""), auth_hash)
        ):
            session.flush()
    else:
        session.cycle_key()
    session[SESSION_KEY] = user._meta.pk.value_to_string(user)  # noqa: SLF001 (public in Django)
    session[BACKEND_SESSION_KEY] = _backend_path(user, backend)
    session[HASH_SESSION_KEY] = auth_hash
    scope["user"] = user
    user_logged_in.send(sender=user.__class__, request=None, user=user)


@database_sync_to_async
def logout(scope: Scope) -> None:
    """Log the user out: flush the session, and make ``scope["user"]`` anonymous.

    Raises:
        ValueError: the scope has no session.
    """
    session = _session(scope, "Login cannot find session in scope.")
    user = scope.get("user")
    if user is not None and getattr(user, "is_authenticated", True):
        # Sent before the flush, so that receivers can still read the session.
        user_logged_out.send(sender=user.__class__, request=None, user=user)
    key = session.session_key
    session.flush()
    if key:
        session_ended.send(sender=type(session), session_key=key)
    if "user" in scope:
        scope["user"] = anonymous_user()


def anonymous_user() -> AnonymousUser:
    """Return a new anonymous user."""
    return _anonymous_class()()


@cache
def _anonymous_class() -> type[AnonymousUser]:
    # The model needs a loaded app registry, which importing a module must not.
    from django.contrib.auth.models import AnonymousUser

    return AnonymousUser


def _is_new(session: SessionBase) -> bool:
    """Return whether a session has no key, so nothing to read, and no user put into it."""
    known = unwrap_lazy(session)
    if known is not empty:
        session = known
    elif issubclass(type(session), LazySession):  # it was not used yet
        return True
    return session.session_key is None and SESSION_KEY not in session


def _session(scope: Scope, complaint: str) -> SessionBase:
    if "session" not in scope:
        raise ValueError(
            f"{complaint} You should wrap your consumer in SessionMiddleware."
        )
    session: SessionBase = scope["session"]
    return session


def _get_user_session_key(session: SessionBase) -> Any:
    """Return the primary key of the session's user.

    Raises:
        KeyError: no user is logged in.
    """
    return get_user_model()._meta.pk.to_python(session[SESSION_KEY])  # noqa: SLF001 (public in Django)


def _verified(scope: Scope, session: SessionBase, user: Any) -> bool:
    kept = session.get(HASH_SESSION_KEY)
    if not kept:
        return False
    auth_hash = user.get_session_auth_hash()
    if constant_time_compare(kept, auth_hash):
        return True
    older: Iterable[str] = getattr(user, "get_session_auth_fallback_hash", tuple)()
    if not any(constant_time_compare(kept, candidate) for candidate in older):
        return False
    if scope.get("type") == "http":
        # As Django does. A WebSocket cannot send the browser the new key, and a cycled
        # session would log it out everywhere; its next request upgrades it.
        session.cycle_key()
        session[HASH_SESSION_KEY] = auth_hash
    return True


def _backend_path(user: AbstractBaseUser, backend: str | None) -> str:
    path: str | None = backend or getattr(user, "backend", None)
    if path:
        return path
    configured = settings.AUTHENTICATION_BACKENDS
    if not configured:
        raise ImproperlyConfigured(
            "nobody can log in, since AUTHENTICATION_BACKENDS is empty; "
            "add 'django.contrib.auth.backends.ModelBackend' or your own"
        )
    if len(configured) > 1:
        raise ValueError(
            "You have multiple authentication backends configured and therefore must "
            "provide the `backend` argument or set the `backend` attribute on the "
            f"user (configured: {', '.join(configured)})."
        )
    return str(configured[0])


class UserLazyObject(LazyObject):  # type: ignore[type-arg]  # not generic at run time
    """The placeholder in ``scope["user"]`` until the user has been looked up."""

    def __init__(self) -> None:
        fill_lazy(self, empty)  # quicker than Django's constructor

    def _setup(self) -> None:
        raise ValueError("Accessing scope user before it is ready.")


class AuthMiddleware(ScopeMiddleware):
    """Puts the session's user into ``scope["user"]``, looked up before the inner app.

    It must be inside ``SessionMiddleware``. A user that an outer middleware has set, for
    instance from a token, is kept, and then the session is not read.
    """

    def populate_scope(self, scope: Scope) -> None:
        """Put a placeholder into ``scope["user"]``, unless a user is there.

        Raises:
            ValueError: the scope has no session.
        """
        if "session" not in scope:
            raise ValueError(
                "AuthMiddleware cannot find session in scope. "
                "SessionMiddleware must be above it."
            )
        if "user" not in scope:
            scope["user"] = UserLazyObject()

    async def resolve_scope(self, scope: Scope) -> None:
        """Look the user up; override it to do so in another way."""
        if _is_placeholder(scope["user"]):
            user = (
                anonymous_user() if _is_new(scope["session"]) else await get_user(scope)
            )
            fill_lazy(scope["user"], user)

    async def adapt(self, scope: Scope, send: Send) -> tuple[Scope, Send]:
        """Return a copy of the scope with ``user``, and ``send`` as it is."""
        scope = dict(scope)
        self.populate_scope(scope)
        await self.resolve_scope(scope)
        return scope, send


def _is_placeholder(user: object) -> bool:
    # isinstance() would load a lazy object to read its class.
    kind = type(user)
    return (
        issubclass(kind, LazyObject)
        and not issubclass(kind, SimpleLazyObject)
        and getattr(user, "_wrapped", None) is empty
    )


def AuthMiddlewareStack(inner: ASGIApp) -> CookieMiddleware:  # noqa: N802 (Channels' name)
    """Wrap ``inner`` in users, and the sessions and cookies they need."""
    return CookieMiddleware(SessionMiddleware(AuthMiddleware(inner)))
