"""Tokens of topics: who connects, who may subscribe, which names a template may offer.

    def realtime_token(request):                       # a view
        return JsonResponse({"token": connection_token(request.user)})

Claims are named as Centrifugo names them, so a token made for one is read by the other.
It knows what the claims mean, and nothing of keys, connections or permissions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

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
    "SubscriptionToken",
    "TokenExpired",
    "TokenInvalid",
    "connection_token",
    "identify",
    "read_connection_token",
    "read_subscription_token",
    "signed_topic",
    "subscription_token",
    "ticket",
    "user_id_of",
    "verified_topic",
]

DEFAULT_TTL = 600.0
"""Seconds a token lives: clients fetch the next one by themselves, and a lost one is soon
worth nothing."""


@dataclass(frozen=True, slots=True)
class SubscriptionToken:
    """What a good subscription token says."""

    user_id: str
    """The user's primary key as text; empty for an anonymous visitor."""
    channel: str
    """The topic that it lets this user subscribe to."""
    expires_at: float | None
    """When the subscription needs another token (seconds since 1970); None: never."""
    info: Any = None
    """What others are told of this subscriber."""


# Making them


def connection_token(
    user: User | None,
    *,
    ttl: float = DEFAULT_TTL,
    info: Any = None,
    channels: Iterable[str] = (),
) -> str:
    """A token with which a client connects as ``user``, for a view to hand out.

    Args:
        user: whom; anonymous or None for a visitor without an account.
        ttl: seconds until the client has to come back with another.
        info: what others are told of the connection: anything that JSON has. Everybody
            who holds the token can read it.
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
    """A token with which ``user``, and nobody else, may subscribe to one topic.

    Args:
        user: whom; anonymous or None for a visitor without an account.
        channel: the topic's name.
        ttl: seconds until the client has to come back with another.
        info: what others are told of this subscriber: anything that JSON has.

    Raises:
        ImproperlyConfigured: without the extra ``jwt``, and when no key can sign.
        ValueError: for no topic, a ``ttl`` not above 0 and a user that is not saved.
    """
    if not channel:
        raise ValueError("a subscription token is for one topic; give its name")
    claims: dict[str, Any] = {"sub": user_id_of(user), "channel": channel}
    if info is not None:
        claims["info"] = info
    return keys.encode(claims, ttl=ttl)


def user_id_of(user: User | None) -> str:
    """What stands for ``user`` in tokens: the primary key as text, empty for nobody.

    Raises:
        ValueError: for a user that is not saved.
    """
    if user is None or not user.is_authenticated:
        return ""
    if user.pk is None:
        raise ValueError(f"the user {user} is not saved, so no token can name it")
    return str(user.pk)


# Reading them


def read_subscription_token(
    token: str, *, user_id: str, channel: str
) -> SubscriptionToken:
    """Check a token for one topic and return what it says.

    Args:
        token: what the client sent.
        user_id: of the connection, empty for an anonymous visitor; the token must be
            for that user.
        channel: the topic to be subscribed to; the token must be for that one.

    Raises:
        TokenExpired: when its time is over.
        TokenInvalid: when it proves nothing, or is for another user or topic.
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


# Names that templates offer


_NAME_SALT = "tiderace.topics.tokens.name"
_ANYBODY, _ONE_USER = "a", "u"


def signed_topic(
    name: str, *, user: User | None = None, ttl: float | None = None
) -> str:
    """``name`` with a signature, such as ``room:lobby--a.5f2c...``, to put into a page.

    Who shows it proves that this site offered him the topic; no look-up is needed.

    Args:
        name: the topic's name.
        user: the only user for whom it is good; None for whoever holds it.
        ttl: seconds it is good for; None for ever, which only a change of
            ``SECRET_KEY`` ends.

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
            f"a name that is good for {ttl} s is of no use; make ttl 1 or more"
        )
    kind = _ANYBODY if user is None else _ONE_USER
    expiry = "" if ttl is None else f"{int(time.time() + ttl):x}"
    mac = _name_mac(name, kind, expiry, user_id, settings.SECRET_KEY)
    return f"{name}--{kind}{expiry}.{mac}"


def verified_topic(signed: str, *, user: User | None = None) -> str:
    """The name in what ``signed_topic`` made.

    Args:
        signed: what the client sent.
        user: who the client is; needed for names that are for one user.

    Raises:
        TokenExpired: when it was good for a time that is over.
        TokenInvalid: when it was not signed here, or is for another user.
    """
    if len(signed) > keys.MAX_TOKEN_LENGTH:
        raise TokenInvalid("the signed name is too long")
    name, mark, seal = signed.rpartition("--")
    head, dot, mac = seal.partition(".")
    kind, expiry = head[:1], head[1:]
    if not (mark and dot and name and seal.isascii()) or kind not in (
        _ANYBODY,
        _ONE_USER,
    ):
        raise TokenInvalid("it is no signed name")
    user_id = user_id_of(user) if kind == _ONE_USER else ""
    secrets = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    fits = [
        constant_time_compare(mac, _name_mac(name, kind, expiry, user_id, secret))
        for secret in secrets
    ]
    if not any(fits):
        raise TokenInvalid("the name's signature does not fit, or not this user")
    if expiry and int(expiry, 16) <= time.time():
        raise TokenExpired("the signed name has expired")
    return name


def _name_mac(
    name: str, kind: str, expiry: str, user_id: str, secret: str | bytes
) -> str:
    # JSON, so that no two sets of values make the same text.
    text = json.dumps([name, kind, expiry, user_id])
    mac = salted_hmac(_NAME_SALT, text, secret=secret, algorithm="sha256")
    return mac.hexdigest()[:40]
