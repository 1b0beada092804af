"""The credentials of a client: a connection token with Centrifugo's claims, or a ticket."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, TypeGuard

import msgspec

from tiderace.exceptions import TokenExpired, TokenInvalid
from tiderace.json_compat import well_formed_text
from tiderace.security import keys
from tiderace.security.tickets import looks_like_a_ticket, redeem

__all__ = [
    "ConnectionToken",
    "ends_at",
    "identify",
    "read_connection_token",
    "subject_of",
]


class ConnectionToken(msgspec.Struct, frozen=True):
    """The content of a valid connection token or ticket."""

    user_id: str
    """The user's primary key as text; empty for an anonymous visitor."""
    expires_at: float | None
    """When the connection needs another token (seconds since 1970); None: never."""
    info: Any = None
    """Information about the client that presence and publications show to others."""
    channels: tuple[str, ...] = ()
    """Topics to which the server subscribes the client."""
    subs: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """Options for some of ``channels`` (``info``, ``data``, ...)."""
    is_ticket: bool = False
    """Whether it was a ticket, which was looked up in the database and used up."""


async def identify(credential: str) -> ConnectionToken:
    """Check a connection token, or a ticket, which is used up, and return its content.

    Raises:
        TokenExpired: it has expired.
        TokenInvalid: it is invalid for another reason.
        ImproperlyConfigured: the extra ``jwt`` is missing, or a key cannot be used.
    """
    if isinstance(credential, str) and looks_like_a_ticket(credential):
        user = await redeem(credential)
        return ConnectionToken(str(user.pk), None, is_ticket=True)
    return read_connection_token(credential)


def read_connection_token(token: str) -> ConnectionToken:
    """Check a connection token and return its content.

    A token without ``exp`` never expires. ``expire_at`` is the end of the connection
    where that differs from ``exp``; 0 means never.

    Raises:
        TokenExpired: it has expired.
        TokenInvalid: it is invalid for another reason, or a subscription token.
        ImproperlyConfigured: the extra ``jwt`` is missing, or a key cannot be used.
    """
    claims = keys.decode(token)
    if "channel" in claims:
        raise TokenInvalid("it is a subscription token, not one to connect with")
    subs = claims.get("subs", {})
    if not isinstance(subs, dict):
        raise TokenInvalid("its claim 'subs' is no object")
    channels = claims.get("channels", [])
    if not isinstance(channels, list) or not all(map(_is_text, [*channels, *subs])):
        raise TokenInvalid("its claims 'channels' and 'subs' are no lists of names")
    return ConnectionToken(
        user_id=subject_of(claims),
        expires_at=ends_at(claims),
        info=claims.get("info"),
        channels=tuple(dict.fromkeys([*channels, *subs])),
        subs=subs,
    )


def subject_of(claims: Mapping[str, Any]) -> str:
    """Return the user id in claims, empty for an anonymous visitor.

    Raises:
        TokenInvalid: the claim ``sub`` is not a string.
    """
    subject = claims.get("sub", "")
    if not _is_text(subject):
        raise TokenInvalid("its claim 'sub' is no text")
    return subject


def _is_text(value: object) -> TypeGuard[str]:
    """Return whether ``value`` is text without lone surrogates, which no frame can carry."""
    return isinstance(value, str) and well_formed_text(value) == value


def ends_at(claims: Mapping[str, Any]) -> float | None:
    """Return the time at which what claims grant ends, or None for never.

    That is ``expire_at``, else ``exp``.

    Raises:
        TokenExpired: it is past.
        TokenInvalid: it is not a number.
    """
    name = "expire_at" if "expire_at" in claims else "exp"
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TokenInvalid(f"its claim {name!r} is no number")
    try:
        when = float(value)
    except (ValueError, OverflowError):
        raise TokenInvalid(f"its claim {name!r} is no number") from None
    if not math.isfinite(when):
        raise TokenInvalid(f"its claim {name!r} is no number")
    if name == "expire_at" and when == 0:
        return None
    if when <= time.time() and name == "expire_at":
        raise TokenExpired("what it grants has ended")
    return when
