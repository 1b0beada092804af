"""The commands of a topic client that leave the connection as it is.

Each takes the client's context and the request, and returns the result for the reply.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from msgspec import Raw

from tiderace.asgi import Scope, describe
from tiderace.exceptions import LayerUnavailable
from tiderace.json_compat import to_json
from tiderace.presence.tracker import Presence
from tiderace.protocol import codes
from tiderace.protocol.codes import Failure
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
from tiderace.protocol.session import ConnectionEnded, Refused
from tiderace.ratelimit import Rate, TokenBucket
from tiderace.security.addresses import client_ip, limit_key
from tiderace.topics.client.context import ClientContext
from tiderace.topics.hooks import call_hook
from tiderace.topics.json_fields import as_bytes, as_python, as_raw, read_fields
from tiderace.topics.names import publication_key, topic_group
from tiderace.topics.streams import layer_of, presence_result, read_history, record_of
from tiderace.topics.topic import Refuse, Topic, UnknownTopic, call_with, rpc_method

logger = logging.getLogger("tiderace.topics")


@contextmanager
def errors_as_refusals(name: str, scope: Scope) -> Iterator[None]:
    """Turn what a command raises into the error of its reply, and log it.

    Raises:
        Refused: to answer with an error.
        ConnectionEnded: to close the connection.
    """
    try:
        yield
    except (Refused, ConnectionEnded):
        raise
    except Refuse as refuse:
        raise Refused(refuse.failure) from None
    except UnknownTopic as unknown:
        logger.info("%s (%s)", unknown, describe(scope))
        raise Refused(codes.UNKNOWN_TOPIC) from None
    except LayerUnavailable as error:
        logger.warning("a command %s failed: %s", name, error)
        raise Refused(codes.INTERNAL) from None
    except Exception:
        logger.exception("a command %s failed (%s)", name, describe(scope))
        raise Refused(codes.INTERNAL) from None


# Publishing


async def _publish(context: ClientContext, request: PublishRequest) -> Empty:
    if request.type:
        raise Refused(codes.NOT_AVAILABLE, "type is not served")
    await _publish_to(context, request.channel, as_bytes(request.data))
    return Empty()


async def _publish_to(
    context: ClientContext, name: str, data: bytes, key: str = ""
) -> None:
    topic = await context.topic(name)
    if not data:
        raise Refused(codes.BAD_REQUEST)
    _limit_rate(context, topic)
    await context.require("publish", topic)
    layer = layer_of(topic)
    await _limit_user(context, topic, layer)
    if not key:
        await _publish_now(context, topic, data)
        return
    key = publication_key(key, user_id=context.identity.user_id)

    async def publish() -> None:
        # Else the hook has run already, and only the reply was lost.
        if await layer.stream_find_published(topic_group(name), key) is None:
            await _publish_now(context, topic, data, key)

    # Not by the layer alone: a client may retry while the hook is still running.
    await context.publishing.do((name, key), publish)


async def _publish_now(
    context: ClientContext, topic: Topic, data: bytes, key: str = ""
) -> None:
    message = topic.checked(data)
    if topic.on_publish is None:
        text = to_json(message) if topic.message is not None else data.decode()
    else:
        message = await call_hook(topic.on_publish, context.identity.user, message)
        if message is None:
            return
        text = to_json(message)
    info = msgspec.json.encode(context.info_in(topic.topic)).decode()
    await layer_of(topic).stream_publish(
        topic_group(topic.topic),
        record_of(topic.topic, text, info=info),
        keep=topic.keep(),
        key=key,
    )


def _limit_rate(context: ClientContext, topic: Topic) -> None:
    if topic.publish_rate is None:
        return
    bucket = context.publish_buckets.get(type(topic))
    if bucket is None:
        bucket = TokenBucket(Rate.parse(topic.publish_rate))
        context.publish_buckets[type(topic)] = bucket
    if bucket.take():
        raise Refused(codes.TOO_MANY_REQUESTS)


async def _limit_user(context: ClientContext, topic: Topic, layer: Any) -> None:
    if topic.user_rate is None:
        return
    owner = context.identity.user_id
    if not owner:
        address = client_ip(context.scope)
        owner = "anonymous:" + ("" if address is None else limit_key(address))
    # One bucket for all topics of the class: else each name would have a limit of its own.
    kind = type(topic)
    key = f"publish:{kind.__module__}.{kind.__qualname__}:{owner}"
    if await layer.take_token(key, Rate.parse(topic.user_rate)):
        raise Refused(codes.TOO_MANY_REQUESTS)


# Reading


async def _history(context: ClientContext, request: HistoryRequest) -> HistoryResult:
    topic = await context.topic(request.channel)
    if topic.history is None:
        raise Refused(codes.NOT_AVAILABLE)
    await context.require("history", topic)
    return await read_history(topic, request)


async def _presence(context: ClientContext, request: TopicRequest) -> PresenceResult:
    topic = await _topic_with_presence(context, request.channel)
    # One read serves all clients that ask at the same time.
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
        raise Refused(codes.NOT_AVAILABLE)
    await context.require("presence", topic)
    return topic


# Calls and messages


class _PublishCall(msgspec.Struct):
    channel: str
    data: Raw
    key: str = ""


class _TopicCall(msgspec.Struct):
    channel: str
    method: str
    data: Raw = Raw(b"")


async def _rpc(context: ClientContext, request: RPCRequest) -> DataMessage:
    """Run a call; ``$publish`` and ``$call`` are sent by Tiderace's own clients."""
    data = as_bytes(request.data)
    result: Any = None
    if request.method == "$publish":
        publish = read_fields(data, _PublishCall)
        await _publish_to(context, publish.channel, bytes(publish.data), publish.key)
    elif request.method == "$call":
        call = read_fields(data, _TopicCall)
        topic = await context.topic(call.channel)
        result = await _call(context, rpc_method(topic, call.method), bytes(call.data))
    else:
        result = await _call(context, rpc_method(context.hooks, request.method), data)
    return DataMessage(data=as_raw(result, always=True))


async def _call(
    context: ClientContext, method: Callable[..., Any] | None, data: bytes
) -> Any:
    if method is None:
        raise Refused(codes.METHOD_NOT_FOUND)
    arguments = call_with(method, context.identity.user, data)
    try:
        async with asyncio.timeout(context.settings.call_timeout):
            return await call_hook(method, **arguments)
    except TimeoutError:
        raise Refused(Failure(100, "the call took too long", temporary=True)) from None


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
"""By the names that requests and results have in the protocol."""
