"""Decides whether a topic client may subscribe to a topic, and until when."""

from __future__ import annotations

import logging

from tiderace.exceptions import TokenExpired, TokenInvalid
from tiderace.protocol import codes
from tiderace.protocol.messages import SubscribeRequest
from tiderace.protocol.session import Refused
from tiderace.topics.client.context import ClientContext
from tiderace.topics.tokens import read_subscription_token, verified_topic
from tiderace.topics.topic import Topic

__all__ = ["authorize", "read_token"]

logger = logging.getLogger("tiderace.topics")


async def authorize(
    context: ClientContext, topic: Topic, request: SubscribeRequest
) -> float | None:
    """Return when the permission to subscribe expires; None for never.

    Raises:
        Refused: when there is none.
    """
    name = topic.topic
    if request.token.startswith(f"{name}--"):
        _check_signed_name(context, request.token, name)
        return None
    if request.token:
        return read_token(context, request.token, name)
    if topic.require_token:
        raise Refused(codes.PERMISSION_DENIED)
    await context.require("subscribe", topic)
    return None


def read_token(context: ClientContext, token: str, name: str) -> float | None:
    """Return when a subscription token expires; None for never.

    Raises:
        Refused: when it is invalid or has expired.
    """
    try:
        claims = read_subscription_token(
            token, user_id=context.identity.user_id, channel=name
        )
    except TokenExpired:
        raise Refused(codes.TOKEN_EXPIRED) from None
    except TokenInvalid as invalid:
        logger.info("a subscription token for %r is refused: %s", name, invalid)
        raise Refused(codes.PERMISSION_DENIED) from None
    expires_at: float | None = claims.expires_at
    return expires_at


def _check_signed_name(context: ClientContext, signed: str, name: str) -> None:
    """Return if a template of this site has signed the topic's name for this user.

    Raises:
        Refused: if not, or if the signature is too old.
    """
    try:
        verified = verified_topic(signed, user=context.identity.user)
    except TokenExpired:
        raise Refused(codes.TOKEN_EXPIRED) from None
    except TokenInvalid as invalid:
        logger.info("a signed name for %r is refused: %s", name, invalid)
        raise Refused(codes.PERMISSION_DENIED) from None
    if verified != name:
        raise Refused(codes.PERMISSION_DENIED)
