"""Decides whether a topic client may subscribe to a topic, and until when."""

from __future__ import annotations

import logging

from tiderace.exceptions import TokenExpired, TokenInvalid, TokenNotYetValid
from tiderace.protocol import codes
from tiderace.protocol.messages import SubscribeRequest
from tiderace.protocol.session import Refused
from tiderace.topics.client.context import ClientContext
from tiderace.topics.tokens import read_signed_name, read_subscription_token
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
    if request.token:
        return read_token(context, request.token, topic.topic)
    if topic.require_token:
        raise Refused(codes.PERMISSION_DENIED)
    await context.require("subscribe", topic)
    return None


def read_token(context: ClientContext, token: str, name: str) -> float | None:
    """Return when a subscription token or signed name expires; None for never.

    Raises:
        Refused: when it is invalid or has expired.
    """
    identity = context.identity
    try:
        if not token.startswith(f"{name}--"):
            claims = read_subscription_token(
                token, user_id=identity.user_id, channel=name
            )
            return claims.expires_at
        signed = read_signed_name(token, user=identity.user)
        if signed.topic != name:
            raise TokenInvalid("it is for another topic")
        return signed.expires_at
    except TokenExpired:
        raise Refused(codes.TOKEN_EXPIRED) from None
    except TokenNotYetValid:
        raise Refused(codes.TOKEN_NOT_YET_VALID) from None
    except TokenInvalid as invalid:
        logger.info("a token for %r is refused: %s", name, invalid)
        raise Refused(codes.PERMISSION_DENIED) from None
