"""Tickets: a signed line that lets one user open one connection soon, and then no more.

For pages on another origin, apps and scripts, where no cookie says who is there. It knows
Django's signing, its users and its cache; how a ticket travels is its bearer's business.
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
"""What every ticket begins with, so that it can be told from other credentials."""

_MAX_LENGTH = 1024
_CACHE_KEY = "tiderace.ticket."
# Of its own, so that nothing else that was signed with SECRET_KEY is a ticket.
_SALT = "tiderace.security.tickets"


def ticket(user: AbstractBaseUser, ttl: float = 30, once: bool = True) -> str:
    """Make a ticket for ``user``: a line of letters, digits, ``.``, ``-`` and ``_``.

    It is legal as it stands as a WebSocket subprotocol, a query parameter or a header.
    A change of the user's password voids it.

    Args:
        user: who may connect with it.
        ttl: seconds in which it must be used; 30, for it is fetched right before.
        once: whether the first use is the last. A ticket that is good for several
            uses is not taken from a URL.

    Raises:
        ValueError: for an anonymous or unsaved user, or a ``ttl`` not above 0.
    """
    if user.pk is None:
        raise ValueError("a ticket needs a saved user; anonymous visitors need none")
    if ttl <= 0:
        raise ValueError(
            f"a ticket that lives {ttl} s is of no use; make ttl 1 or more"
        )
    content = {
        "u": user._meta.pk.value_to_string(user),  # noqa: SLF001 (public in Django)
        "e": int(time.time() + ttl),
        "h": _password_mark(user),
    }
    if once:
        content["n"] = secrets.token_urlsafe(12)
    return PREFIX + _signer().sign_object(content)


def looks_like_a_ticket(text: str) -> bool:
    """Whether ``text`` claims to be a ticket; it need not be a good one."""
    return text.startswith(PREFIX)


@database_sync_to_async
def redeem(text: str, *, only_once: bool = False) -> AbstractBaseUser:
    """The user whom a ticket is for; a one-time ticket is used up by it.

    That a ticket is used once holds for all processes that share the cache
    ``TIDERACE["TICKET_CACHE"]``, and for as long as that keeps the mark of its use. With
    Django's default, ``LocMemCache``, it holds for one process.

    Args:
        text: the ticket.
        only_once: whether to refuse tickets that are good for several uses.

    Raises:
        TokenExpired: when its time is over.
        TokenInvalid: when it was not made here, was used before, or its user is gone,
            inactive or has another password by now.
        ImproperlyConfigured: when the cache cannot remember anything.
    """
    content = _verified(text)
    nonce = content.get("n")
    if nonce is not None:
        _use_up(nonce, content["e"])
    elif only_once:
        raise TokenInvalid("the ticket is good for several uses, which is refused here")
    user = _load_user(content["u"])
    if user is None:
        raise TokenInvalid("the ticket's user is gone or inactive")
    if not constant_time_compare(content["h"], _password_mark(user)):
        raise TokenInvalid("the ticket's user has another password by now")
    return user


@database_sync_to_async
def find_user(user_id: str) -> AbstractBaseUser | None:
    """The active user with this primary key, given as text; None when there is none."""
    return _load_user(user_id)


def _load_user(user_id: str) -> AbstractBaseUser | None:
    model = get_user_model()
    try:
        key = model._meta.pk.to_python(user_id)  # noqa: SLF001 (public in Django)
        user: AbstractBaseUser = model._default_manager.get(pk=key)  # noqa: SLF001 (likewise)
    except (model.DoesNotExist, ValidationError, ValueError, TypeError, OverflowError):
        return None  # also for text that is no key of this kind
    return user if user.is_active else None


def _signer() -> signing.TimestampSigner:
    # Not Django's colon, which a subprotocol may not hold.
    return signing.TimestampSigner(salt=_SALT, sep=".")


def _verified(text: str) -> dict[str, Any]:
    if len(text) > _MAX_LENGTH:
        raise TokenInvalid(f"the ticket is longer than {_MAX_LENGTH} characters")
    if not text.isascii() or not looks_like_a_ticket(text):
        raise TokenInvalid("it is no ticket")
    try:
        content: dict[str, Any] = _signer().unsign_object(text.removeprefix(PREFIX))
    except (signing.BadSignature, ValueError):
        raise TokenInvalid("the ticket's signature does not fit") from None
    if content["e"] <= time.time():
        raise TokenExpired("the ticket has expired")
    return content


def _use_up(nonce: str, expires_at: int) -> None:
    alias = conf.current().ticket_cache
    cache = caches[alias]
    if isinstance(cache, DummyCache):
        raise ImproperlyConfigured(
            f"one-time tickets need a cache that remembers, and CACHES[{alias!r}] is a "
            "DummyCache; name another in TIDERACE['TICKET_CACHE']"
        )
    # add() is the one step that only one of several at once can take.
    if not cache.add(_CACHE_KEY + nonce, 1, timeout=expires_at - time.time() + 1):
        raise TokenInvalid("the ticket was used before")


def _password_mark(user: AbstractBaseUser) -> str:
    """Changes with the password, and says nothing about it."""
    return hashlib.sha256(user.get_session_auth_hash().encode()).hexdigest()[:16]
