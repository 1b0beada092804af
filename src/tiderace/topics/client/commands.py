"""The commands of a topic client that leave the connection as it is.

Each takes the client's context and the request, and returns the result for the reply.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any

import msgspec
from django.conf import settings
from msgspec import Raw

from tiderace.exceptions import RateExceeded
from tiderace.json_compat import one_line_json
from tiderace.presence.tracker import Presence
from tiderace.protocol import codes
from tiderace.protocol.messages import (
    DataMessage,
    Empty,
    HistoryRequest,
    HistoryResult,
    PresenceResult,
    PresenceStatsResult,
    PublishRequest,
    RPCRequest,
    TopicRequest,
)
from tiderace.protocol.session import Refused
from tiderace.ratelimit import Rate
from tiderace.security.addresses import client_ip, limit_key
from tiderace.topics.client.calls import TopicCall, call_method, call_topic
from tiderace.topics.client.context import ClientContext
from tiderace.topics.client.refusals import errors_as_refusals
from tiderace.topics.client.whispers import whisper
from tiderace.topics.declaration.topic import Topic
from tiderace.topics.fanout.filtered import FilteredSubscription, make_gate
from tiderace.topics.hooks import call_hook
from tiderace.topics.json_fields import (
    as_bytes,
    as_python,
    as_raw,
    read_fields,
)
from tiderace.topics.names import publication_key, topic_group
from tiderace.topics.permissions import Action
from tiderace.topics.streams import (
    encoded,
    layer_of,
    presence_result,
    read_history,
    record_of,
    without_history,
    without_presence,
)

logger = logging.getLogger("tiderace.topics")

# The rate limits of users that are cached, since each of their publications needs them.
_CACHED_BUCKETS = 8192

# Publishing


def _publish(context: ClientContext, request: PublishRequest) -> Awaitable[Empty]:
    if request.type:
        raise Refused(codes.NOT_AVAILABLE, "type is not served")
    return _publish_to(context, request.channel, as_bytes(request.data))


async def _publish_to(
    context: ClientContext, name: str, data: bytes, key: str = ""
) -> Empty:
    topic = context.subscribed(name) or await context.topic(name)
    if context.binary and not topic.is_binary():
        data = one_line_json(data)
    if not data:
        raise Refused(codes.BAD_REQUEST)
    if topic.publish_rate is not None:
        _limit_rate(context, topic)
    await context.require("publish", topic)
    layer = layer_of(topic)
    limit = _user_limit(context, topic)
    if key:
        key = publication_key(key, user_id=context.identity.user_id)
    content = _content_without_hook(topic, data)
    if content is not None:
        # One request to the layer limits the user, compares the key and publishes.
        await _append(context, topic, layer, content, key, limit)
        return _EMPTY
    if limit is not None and await layer.take_token(*limit):
        raise _beyond_user_rate(topic)
    if not key:
        await _publish_now(context, topic, layer, data)
        return _EMPTY

    async def publish() -> None:
        # If it is published, the hook has run, and only the reply was lost.
        if await layer.stream_find_published(topic_group(name), key) is None:
            await _publish_now(context, topic, layer, data, key)

    # The key of the layer does not suffice: a client may retry while the hook runs.
    await context.publishing.do((name, key), publish)
    return _EMPTY


_EMPTY = Empty()


async def _publish_now(
    context: ClientContext, topic: Topic, layer: Any, data: bytes, key: str = ""
) -> None:
    if topic.on_publish is None:
        content = _checked_content(topic, data)
    else:
        message = topic.checked(data)
        message = await call_hook(topic.on_publish, context.identity.user, message)
        if message is None:
            _note_unpublished(type(topic))
            return
        content = encoded(topic, message)
    await _append(context, topic, layer, content, key)


def _content_without_hook(topic: Topic, data: bytes) -> str | bytes | None:
    """Return what is published, or None where a hook or an error decides on it.

    Both come after the user's rate limit.
    """
    if topic.on_publish is not None:
        return None
    try:
        return _checked_content(topic, data)
    except Exception:
        return None


def _checked_content(topic: Topic, data: bytes) -> str | bytes:
    message = topic.checked(data)
    return data.decode() if topic.message is None else encoded(topic, message)


async def _append(
    context: ClientContext,
    topic: Topic,
    layer: Any,
    content: str | bytes,
    key: str,
    limit: tuple[str, Rate] | None = None,
) -> None:
    name = topic.topic
    record = record_of(name, content, info=context.info_text_in(name))
    keep = topic.keep()
    try:
        await layer.stream_publish(
            topic_group(name), record, keep=keep, key=key, limit=limit
        )
    except RateExceeded:
        raise _beyond_user_rate(topic) from None


def _note_unpublished(topic: type[Topic]) -> None:
    """Log, under ``DEBUG`` and once for a class, that ``on_publish`` returned None.

    It is not logged where the return annotation includes None, as it is intended then.
    """
    hook: Any = topic.on_publish
    returned = str(getattr(hook, "__annotations__", {}).get("return", ""))
    may_be_none = "None" in returned or "Optional" in returned
    if settings.DEBUG and topic not in _noted and not may_be_none:
        _noted.add(topic)
        logger.warning(
            "%s.on_publish returned None, so nothing was published; return the data, or "
            "annotate the method with -> None",
            topic.__name__,
        )


# The classes that were logged; they live as long as the process anyway.
_noted: set[type[Topic]] = set()


def _limit_rate(context: ClientContext, topic: Topic) -> None:
    rate = str(topic.publish_rate)
    if context.rate_limit(Action.PUBLISH, topic, rate).take():
        reason = _rate_reason(topic, "publish_rate")
        raise Refused(codes.TOO_MANY_REQUESTS, reason=reason)


def _user_limit(context: ClientContext, topic: Topic) -> tuple[str, Rate] | None:
    """Return the key and rate of the bucket from which the client's user takes tokens."""
    if topic.user_rate is None:
        return None
    owner = context.identity.user_id
    if not owner:
        address = client_ip(context.scope)
        owner = "anonymous:" + ("" if address is None else limit_key(address))
    kind = type(topic)
    return _bucket_of(kind.__module__, kind.__qualname__, owner, topic.user_rate)


