"""Tokens of topics: connection tokens, subscription tokens and signed topic names.

::

    def realtime_token(request):                       # a view
        return JsonResponse({"token": connection_token(request.user)})

Claims have Centrifugo's names, so tokens work with both servers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec
from django.conf import settings
from django.utils.crypto import constant_time_compare, salted_hmac

from tiderace.exceptions import TokenExpired, TokenInvalid
from tiderace.security import keys
from tiderace.security.credentials import (
    ConnectionToken,
    ends_at,
    identify,
    read_connection_token,
    subject_of,
)
from tiderace.security.tickets import ticket

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.auth.models import AnonymousUser

    User: TypeAlias = AbstractBaseUser | AnonymousUser

__all__ = [
    "ConnectionToken",
    "SignedName",
    "SubscriptionToken",
    "TokenExpired",
    "TokenInvalid",
    "connection_token",
    "identify",
    "read_connection_token",
    "read_signed_name",
    "read_subscription_token",
    "signed_topic",
    "subscription_token",
    "ticket",
    "user_id_of",
    "verified_topic",
]

DEFAULT_TTL = 600.0
"""Seconds a token is valid. Short, since clients fetch the next one by themselves and a
stolen one expires soon."""


class SubscriptionToken(msgspec.Struct, frozen=True):
    """The claims of a valid subscription token."""

    user_id: str
    """The user's primary key as text; empty for an anonymous visitor."""
    channel: str
    """The topic that the user may subscribe to."""
    expires_at: float | None
    """When the subscription needs another token (seconds since 1970); None: never."""
    info: Any = None
    """Information about this subscriber that other clients see."""


# Create


def connection_token(
    user: User | None,
    *,
    ttl: float = DEFAULT_TTL,
    info: Any = None,
    channels: Iterable[str] = (),
) -> str:
    """Return a token with which a client connects as ``user``.

    Args:
        user: anonymous or None for a visitor without an account.
        ttl: seconds until the client needs another token.
        info: what other clients see of the connection: anything that JSON can express.
            The client can read it in the token.
        channels: topics to subscribe the connection to.

    Raises:
        ImproperlyConfigured: without the extra ``jwt``, and when no key can sign.
        ValueError: for a ``ttl`` not above 0 and for a user that is not saved.
    """
    claims: dict[str, Any] = {"sub": user_id_of(user)}
    if info is not None:
        claims["info"] = info
    if topics := list(channels):
        claims["channels"] = topics
    return keys.encode(claims, ttl=ttl)


def subscription_token(
    user: User | None, channel: str, *, ttl: float = DEFAULT_TTL, info: Any = None
) -> str:
    """Return a token with which only ``user`` may subscribe to one topic.

    Args:
        user: anonymous or None for a visitor without an account.
        channel: the topic's name.
        ttl: seconds until the client needs another token.
        info: what other clients see of this subscriber: anything that JSON can express.

    Raises:
        ImproperlyConfigured: without the extra ``jwt``, and when no key can sign.
        ValueError: for an empty ``channel``, a ``ttl`` not above 0 and an unsaved user.
    """
    if not channel:
        raise ValueError("a subscription token is for one topic; give its name")
    claims: dict[str, Any] = {"sub": user_id_of(user), "channel": channel}
    if info is not None:
        claims["info"] = info
    return keys.encode(claims, ttl=ttl)


def user_id_of(user: User | None) -> str:
    """Return the primary key as text, as it is in tokens; empty for an anonymous user.

    Raises:
        ValueError: for a user that is not saved.
    """
    if user is None or not user.is_authenticated:
        return ""
    if user.pk is None:
        raise ValueError(f"the user {user} is not saved, so no token can name it")
    return str(user.pk)


# Read


