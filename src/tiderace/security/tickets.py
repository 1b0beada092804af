"""Tickets: short-lived signed credentials with which a user opens one connection.

For pages on another origin, apps and scripts, which have no session cookie.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from django.contrib.auth import get_user_model
from django.core import signing
from django.core.cache import caches
from django.core.cache.backends.dummy import DummyCache
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.utils.crypto import constant_time_compare

from tiderace import conf
from tiderace.db import database_sync_to_async
from tiderace.exceptions import TokenExpired, TokenInvalid

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.auth.models import AnonymousUser

    User: TypeAlias = AbstractBaseUser | AnonymousUser

__all__ = ["PREFIX", "find_user", "looks_like_a_ticket", "redeem", "ticket"]

PREFIX = "tiderace.ticket."
"""The beginning of every ticket, which distinguishes it from other credentials."""

_MAX_LENGTH = 1024
_CACHE_KEY = "tiderace.ticket."
# A salt of tickets alone: nothing else that was signed with SECRET_KEY is a ticket.
_SALT = "tiderace.security.tickets"


def ticket(user: AbstractBaseUser, ttl: float = 30, once: bool = True) -> str:
    """Return a ticket for ``user``, made of letters, digits, ``.``, ``-`` and ``_``.

    It may be a WebSocket subprotocol, a query parameter or a header as it is. Changing
    the user's password makes it invalid.

    Args:
        user: the user who may connect with it.
        ttl: seconds until it expires; 30, since a client fetches it right before use.
        once: whether it can be used only once. A ticket for several uses is not
            accepted in a URL.

    Raises:
        ValueError: the user is anonymous or unsaved, or ``ttl`` is not above 0.
    """
    if user.pk is None:
        raise ValueError("a ticket needs a saved user; anonymous visitors need none")
    if ttl <= 0:
        raise ValueError(f"ttl={ttl} makes a ticket that is never valid; use 1 or more")
    content = {
        "u": user._meta.pk.value_to_string(user),  # noqa: SLF001 (public in Django)
        "e": int(time.time() + ttl),
        "h": _password_digest(user),
    }
    if once:
        content["n"] = secrets.token_urlsafe(12)
    return PREFIX + _signer().sign_object(content)


def looks_like_a_ticket(text: str) -> bool:
    """Return whether ``text`` has the form of a ticket, valid or not."""
    return text.startswith(PREFIX)


@database_sync_to_async
def redeem(text: str, *, only_once: bool = False) -> AbstractBaseUser:
    """Return the user of a ticket, and use up a one-time ticket.

    A ticket can be used once in all processes that share the cache
    ``TIDERACE["TICKET_CACHE"]``, for as long as the cache keeps the mark of its use. With
    Django's default, ``LocMemCache``, that is one process.

    Args:
        text: the ticket.
        only_once: whether to refuse tickets for several uses.

    Raises:
        TokenExpired: it has expired.
        TokenInvalid: its signature is wrong, it was used before, or its user is gone,
            inactive or has changed the password.
        ImproperlyConfigured: the cache is a ``DummyCache``, which keeps nothing.
    """
    content = _verified(text)
    nonce = content.get("n")
    if nonce is not None:
        _use_up(nonce, content["e"])
    elif only_once:
        raise TokenInvalid(
            "the ticket can be used several times; only one-time tickets are accepted here"
        )
    user = _load_user(content["u"])
    if user is None:
        raise TokenInvalid("the ticket's user is gone or inactive")
    if not constant_time_compare(content["h"], _password_digest(user)):
        raise TokenInvalid("the ticket's user has changed the password since")
    return user


@database_sync_to_async
def find_user(user_id: str) -> AbstractBaseUser | None:
    """Return the active user with this primary key, given as text, or None."""
    return _load_user(user_id)


def _load_user(user_id: str) -> AbstractBaseUser | None:
    model = get_user_model()
    try:
        key = model._meta.pk.to_python(user_id)  # noqa: SLF001 (public in Django)
        user: AbstractBaseUser = model._default_manager.get(pk=key)  # noqa: SLF001 (likewise)
    except (model.DoesNotExist, ValidationError, ValueError, TypeError, OverflowError):
        return None  # the text may be no key of this kind
    return user if user.is_active else None


def _signer() -> signing.TimestampSigner:
    # Django's own separator is a colon, which a subprotocol may not contain.
    return signing.TimestampSigner(salt=_SALT, sep=".")


def _verified(text: str) -> dict[str, Any]:
    if len(text) > _MAX_LENGTH:
        raise TokenInvalid(f"the ticket is longer than {_MAX_LENGTH} characters")
    if not text.isascii() or not looks_like_a_ticket(text):
        raise TokenInvalid("it is not a ticket")
    try:
        content: dict[str, Any] = _signer().unsign_object(text.removeprefix(PREFIX))
    except (signing.BadSignature, ValueError):
        raise TokenInvalid("the ticket's signature is wrong") from None
    if content["e"] <= time.time():
        raise TokenExpired("the ticket has expired")
    return content


def _use_up(nonce: str, expires_at: int) -> None:
    alias = conf.current().ticket_cache
    cache = caches[alias]
    if isinstance(cache, DummyCache):
        raise ImproperlyConfigured(
            f"one-time tickets need a cache that keeps values, and CACHES[{alias!r}] is a "
            "DummyCache; name another in TIDERACE['TICKET_CACHE']"
        )
    # If several processes call add() at once, it succeeds in only one.
    if not cache.add(_CACHE_KEY + nonce, 1, timeout=expires_at - time.time() + 1):
        raise TokenInvalid("the ticket was used before")


def _password_digest(user: AbstractBaseUser) -> str:
    """Return a hash that changes with the password."""
    return hashlib.sha256(user.get_session_auth_hash().encode()).hexdigest()[:16]
