"""The user of a topic client, from its session, its token or its ticket."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec
from django.utils.functional import empty

from tiderace import conf
from tiderace.asgi import Scope, unwrap_lazy
from tiderace.auth import anonymous_user
from tiderace.db import database_sync_to_async
from tiderace.exceptions import TokenInvalid
from tiderace.json_compat import to_json
from tiderace.revocation.auth_changed import session_key_of
from tiderace.security.tickets import find_user
from tiderace.topics.tokens import (
    identify,
    read_signed_name,
    read_subscription_token,
)


class TokenUser:
    """The user in a token, with ``TIDERACE["TOPICS"]["USERS"] = "claims"``.

    It is authenticated and active, and has no permissions and no database row.
    """

    is_authenticated = True
    is_anonymous = False
    is_active = True
    is_staff = False
    is_superuser = False

    def __init__(self, pk: str) -> None:
        self.pk = self.id = pk

    def get_username(self) -> str:
        """Return the id."""
        return str(self.pk)

    def has_perm(self, perm: str, obj: object = None) -> bool:
        """Return False."""
        return False

    def has_perms(self, perms: Any, obj: object = None) -> bool:
        """Return whether ``perms`` is empty."""
        return not list(perms)

    def __str__(self) -> str:
        return str(self.pk)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenUser) and self.pk == other.pk

    def __hash__(self) -> int:
        return hash(self.pk)


class Grant(msgspec.Struct, frozen=True):
    """A permission to subscribe to a topic that a token, or the server, gives."""

    expires_at: float | None = None
    """When it ends, in seconds since the epoch; None for never."""
    info: str | None = None
    """Information about the subscriber that others see, as JSON."""
    data: Any = None
    """Data for the client, sent with the reply."""


# One for all clients without a token.
_NO_GRANTS: Mapping[str, Grant] = MappingProxyType({})


class Identity(msgspec.Struct, frozen=True):
    """The user of a connection, and the other claims of its token."""

    user: Any = msgspec.field(default_factory=anonymous_user)
    user_id: str = ""
    """The primary key as text; empty for an anonymous user."""
    info: str | None = None
    """Information about the client that others see, as JSON."""
    expires_at: float | None = None
    """When the connection needs another token, in seconds since the epoch."""
    topics: Mapping[str, Grant] = _NO_GRANTS
    """The topics that its token subscribes it to."""
    session_key: str = ""
    """Key of the Django session that identifies it; empty with a token."""


async def identity_of(scope: Scope, token: str) -> Identity:
    """Return the identity of the token, or else of the session; it may be anonymous.

    Args:
        scope: of the connection, from ``AuthMiddlewareStack``.
        token: a connection token or a ticket; empty for none.

    Raises:
        TokenExpired: when the token has expired.
        TokenInvalid: when it is not valid, or its user does not exist or is inactive.
    """
    if not token:
        return await _from_session(scope)
    claims = await identify(token)
    return Identity(
        user=await _user(claims.user_id),
        user_id=claims.user_id,
        info=_info(claims.info),
        expires_at=claims.expires_at,
        topics={name: _grant_of(claims.subs.get(name, {})) for name in claims.channels},
    )


def subscription_grant(token: str, identity: Identity, name: str) -> Grant:
    """Return what a subscription token or a signed name grants for a topic.

    Raises:
        TokenExpired, TokenNotYetValid: when its time is over, or has not begun.
        TokenInvalid: when it is not valid, or for another user or topic.
    """
    if not token.startswith(f"{name}--"):
        claims = read_subscription_token(token, user_id=identity.user_id, channel=name)
        return Grant(claims.expires_at, _info(claims.info))
    signed = read_signed_name(token, user=identity.user)
    if signed.topic != name:
        raise TokenInvalid("it is for another topic")
    return Grant(signed.expires_at)


def _grant_of(options: Any) -> Grant:
    """Return what the options of one topic in the claim ``subs`` grant."""
    if not isinstance(options, dict) or options.keys() - {"info", "data"}:
        raise TokenInvalid("its claim 'subs' has other options than 'info' and 'data'")
    return Grant(info=_info(options.get("info")), data=options.get("data"))


def _info(value: Any) -> str | None:
    return None if value is None else to_json(value)


async def _from_session(scope: Scope) -> Identity:
    user = scope.get("user")
    if user is None:
        return Identity()
    known = unwrap_lazy(user)
    if known is empty:
        pk = await database_sync_to_async(_pk)(user)  # a query
    else:
        pk = _pk(known)
    key = session_key_of(scope) if pk != "" else ""
    return Identity(user=user, user_id=str(pk), session_key=key)


def _pk(user: Any) -> Any:
    return user.pk if user.is_authenticated else ""


async def _user(user_id: str) -> Any:
    if not user_id:
        return anonymous_user()
    if conf.current().topics.users == "claims":
        return TokenUser(user_id)
    user = await find_user(user_id)
    if user is None:
        raise TokenInvalid("there is no active user with its id")
    return user
