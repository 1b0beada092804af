"""Cookies and Django sessions in the scope of HTTP and WebSocket connections."""

from __future__ import annotations

import datetime
import re
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.sessions.backends.base import UpdateError
from django.core.exceptions import SuspiciousOperation
from django.http import parse_cookie
from django.http.response import HttpResponseBase
from django.utils.encoding import force_str
from django.utils.functional import SimpleLazyObject, empty

from tiderace.asgi import ASGIApp, Event, Scope, Send, fill_lazy
from tiderace.conf import django_setting
from tiderace.db import database_sync_to_async
from tiderace.middleware import ScopeMiddleware

__all__ = [
    "CookieMiddleware",
    "InstanceSessionWrapper",
    "SessionMiddleware",
    "SessionMiddlewareStack",
    "database_sync_to_async",
]

_SAMESITE = ("strict", "lax", "none")

# Characters that are in no backend's session key. A quoted cookie may contain them, and
# PostgreSQL and memcached raise an error for them.
_NOT_IN_KEYS = re.compile(r"[^!-~]")


class CookieMiddleware(ScopeMiddleware):
    """Puts the request's cookies into ``scope["cookies"]``, name to value."""

    async def adapt(self, scope: Scope, send: Send) -> tuple[Scope, Send]:
        """Return a copy of the scope with ``cookies``, and ``send`` as it is.

        Raises:
            ValueError: the scope has no headers, so it is neither HTTP nor WebSocket.
        """
        if "headers" not in scope:
            raise ValueError(
                "CookieMiddleware was given a scope of type "
                f"{scope.get('type')!r} without headers; put it around http and "
                "websocket applications only"
            )
        cookies: dict[str, str] = {}
        # HTTP/2 may split the cookie header (RFC 9113 §8.2.3). The first one wins.
        for name, value in reversed(list(scope["headers"])):
            if name == b"cookie":
                cookies.update(parse_cookie(value.decode("latin1")))
        return {**scope, "cookies": cookies}, send

    @classmethod
    def set_cookie(
        cls,
        message: Event,
        key: str,
        value: str = "",
        max_age: float | None = None,
        expires: str | datetime.datetime | None = None,
        path: str | None = "/",
        domain: str | None = None,
        secure: bool | None = False,
        httponly: bool | None = False,
        samesite: str | bool | None = "lax",
    ) -> None:
        """Add a ``Set-Cookie`` header to ``message``, a response start or an accept.

        Args:
            message: the event; its ``headers`` are made when absent.
            key: the cookie's name.
            value: its value.
            max_age: seconds it lives; None until the browser closes.
            expires: a date as cookies write it, or a datetime, which sets
                ``max_age``. A naive datetime is in UTC.
            path: the path it is sent to.
            domain: the domain it is sent to; None for the host alone.
            secure: whether it is sent over TLS only.
            httponly: whether it is hidden from scripts.
            samesite: ``"strict"``, ``"lax"`` or ``"none"`` in any case; None or False
                leaves the choice to the browser.

        Raises:
            AssertionError: ``samesite`` is another string.
        """
        if samesite not in (None, False) and str(samesite).lower() not in _SAMESITE:
            # The exception of Channels, which applications' tests expect.
            raise AssertionError(
                "samesite must be either 'strict', 'lax' or 'none', or None to leave it "
                f"out; it is {samesite!r}"
            )
        response: Any = HttpResponseBase()
        response.set_cookie(
            key,
            force_str(value),
            max_age=max_age,
            expires=expires,
            path=path,
            domain=domain,
            secure=secure,
            httponly=httponly,
            samesite=samesite,
        )
        header = (b"Set-Cookie", response.cookies[key].OutputString().encode())
        headers = message.setdefault("headers", [])
        if isinstance(headers, list):
            headers.append(header)
        else:
            message["headers"] = [*headers, header]

    @classmethod
    def delete_cookie(
        cls, message: Event, key: str, path: str | None = "/", domain: str | None = None
    ) -> None:
        """Add a ``Set-Cookie`` header to ``message`` that deletes the cookie ``key``.

        Path and domain must be those with which it was set.
        """
        cls.set_cookie(
            message,
            key,
            max_age=0,
            path=path,
            domain=domain,
            expires="Thu, 01-Jan-1970 00:00:00 GMT",
        )


class LazySession(SimpleLazyObject):  # type: ignore[type-arg]  # not generic at run time
    """A session that is new unless it is filled."""

    def __init__(self, store: Callable[[], Any]) -> None:
        # As Django's constructor, which takes longer.
        object.__setattr__(self, "__dict__", {"_setupfunc": store, "_wrapped": empty})


