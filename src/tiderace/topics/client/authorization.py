"""Decides whether a topic client may subscribe to a topic, and until when."""

from __future__ import annotations

import logging

from tiderace.exceptions import TokenExpired, TokenInvalid, TokenNotYetValid
from tiderace.protocol import codes
from tiderace.protocol.session import Refused
from tiderace.topics.client.context import ClientContext
from tiderace.topics.identity import Grant, subscription_grant
from tiderace.topics.topic import Topic

__all__ = ["authorize", "read_token"]

logger = logging.getLogger("tiderace.topics")


async def authorize(context: ClientContext, topic: Topic, token: str) -> Grant | None:
    """Return what the token grants; None where the topic's permissions allow it.

    Raises:
        Refused: when there is no permission.
    """
    if token:
        return read_token(context, token, topic.topic)
    if topic.require_token:
        raise Refused(codes.PERMISSION_DENIED)
    await context.require("subscribe", topic)
    return None


def read_token(context: ClientContext, token: str, name: str) -> Grant:
    """Return what a subscription token or signed name grants.

    Raises:
        Refused: when it is not valid now.
    """
    try:
        return subscription_grant(token, context.identity, name)
    except TokenExpired:
        raise Refused(codes.TOKEN_EXPIRED) from None
    except TokenNotYetValid:
        raise Refused(codes.TOKEN_NOT_YET_VALID) from None
    except TokenInvalid as invalid:
        logger.info("a token for %r is refused: %s", name, invalid)
        raise Refused(codes.PERMISSION_DENIED) from None
