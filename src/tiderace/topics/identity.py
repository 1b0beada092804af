"""Who a topic client is, by its session, its token or its ticket.

It knows Django's users and the tokens, and no connection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from tiderace import conf
from tiderace.asgi import Scope
from tiderace.db import database_sync_to_async
from tiderace.exceptions import TokenInvalid
from tiderace.revocation.signals import session_key_of
from tiderace.security.tickets import find_user
from tiderace.topics.tokens import identify

__all__ = ["Identity", "TokenUser", "identity_of"]


class TokenUser:
    """A user whom only a token knows, with ``TIDERACE["TOPICS"]["USERS"] = "claims"``.

    It is authenticated and active, has no permissions and no row in the database.
    """

    is_authenticated = True
    is_anonymous = False
    is_active = True
    is_staff = False
    is_superuser = False

    def __init__(self, pk: str) -> None:
        self.pk = self.id = pk

    def get_username(self) -> str:
        """Its id, for it has no name."""
        return str(self.pk)

    def has_perm(self, perm: str, obj: object = None) -> bool:
        """No."""
        return False

    def has_perms(self, perms: Any, obj: object = None) -> bool:
        """No, but for none."""
        return not list(perms)

    def __str__(self) -> str:
        return str(self.pk)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenUser) and self.pk == other.pk

    def __hash__(self) -> int:
        return hash(self.pk)


def _nobody() -> Any:
    # Needs a loaded app registry, which importing topics must not.
    from django.contrib.auth.models import AnonymousUser

    return AnonymousUser()


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a connection belongs to, and what its token says besides."""

    user: Any = field(default_factory=_nobody)
    user_id: str = ""
    """The primary key as text; empty for somebody anonymous."""
    info: str | None = None
    """What others are told of it, as JSON."""
    expires_at: float | None = None
    """When it has to come with another token, in seconds since the epoch."""
    topics: tuple[str, ...] = ()
    """What its token subscribes it to."""
    session_key: str = ""
    """Of the Django session that says who it is; empty where a token does."""


async def identity_of(scope: Scope, token: str) -> Identity:
    """Who connects: the token's user, else the session's, else nobody by name.

    Args:
        scope: of the connection, as ``AuthMiddlewareStack`` leaves it.
        token: a connection token or a ticket; empty for none.

    Raises:
        TokenExpired: when the token's time is over.
        TokenInvalid: when it proves nothing, and when there is no such user (any more).
    """
    if not token:
        return await _by_session(scope)
    said = await identify(token)
    return Identity(
        user=await _user(said.user_id),
        user_id=said.user_id,
        info=None if said.info is None else msgspec.json.encode(said.info).decode(),
        expires_at=said.expires_at,
        topics=said.channels,
    )


async def _by_session(scope: Scope) -> Identity:
    user = scope.get("user") or _nobody()
    # It may be loaded only now, by a query.
    pk = await database_sync_to_async(
        lambda: user.pk if user.is_authenticated else ""
    )()
    key = session_key_of(scope) if pk != "" else ""
    return Identity(user=user, user_id=str(pk), session_key=key)


async def _user(user_id: str) -> Any:
    if not user_id:
        return _nobody()
    if conf.current().topics.users == "claims":
        return TokenUser(user_id)
    user = await find_user(user_id)
    if user is None:
        raise TokenInvalid("there is no active user with its id")
    return user
