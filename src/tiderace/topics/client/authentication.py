"""Authenticates a topic client, and decides to which topics it may subscribe."""

from __future__ import annotations

import logging
from typing import Any

from msgspec.structs import replace

from tiderace.asgi import Scope
from tiderace.exceptions import TokenExpired, TokenInvalid, TokenNotYetValid
from tiderace.json_compat import to_json
from tiderace.protocol import codes
from tiderace.protocol.messages import ConnectRequest
from tiderace.protocol.session import ConnectionEnded, Refused
from tiderace.ratelimit import TokenBucket
from tiderace.topics.client.context import ClientContext
from tiderace.topics.declaration.topic import Topic, declared
from tiderace.topics.hooks import call_hook
from tiderace.topics.identity import (
    Grant,
    Identity,
    identity_of,
    subscription_grant,
)
from tiderace.topics.json_fields import as_python

logger = logging.getLogger("tiderace.topics")

_HEADERS = frozenset({b"accept-language", b"authorization"})


def admit(connects: TokenBucket | None) -> None:
    """Count one connection against the rate of the setting ``CONNECTS``.

    Raises:
        Refused: when the rate is exceeded, so that the client tries again later.
    """
    if connects is not None and connects.take():
        raise Refused(codes.TOO_MANY_REQUESTS)


async def authenticate(context: ClientContext, request: ConnectRequest) -> Any:
    """Set the identity of a client; return the application's data for the reply.

    Raises:
        Refused: beyond the rate of connections, or without a user where one is needed.
        ConnectionEnded: when its token is invalid.
    """
    hooks, scope = context.hooks, context.scope
    admit(context.connects)
    _merge_headers(scope, request.headers)
    identity = await _identify(scope, request.token)
    if not identity.user_id and not context.settings.anonymous:
        reason = "nobody is logged in, and TIDERACE['TOPICS']['ANONYMOUS'] is False"
        raise Refused(codes.UNAUTHORIZED, reason=reason)
    if identity.info is None:
        info = await call_hook(hooks.user_info, identity.user, scope)
        if info is not None:
            identity = replace(identity, info=to_json(info))
    context.identity = identity
    return await call_hook(hooks.on_connect, identity.user, as_python(request.data))


async def refresh(context: ClientContext, token: str) -> None:
    """Renew the identity of a client by a newer token.

    Raises:
        Refused: when there is no token, or an expired one.
        ConnectionEnded: when it is invalid, or another user's.
    """
    if not token:
        raise Refused(codes.BAD_REQUEST)
    identity = await _identify(context.scope, token)
    if identity.user_id != context.identity.user_id:
        raise ConnectionEnded(codes.CLOSE_INVALID_TOKEN, "a token of another user")
    context.identity = replace(context.identity, expires_at=identity.expires_at)


async def server_side_topics(context: ClientContext) -> dict[str, Grant | None]:
    """Return the topics to subscribe a client to, and what its token grants for them."""
    topics: dict[str, Grant | None] = dict(context.identity.topics)
    for kind in declared.with_topics_for:
        for name in await call_hook(kind.topics_for, context.identity.user):
            topics.setdefault(name, None)
    return topics


async def authorize(context: ClientContext, topic: Topic, token: str) -> Grant | None:
    """Return what the token grants; None where the topic's permissions allow to subscribe.

    Raises:
        Refused: when there is no permission.
    """
    if token:
        return read_token(context, token, topic.topic)
    if topic.require_token:
        reason = f"{type(topic).__name__}.require_token is True, and no token was sent"
        raise Refused(codes.PERMISSION_DENIED, reason=reason)
    await context.require("subscribe", topic)
    return None


def read_token(context: ClientContext, token: str, name: str) -> Grant:
    """Return what a subscription token or signed name grants.

    Raises:
        Refused: when it is not valid now.
    """
    try:
        return subscription_grant(token, context.identity, name)
    except TokenInvalid as invalid:
        _refuse_at_this_time(invalid)
        reason = f"its token is invalid: {invalid}"
        raise Refused(codes.PERMISSION_DENIED, reason=reason) from None


async def _identify(scope: Scope, token: str) -> Identity:
    try:
        return await identity_of(scope, token)
    except TokenInvalid as invalid:
        _refuse_at_this_time(invalid)
        raise ConnectionEnded(codes.CLOSE_INVALID_TOKEN, f"token: {invalid}") from None


def _refuse_at_this_time(invalid: TokenInvalid) -> None:
    """Raise Refused for a token that has expired, or that is not valid yet."""
    if isinstance(invalid, TokenExpired):
        raise Refused(codes.TOKEN_EXPIRED) from None
    if isinstance(invalid, TokenNotYetValid):
        raise Refused(codes.TOKEN_NOT_YET_VALID) from None


def _merge_headers(scope: Any, headers: dict[str, str] | None) -> None:
    """Add the headers in a connect command to those of the request.

    A browser cannot set headers of a WebSocket. Only ``_HEADERS`` are taken, which no
    proxy sets, and only if the request lacks them: a page must not be able to claim
    another origin or address.
    """
    if not headers:
        return
    present = scope.get("headers", ())
    known = {name for name, _ in present}
    more = [
        (name.lower().encode("latin1", "replace"), value.encode("latin1", "replace"))
        for name, value in headers.items()
    ]
    scope["headers"] = [
        *present,
        *(each for each in more if each[0] in _HEADERS and each[0] not in known),
    ]
