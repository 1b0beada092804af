"""Users of connections: who is behind a session, logging in, logging out.

It knows Django's authentication and the session in the scope, and nothing of routing
or consumers.
"""

from __future__ import annotations

from collections.abc import Iterable
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

from tiderace.asgi import ASGIApp, Receive, Scope, Send
from tiderace.db import database_sync_to_async
from tiderace.middleware import BaseMiddleware, socket_thread
from tiderace.runtime import threads
from tiderace.sessions import CookieMiddleware, SessionMiddleware

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
"""Sent by ``logout`` with ``session_key``, of a session that is gone from now on."""


@database_sync_to_async
def get_user(scope: Scope) -> User:
    """Return the user whom the session in ``scope`` belongs to.

    An ``AnonymousUser`` where nobody is logged in, where the backend that logged the
    user in is no longer among ``AUTHENTICATION_BACKENDS``, and where the session's
    hash does not fit the user any more (a changed password): such a session is
    emptied. A hash made with one of ``SECRET_KEY_FALLBACKS`` fits.

    Raises:
        ValueError: when the scope has no session.
    """
    # Needs a loaded app registry, which this module's import must not.
    from django.contrib.auth.models import AnonymousUser

    session = _session(scope, "Cannot find session in scope.")
    try:
        user_id = _get_user_session_key(session)
        backend_path = session[BACKEND_SESSION_KEY]
    except KeyError:
        return AnonymousUser()
    if backend_path not in settings.AUTHENTICATION_BACKENDS:
        return AnonymousUser()
    user: User | None = load_backend(backend_path).get_user(user_id)
    if user is None:
        return AnonymousUser()
    if hasattr(user, "get_session_auth_hash") and not _verified(scope, session, user):
        session.flush()
        return AnonymousUser()
    return user


@database_sync_to_async
def login(
    scope: Scope, user: AbstractBaseUser | None, backend: str | None = None
) -> None:
    """Make ``user`` the one logged in: in the session, and as ``scope["user"]``.

    What an anonymous visitor's session holds is kept; another user's session is
    emptied first. The session is not saved: over HTTP that happens with the response,
    on a WebSocket call ``await scope["session"].asave()``. No cookie can be set on an
    open WebSocket, so a session that is new there stays unknown to the browser.

    Args:
        scope: the connection's scope, with a session.
        user: who logs in; None takes ``scope["user"]``.
        backend: dotted path of the authentication backend; by default the one that
            authenticated the user, or the only one configured.

    Raises:
        ValueError: when there is no session, no user, or a choice of backends.
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
    """Log the user out: empty the session, and make ``scope["user"]`` anonymous.

    Raises:
        ValueError: when the scope has no session.
    """
    # Needs a loaded app registry, which this module's import must not.
    from django.contrib.auth.models import AnonymousUser

    session = _session(scope, "Login cannot find session in scope.")
    user = scope.get("user")
    if user is not None and getattr(user, "is_authenticated", True):
        # Before the flush, so that receivers can still find out who it was.
        user_logged_out.send(sender=user.__class__, request=None, user=user)
    key = session.session_key
    session.flush()
    if key:
        session_ended.send(sender=type(session), session_key=key)
    if "user" in scope:
        scope["user"] = AnonymousUser()


def _session(scope: Scope, complaint: str) -> SessionBase:
    if "session" not in scope:
        raise ValueError(
            f"{complaint} You should wrap your consumer in SessionMiddleware."
        )
    session: SessionBase = scope["session"]
    return session


def _get_user_session_key(session: SessionBase) -> Any:
    """The primary key of the session's user, as Python has it.

    Raises:
        KeyError: when nobody is logged in.
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
        # As Django does. A WebSocket cannot hand the browser the new key, and a
        # cycled session would log it out everywhere; its next request upgrades it.
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
    """Stands in ``scope["user"]`` until the user has been looked up."""

    def _setup(self) -> None:
        raise ValueError("Accessing scope user before it is ready.")


class AuthMiddleware(BaseMiddleware):
    """Puts the session's user into ``scope["user"]``, looked up before the inner app.

    It must stand inside ``SessionMiddleware``. A user whom an outer middleware has
    put there (from a token, say) stays, and then the session is not read at all.
    """

    def populate_scope(self, scope: Scope) -> None:
        """Put a placeholder into ``scope["user"]``, unless a user is there.

        Raises:
            ValueError: when the scope has no session.
        """
        if "session" not in scope:
            raise ValueError(
                "AuthMiddleware cannot find session in scope. "
                "SessionMiddleware must be above it."
            )
        if "user" not in scope:
            scope["user"] = UserLazyObject()

    async def resolve_scope(self, scope: Scope) -> None:
        """Look the user up; override it to find users in another way."""
        if _is_placeholder(scope["user"]):
            scope["user"]._wrapped = await get_user(scope)  # noqa: SLF001 (how a lazy object is filled)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Serve the connection by the inner app, with ``user`` in its scope."""
        scope = dict(scope)
        self.populate_scope(scope)
        async with socket_thread(scope):
            await self.resolve_scope(scope)
            thread = threads.current()
            if thread is not None:
                # The look-up is done; an idle socket keeps no thread to itself.
                thread.release()
            return await super().__call__(scope, receive, send)


def _is_placeholder(user: object) -> bool:
    # isinstance() would ask a lazy object for the class of what it stands for.
    kind = type(user)
    return (
        issubclass(kind, LazyObject)
        and not issubclass(kind, SimpleLazyObject)
        and getattr(user, "_wrapped", None) is empty
    )


def AuthMiddlewareStack(inner: ASGIApp) -> CookieMiddleware:  # noqa: N802 (Channels' name)
    """Wrap ``inner`` in users, and the sessions and cookies they need."""
    return CookieMiddleware(SessionMiddleware(AuthMiddleware(inner)))