def read_subscription_token(
    token: str, *, user_id: str, channel: str
) -> SubscriptionToken:
    """Check a token for one topic and return its claims.

    Args:
        token: from the client.
        user_id: of the connection, empty for an anonymous user; the token must be for
            this user.
        channel: the topic; the token must be for it.

    Raises:
        TokenExpired: when it has expired.
        TokenInvalid: when it is not valid, or is for another user or topic.
        ImproperlyConfigured: without the extra ``jwt``, and when the keys cannot be used.
    """
    claims = keys.decode(token)
    if "channel" not in claims:
        raise TokenInvalid("it is a connection token, not one to subscribe with")
    if claims["channel"] != channel:
        raise TokenInvalid("it is for another topic")
    if subject_of(claims) != user_id:
        raise TokenInvalid("it is for another user")
    return SubscriptionToken(user_id, channel, ends_at(claims), claims.get("info"))


# Signed topic names

_NAME_SALT = "tiderace.topics.tokens.name"
_ALL_CLIENTS, _ONE_USER = "a", "u"


def signed_topic(
    name: str, *, user: User | None = None, ttl: float | None = None
) -> str:
    """Return ``name`` with a signature, such as ``room:lobby--a.5f2c...``, for a page.

    It proves, without a look-up, that this site offered the topic to the client.

    Args:
        name: the topic's name.
        user: the only user who may use it; None for all clients.
        ttl: seconds it is valid; None for ever, until ``SECRET_KEY`` changes.

    Raises:
        ValueError: for a ``ttl`` not above 0, and an anonymous or unsaved ``user``.
    """
    user_id = ""
    if user is not None:
        user_id = user_id_of(user)
        if not user_id:
            raise ValueError("a name for one user needs a user with an account")
    if ttl is not None and ttl <= 0:
        raise ValueError(
            f"ttl={ttl} makes a signed name that is never valid; use 1 or more"
        )
    kind = _ALL_CLIENTS if user is None else _ONE_USER
    expiry = "" if ttl is None else f"{int(time.time() + ttl):x}"
    mac = _name_mac(name, kind, expiry, user_id, settings.SECRET_KEY)
    return f"{name}--{kind}{expiry}.{mac}"


class SignedName(NamedTuple):
    """The content of a valid signed topic name."""

    topic: str
    expires_at: float | None
    """When it expires (seconds since 1970); None: never."""


def verified_topic(signed: str, *, user: User | None = None) -> str:
    """Return the topic name in the result of ``signed_topic``.

    Args:
        signed: from the client.
        user: of the client; needed for names that are for one user.

    Raises:
        TokenExpired: when it has expired.
        TokenInvalid: when the signature is wrong, or the name is for another user.
    """
    return read_signed_name(signed, user=user).topic


def read_signed_name(signed: str, *, user: User | None) -> SignedName:
    """Check a signed topic name, as ``verified_topic`` does, and return its content."""
    if len(signed) > keys.MAX_TOKEN_LENGTH:
        raise TokenInvalid("the signed name is too long")
    name, mark, signature = signed.rpartition("--")
    head, dot, mac = signature.partition(".")
    kind, expiry = head[:1], head[1:]
    if not (mark and dot and name and signature.isascii()) or kind not in (
        _ALL_CLIENTS,
        _ONE_USER,
    ):
        raise TokenInvalid("it is not a signed name")
    user_id = user_id_of(user) if kind == _ONE_USER else ""
    secrets = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    matches = [
        constant_time_compare(mac, _name_mac(name, kind, expiry, user_id, secret))
        for secret in secrets
    ]
    if not any(matches):
        raise TokenInvalid(
            "the signature of the name is wrong, or it is for another user"
        )
    expires_at = int(expiry, 16) if expiry else None
    if expires_at is not None and expires_at <= time.time():
        raise TokenExpired("the signed name has expired")
    return SignedName(name, expires_at)


def _name_mac(
    name: str, kind: str, expiry: str, user_id: str, secret: str | bytes
) -> str:
    # JSON, so that two sets of values never give the same text.
    text = json.dumps([name, kind, expiry, user_id])
    mac = salted_hmac(_NAME_SALT, text, secret=secret, algorithm="sha256")
    return mac.hexdigest()[:40]
