"""Reads and writes topics in their layers, in the form that clients get."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tiderace import conf
from tiderace.history import Position
from tiderace.layers.manager import get_channel_layer, layer_attribute
from tiderace.presence.store import Member
from tiderace.presence.tracker import Presence
from tiderace.protocol import codes
from tiderace.protocol.messages import (
    HistoryRequest,
    HistoryResult,
    PresenceResult,
    SubscribeRequest,
    SubscribeResult,
)
from tiderace.protocol.session import Refused, Subscription, to_pub
from tiderace.topics.declaration.topic import Topic
from tiderace.topics.json_fields import checked_tags, client_info, data_as_json
from tiderace.topics.names import topic_group
from tiderace.topics.positions import (
    client_position,
    is_signed,
    layer_position,
    recoverable_position,
)

# How often a stream is read again when publications were lost while it was read.
_TRIES = 5


def layer_of(topic: Topic) -> Any:
    """Return the channel layer of ``topic``.

    Raises:
        RuntimeError: when it is not configured, or has no streams.
    """
    layer = get_channel_layer(topic.layer)
    if layer_attribute(layer, "stream_publish") is None:
        raise RuntimeError(
            f"{topic!r} needs a channel layer with streams under the alias "
            f"{topic.layer!r}; set CHANNEL_LAYERS[{topic.layer!r}]['BACKEND'] to one of "
            "tiderace.layers"
        )
    return layer


def control_layer() -> Any:
    """Return the layer that carries commands to connections.

    Raises:
        RuntimeError: when there is none.
    """
    layer = get_channel_layer()
    if layer_attribute(layer, "stream_subscribe") is None:
        raise RuntimeError(
            "topics need a channel layer of Tiderace's; set "
            "CHANNEL_LAYERS['default']['BACKEND'] to one of tiderace.layers"
        )
    return layer


def without_history(topic: Topic) -> str:
    """Return the error text for a topic without a history."""
    return (
        f"{type(topic).__name__} keeps no history; give the class "
        "history = History(size=100, ttl=300)"
    )


def without_presence(topic: Topic) -> str:
    """Return the error text for a topic without presence."""
    return (
        f"{type(topic).__name__} has no presence; give the class "
        "presence = Presence.PER_USER or Presence.PER_CONNECTION"
    )


def encoded(topic: Topic, data: Any) -> str | bytes:
    """Return data for a topic in the form in which layers carry it: JSON, or bytes.

    Raises:
        TypeError: for data of another kind.
    """
    if not topic.is_binary():
        return data_as_json(data, f"topic {topic.topic!r}")
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(
            f"the data for topic {topic.topic!r} is a {type(data).__qualname__}, and "
            f"{type(topic).__name__}.message is bytes; pass bytes"
        )
    return bytes(data)


def record_of(
    topic: str,
    data: str | bytes,
    *,
    info: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return a publication in the form in which layers carry it.

    Raises:
        TypeError: for tags that are no strings.
    """
    record: dict[str, Any] = {"data": data, "topic": topic, "time": time.time()}
    if info is not None:
        record["info"] = info
    if tags:
        record["tags"] = checked_tags(tags, topic)
    return record


async def read_history(topic: Topic, request: HistoryRequest) -> HistoryResult:
    """Return the part of a topic's history that a client requests.

    Raises:
        Refused: when the position is of another epoch.
        LayerUnavailable: when the broker could not be reached in time.
    """
    since = request.since
    position = None
    if since is not None:
        position = layer_position(topic, Position(since.epoch, since.offset))
    top, publications = await layer_of(topic).stream_read(
        topic_group(topic.topic),
        keep=topic.keep(),
        since=position,
        limit=request.limit if request.limit >= 0 else None,
        reverse=request.reverse,
    )
    if position is not None and position.epoch not in ("", top.epoch):
        raise Refused(codes.UNRECOVERABLE)
    return HistoryResult(
        publications=[to_pub(each) for each in publications],
        epoch=client_position(topic, top).epoch,
        offset=top.offset,
    )


async def start_stream(
    subscription: Subscription,
    topic: Topic,
    request: SubscribeRequest,
    may_read_history: Callable[[], Awaitable[bool]],
    *,
    follows: Callable[[Position], bool] | None = None,
) -> tuple[SubscribeResult, Position]:
    """Read the publications that a subscriber has missed; it listens already.

    Args:
        subscription: buffers the publications that arrive meanwhile.
        topic: the topic.
        request: the subscriber's request, with its position.
        may_read_history: awaited only for a position that the server has not given, and
            where the topic rewinds.
        follows: returns whether the publications of a feed follow a position without a
            gap; None where the subscription buffers them itself.

    Returns:
        The reply, and the end of the stream when it was read, both as clients get them.

    Raises:
        Refused: when publications were lost each time, or when the missed ones cannot be
            recovered and the client prefers an error then.
        LayerUnavailable: when the broker could not be reached in time.
    """
    since, rewinds, signed = None, False, is_signed(topic)
    if request.recover:
        since = Position(request.epoch, request.offset)
        if signed:
            since = await recoverable_position(topic, since, may_read_history)
            request.epoch, request.offset = since.epoch, since.offset
    elif topic.rewind:
        rewinds = await may_read_history()
    recovered = conf.current().topics.recovered
    top, kept = Position("", 0), ()
    for _ in range(_TRIES):
        if rewinds:
            limit = topic.rewind
        else:
            # One more than may be recovered, to detect that there are too many.
            limit = 0 if topic.history is None or since is None else recovered + 1
        if topic.history is not None or request.recover:
            top, kept = await layer_of(topic).stream_read(
                topic_group(topic.topic),
                keep=topic.keep(),
                since=None if rewinds else since,
                limit=limit,
                reverse=rewinds,
            )
        if topic.history is None:
            return SubscribeResult(), top
        if rewinds:
            result = subscription.build_reply(request, top, newest=kept[::-1])
        else:
            result = subscription.build_reply(request, top, kept, limit=recovered)
            incomplete = result is not None and request.recover and not result.recovered
            if incomplete and topic.rewind and await may_read_history():
                rewinds = True
                continue
        if result is not None and (follows is None or follows(top)):
            if topic.deliver is not None and result.publications:
                result.publications = topic.deliver.newest(result.publications)
            if signed:
                start = Position(result.epoch, result.offset)
                result.epoch = client_position(topic, start).epoch
                top = client_position(topic, top)
            return result, top
    raise Refused(codes.INTERNAL)


async def members_of(topic: Topic) -> dict[str, Member]:
    """Return the members of a topic by client, or by user with ``PER_USER``."""
    members: dict[str, Member] = await layer_of(topic).presence.members(
        topic.topic, per_user=topic.presence is Presence.PER_USER
    )
    return members


def presence_result(members: Mapping[str, Member]) -> PresenceResult:
    """Return members in the form in which clients get them."""
    presence = {
        client: client_info(member.user, client, member.info)
        for client, member in members.items()
    }
    return PresenceResult(presence=presence)