class InstanceSessionWrapper:
    """The scope of one connection with its session, and a ``send`` that saves it.

    A session that is in the scope already belongs to an outer middleware, and this
    wrapper does not touch it (``activated`` is False).

    Attributes:
        save_message_types: the events before which a modified session is saved.
        cookie_response_message_types: the events among them that can carry a cookie.

    On a WebSocket no event is of these types: nothing is saved and no cookie is set.
    Call ``await scope["session"].asave()`` there.
    """

    save_message_types = ["http.response.start"]
    cookie_response_message_types = ["http.response.start"]

    def __init__(self, scope: Scope, send: Send) -> None:
        self.cookie_name = django_setting("SESSION_COOKIE_NAME")
        engine = django_setting("SESSION_ENGINE")
        # import_module() would ask the import system for each connection.
        module = sys.modules.get(engine) or import_module(engine)
        self.session_store = module.SessionStore
        self.scope: Scope = dict(scope)
        self.real_send = send
        self.activated = "session" not in self.scope
        if self.activated:
            if "cookies" not in self.scope:
                raise ValueError(
                    "No cookies in scope - SessionMiddleware needs to run inside of "
                    "CookieMiddleware."
                )
            self.scope["session"] = LazySession(self.session_store)

    async def resolve_session(self) -> None:
        """Set the session store, which reads its data at first use.

        That of a visitor without a session is not made before its first use.
        """
        if self.activated:
            key = self.scope["cookies"].get(self.cookie_name)
            if key is not None and not _NOT_IN_KEYS.search(key):
                fill_lazy(self.scope["session"], self.session_store(key))

    def sender(self) -> Send:
        """Return ``send``, or the server's where no event of the connection can save."""
        kind = self.scope.get("type")
        for each in self.save_message_types:
            if each.partition(".")[0] == kind:
                return self.send
        return self.real_send

    async def send(self, message: Event) -> None:
        """Send ``message``, after saving the session if its type is one of those.

        As in Django, a session is saved when it was modified or
        ``SESSION_SAVE_EVERY_REQUEST`` is set, and not with a response of status 500.

        Raises:
            SuspiciousOperation: the session was deleted meanwhile, for instance by a
                log-out in another tab.
        """
        if (
            self.activated
            and message["type"] in self.save_message_types
            and message.get("status", 200) != 500
            and (self.scope["session"].modified or settings.SESSION_SAVE_EVERY_REQUEST)
        ):
            await self._save_with(message)
        await self.real_send(message)

    async def save_session(self) -> None:
        """Save the session.

        Raises:
            SuspiciousOperation: the session was deleted meanwhile.
        """
        try:
            await self.scope["session"].asave()
        except UpdateError as error:
            raise SuspiciousOperation(
                "the session was deleted before the request completed; the user may "
                "have logged out in a concurrent request"
            ) from error

    async def _save_with(self, message: Event) -> None:
        takes_cookie = message["type"] in self.cookie_response_message_types
        if self.scope["session"].is_empty():
            # An empty session was flushed or never filled: there is nothing to save.
            if takes_cookie and self.cookie_name in self.scope["cookies"]:
                CookieMiddleware.delete_cookie(
                    message,
                    self.cookie_name,
                    path=settings.SESSION_COOKIE_PATH,
                    domain=settings.SESSION_COOKIE_DOMAIN,
                )
            return
        await self.save_session()
        if takes_cookie:
            self._set_session_cookie(message)

    def _set_session_cookie(self, message: Event) -> None:
        session = self.scope["session"]
        max_age = None
        if not session.get_expire_at_browser_close():
            max_age = session.get_expiry_age()
        CookieMiddleware.set_cookie(
            message,
            self.cookie_name,
            session.session_key,
            max_age=max_age,
            domain=settings.SESSION_COOKIE_DOMAIN,
            path=settings.SESSION_COOKIE_PATH,
            secure=settings.SESSION_COOKIE_SECURE,
            httponly=settings.SESSION_COOKIE_HTTPONLY,
            samesite=settings.SESSION_COOKIE_SAMESITE,
        )


class SessionMiddleware(ScopeMiddleware):
    """Puts the Django session that the cookies name into ``scope["session"]``.

    The session is a lazy object: its data is read from the engine at first use. The
    middleware must be inside ``CookieMiddleware``.
    """

    async def adapt(self, scope: Scope, send: Send) -> tuple[Scope, Send]:
        """Return a copy of the scope with ``session``, and a ``send`` that saves it.

        Raises:
            ValueError: the scope has neither cookies nor a session.
        """
        wrapper = InstanceSessionWrapper(scope, send)
        await wrapper.resolve_session()
        return wrapper.scope, wrapper.sender()


def SessionMiddlewareStack(inner: ASGIApp) -> CookieMiddleware:  # noqa: N802 (Channels' name)
    """Wrap ``inner`` in sessions and the cookies they need."""
    return CookieMiddleware(SessionMiddleware(inner))
