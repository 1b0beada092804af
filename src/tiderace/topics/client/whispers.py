"""Whispers: messages from one subscriber of a topic to the others, without hooks."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from tiderace.layers.broker import Retention
from tiderace.protocol import codes
from tiderace.protocol.session import Refused
from tiderace.ratelimit import TokenBucket
from tiderace.topics.client.context import ClientContext
from tiderace.topics.declaration.topic import Topic
from tiderace.topics.fanout.dispatcher import WHISPER, ActiveSubscription, TopicEvent
from tiderace.topics.names import events_group
from tiderace.topics.permissions import Action
from tiderace.topics.streams import layer_of

_DEFAULT_RATE = "20/s"
_KEEP_NOTHING = Retention(0, 0.0)


async def whisper(context: ClientContext, name: str, data: Raw) -> None:
    """Send ``data`` to the other subscribers of a topic, with the info of the client.

    The permission is checked at the first whisper of a subscription, and again after the
    user's permissions have changed.

    Raises:
        Refused: when the topic has no whispers, or the client is not subscribed, may
            not whisper, or does so too often.
    """
    subscription = context.subscriptions.get(name)
    if subscription is None or not subscription.active:
        reason = "the client is not subscribed to it"
        raise Refused(codes.PERMISSION_DENIED, reason=reason)
    topic = subscription.topic
    if not topic.whispers:
        kind = type(topic).__name__
        reason = f"{kind} has no whispers; give the class whispers = True"
        raise Refused(codes.NOT_AVAILABLE, reason=reason)
    if _bucket(context, topic).take():
        kind = type(topic).__name__
        reason = f"more whispers than {kind}.whispers = {topic.whispers!r}"
        raise Refused(codes.TOO_MANY_REQUESTS, reason=reason)
    if not subscription.may_whisper:
        await _allow(context, subscription, topic)
    event = TopicEvent(WHISPER, context.info_in(name), data if bytes(data) else _NULL)
    await layer_of(topic).stream_publish(
        events_group(name),
        {"data": msgspec.json.encode(event).decode()},
        keep=_KEEP_NOTHING,
    )


_NULL = Raw(b"null")


async def _allow(
    context: ClientContext, subscription: ActiveSubscription, topic: Topic
) -> None:
    # Set before the check: a change of permissions during the check resets it to False.
    subscription.may_whisper = True
    try:
        await context.require("whisper", topic)
    except BaseException:
        subscription.may_whisper = False
        raise


def _bucket(context: ClientContext, topic: Topic) -> TokenBucket:
    # The bucket belongs to the connection: that of a new subscription would be full.
    rate = topic.whispers if isinstance(topic.whispers, str) else _DEFAULT_RATE
    return context.rate_limit(Action.WHISPER, topic, rate)