@lru_cache(maxsize=_CACHED_BUCKETS)
def _bucket_of(module: str, kind: str, owner: str, rate: str) -> tuple[str, Rate]:
    # One bucket for all topics of the class: a client can choose any number of names.
    return f"publish:{module}.{kind}:{owner}", Rate.parse(rate)


def _beyond_user_rate(topic: Topic) -> Refused:
    reason = _rate_reason(topic, "user_rate")
    return Refused(codes.TOO_MANY_REQUESTS, reason=reason)


def _rate_reason(topic: Topic, option: str) -> str:
    kind = type(topic).__name__
    return f"more publications than {kind}.{option} = {getattr(topic, option)!r}"


# Reading


async def _history(context: ClientContext, request: HistoryRequest) -> HistoryResult:
    topic = await context.topic(request.channel)
    if topic.history is None:
        raise Refused(codes.NOT_AVAILABLE, reason=without_history(topic))
    await context.require("history", topic)
    result = await read_history(topic, request)
    subscription = context.subscriptions.get(topic.topic)
    if isinstance(subscription, FilteredSubscription):
        result.publications = await subscription.gate.select(result.publications)
    elif topic.may_receive is not None:
        gate = make_gate(topic, lambda: context.identity.user)
        result.publications = await gate.select(result.publications)
    return result


async def _presence(context: ClientContext, request: TopicRequest) -> PresenceResult:
    topic = await _topic_with_presence(context, request.channel)
    # One read serves all clients that request it at the same time.
    tracker = context.trackers.get(topic.layer)
    return presence_result(await tracker.members(topic.topic, topic.presence))


async def _presence_stats(
    context: ClientContext, request: TopicRequest
) -> PresenceStatsResult:
    topic = await _topic_with_presence(context, request.channel)
    clients, users = await context.trackers.get(topic.layer).stats(topic.topic)
    return PresenceStatsResult(num_clients=clients, num_users=users)


async def _topic_with_presence(context: ClientContext, name: str) -> Topic:
    topic = await context.topic(name)
    if topic.presence is Presence.OFF:
        raise Refused(codes.NOT_AVAILABLE, reason=without_presence(topic))
    await context.require("presence", topic)
    return topic


# Calls and messages


class _PublishCall(msgspec.Struct):
    channel: str
    data: Raw
    key: str = ""


class _Whisper(msgspec.Struct):
    channel: str
    data: Raw = Raw(b"")


async def _rpc(context: ClientContext, request: RPCRequest) -> DataMessage:
    """Run a call; Tiderace's own clients send the methods that begin with ``$``."""
    data = as_bytes(request.data)
    result: Any = None
    if request.method == "$publish":
        publish = read_fields(data, _PublishCall)
        with errors_as_refusals("publish", context.scope, publish.channel):
            data = bytes(publish.data)
            await _publish_to(context, publish.channel, data, publish.key)
    elif request.method == "$whisper":
        sent = read_fields(data, _Whisper)
        with errors_as_refusals("a whisper to", context.scope, sent.channel):
            await whisper(context, sent.channel, sent.data)
    elif request.method == "$call":
        call = read_fields(data, TopicCall)
        with errors_as_refusals("a call of", context.scope, call.channel):
            topic = await context.topic(call.channel)
            result = await call_topic(context, topic, call)
    else:
        result = await call_method(context, context.hooks, request.method, data)
    return DataMessage(data=as_raw(result, always=True))


async def _send(context: ClientContext, request: DataMessage) -> None:
    message = as_python(request.data)
    await call_hook(context.hooks.on_message, context.identity.user, message)


async def _ping(context: ClientContext, request: Empty) -> Empty:
    return Empty()


COMMANDS: dict[str, Callable[[ClientContext, Any], Awaitable[Any]]] = {
    "publish": _publish,
    "history": _history,
    "presence": _presence,
    "presence_stats": _presence_stats,
    "rpc": _rpc,
    "send": _send,
    "ping": _ping,
}
"""Handlers by the name that the request and the result have in the protocol."""
