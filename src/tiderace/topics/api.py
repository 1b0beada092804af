"""Publishing from the server's side: views, signals, tasks, commands, consumers.

Every function has a sync form, for code without an event loop, and one that begins
with ``a`` to be awaited. It knows topics and layers, and no connection.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from django.db import transaction

from tiderace import metrics
from tiderace.exceptions import LayerUnavailable
from tiderace.history import Position, Publication
from tiderace.layers import get_channel_layer
from tiderace.layers.names import group_name
from tiderace.presence.tracker import Presence
from tiderace.protocol import codes
from tiderace.protocol.codes import Close
from tiderace.runtime import sync_bridge
from tiderace.topics.names import topic_group, user_group
from tiderace.topics.topic import Topic, declared, to_json

__all__ = [
    "CONNECTIONS_GROUP",
    "HistoryPage",
    "PresenceInfo",
    "aclose_topic",
    "adisconnect",
    "ahistory",
    "apositions",
    "apresence",
    "apresence_stats",
    "apublish",
    "arefresh",
    "asend_to",
    "asubscribe",
    "aunsubscribe",
    "close_topic",
    "control_layer",
    "disconnect",
    "history",
    "layer_of",
    "positions",
    "presence",
    "presence_stats",
    "publish",
    "record_of",
    "refresh",
    "send_to",
    "subscribe",
    "unsubscribe",
]

logger = logging.getLogger("tiderace.topics")

CONNECTIONS_GROUP = group_name("tiderace-connections")
"""The group that every process with connections hears, once for all of them."""


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """What a topic remembers, and where it ends."""

    publications: Sequence[Publication]
    position: Position

    @property
    def messages(self) -> list[Any]:
        """What was published, as plain Python."""
        return [msgspec.json.decode(each.data) for each in self.publications]


@dataclass(frozen=True, slots=True)
class PresenceInfo:
    """Somebody who is there: a connection, or a user with ``Presence.PER_USER``."""

    client: str
    user_id: str
    info: Any


def layer_of(topic: Topic) -> Any:
    """The channel layer that carries ``topic``.

    Raises:
        RuntimeError: when it is not configured, or keeps no streams.
    """
    layer = get_channel_layer(topic.layer)
    if layer is None or not hasattr(layer, "stream_publish"):
        raise RuntimeError(
            f"{topic!r} needs a channel layer with streams under the alias "
            f"{topic.layer!r}; set CHANNEL_LAYERS[{topic.layer!r}]['BACKEND'] to one of "
            "tiderace.layers"
        )
    return layer


def record_of(
    topic: str,
    data: str,
    *,
    info: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A publication as layers carry it."""
    record: dict[str, Any] = {"data": data, "topic": topic, "time": time.time()}
    if info is not None:
        record["info"] = info
    if tags:
        record["tags"] = dict(tags)
    return record


async def apublish(
    topic: str,
    data: Any,
    *,
    key: str = "",
    tags: Mapping[str, str] | None = None,
) -> Position:
    """Publish ``data`` to all subscribers of ``topic``, at once.

    Args:
        topic: its name, ``"room:lobby"``.
        data: anything that JSON can say, a msgspec Struct, dataclass or pydantic model.
            It is not checked against the topic's ``message``: that is for clients.
        key: what was published under the same key in the last five minutes is not
            published again.
        tags: labels that go with it.

    Returns:
        Where it stands in the topic's stream.

    Raises:
        UnknownTopic: when no declared topic has this name.
        TypeError: for data that JSON cannot say.
        LayerUnavailable: when the broker could not be reached in time.
    """
    resolved = declared.resolve(topic)
    record = record_of(topic, to_json(data), tags=tags)
    position: Position = await layer_of(resolved).stream_publish(
        topic_group(topic), record, keep=resolved.keep(), key=key
    )
    return position


def publish(
    topic: str,
    data: Any,
    *,
    key: str = "",
    tags: Mapping[str, str] | None = None,
    using: str | None = None,
) -> Position | None:
    """Publish ``data`` to all subscribers of ``topic``; see ``apublish``.

    Inside ``transaction.atomic()`` it goes out after the commit, as it was when it was
    handed in, and not at all after a rollback; wrong topics and data raise at once. When
    the broker cannot be reached then, it is lost, with an error in the log.

    Args:
        topic, data, key, tags: see ``apublish``.
        using: the database whose transaction is waited for; the default one.

    Returns:
        Where it stands in the stream; None when it waits for a commit.

    Raises:
        RuntimeError: where an event loop runs in this thread; await ``apublish`` there.
        UnknownTopic, TypeError: see ``apublish``.
        LayerUnavailable: outside a transaction, when the broker could not be reached.
    """
    resolved = declared.resolve(topic)
    layer = layer_of(resolved)
    record = record_of(topic, to_json(data), tags=tags)

    def now() -> Position:
        position: Position = layer.sync.stream_publish(
            topic_group(topic), record, keep=resolved.keep(), key=key
        )
        return position

    def after_commit() -> None:
        try:
            now()
        except LayerUnavailable as error:
            # What was saved is saved: who saved it must not see an error for that.
            metrics.PUBLICATIONS_LOST.add()
            logger.error("a publication to %s is lost: %s", topic, error)

    if transaction.get_connection(using).in_atomic_block:
        transaction.on_commit(after_commit, using=using)
        return None
    return now()


async def ahistory(
    topic: str,
    *,
    since: Position | None = None,
    limit: int | None = None,
    reverse: bool = False,
) -> HistoryPage:
    """What ``topic`` remembers, oldest first.

    Args:
        topic: its name.
        since: only what came after it; with ``reverse`` what came before it.
        limit: publications at the most; 0 for the position alone, None for all.
        reverse: newest first.

    Raises:
        UnknownTopic: when no declared topic has this name.
        LayerUnavailable: when the broker could not be reached in time.
    """
    resolved = declared.resolve(topic)
    position, publications = await layer_of(resolved).stream_read(
        topic_group(topic),
        keep=resolved.keep(),
        since=since,
        limit=limit,
        reverse=reverse,
    )
    return HistoryPage(publications, position)


def history(
    topic: str,
    *,
    since: Position | None = None,
    limit: int | None = None,
    reverse: bool = False,
) -> HistoryPage:
    """What ``topic`` remembers; see ``ahistory``."""
    return sync_bridge.call(ahistory, topic, since=since, limit=limit, reverse=reverse)


async def apositions(*topics: str) -> dict[str, Position]:
    """Where the streams of ``topics`` end now.

    Read them before what the page shows is read, and hand them to the template: the
    browser then gets what is published from that moment on, and nothing falls between
    the page and its first subscription.

    Raises:
        UnknownTopic: when no declared topic has one of these names.
        LayerUnavailable: when the broker could not be reached in time.
    """
    return {name: (await ahistory(name, limit=0)).position for name in topics}


def positions(*topics: str) -> dict[str, Position]:
    """Where the streams of ``topics`` end now; see ``apositions``."""
    return sync_bridge.call(apositions, *topics)


async def apresence(topic: str) -> list[PresenceInfo]:
    """Who is there: connections, or users with ``Presence.PER_USER``.

    Raises:
        UnknownTopic: when no declared topic has this name.
        LayerUnavailable: when the broker could not be reached in time.
    """
    resolved = declared.resolve(topic)
    members = await layer_of(resolved).presence.members(
        topic, per_user=resolved.presence is Presence.PER_USER
    )
    return [
        PresenceInfo(
            client,
            member.user,
            None if member.info is None else msgspec.json.decode(member.info),
        )
        for client, member in members.items()
    ]


def presence(topic: str) -> list[PresenceInfo]:
    """Who is there; see ``apresence``."""
    return sync_bridge.call(apresence, topic)


async def apresence_stats(topic: str) -> tuple[int, int]:
    """How many connections and how many users are there; costs the same for any number.

    Raises:
        UnknownTopic: when no declared topic has this name.
        LayerUnavailable: when the broker could not be reached in time.
    """
    resolved = declared.resolve(topic)
    clients, users = await layer_of(resolved).presence.stats(topic)
    return clients, users


def presence_stats(topic: str) -> tuple[int, int]:
    """How many are there; see ``apresence_stats``."""
    return sync_bridge.call(apresence_stats, topic)


# Telling connections what to do


def _user_id(user: Any) -> str:
    pk = getattr(user, "pk", user)
    if pk is None or pk == "":
        raise ValueError(f"{user!r} has no id, so it has no connections to be told of")
    return str(pk)


def control_layer() -> Any:
    """The layer by which connections are told what to do.

    Raises:
        RuntimeError: when there is none.
    """
    layer = get_channel_layer()
    if layer is None or not hasattr(layer, "stream_subscribe"):
        raise RuntimeError(
            "topics need a channel layer of Tiderace's; set "
            "CHANNEL_LAYERS['default']['BACKEND'] to one of tiderace.layers"
        )
    return layer


async def _tell(group: str, event: dict[str, Any]) -> None:
    await control_layer().group_send(group, event)


async def adisconnect(
    user: Any,
    *,
    code: int = codes.CLOSE_KICKED.code,
    reason: str = "",
    client: str = "",
) -> None:
    """Close the connections of ``user``, wherever they are.

    Args:
        user: a user, or its primary key.
        code: from 3500 to 3999 or 4500 to 4999 the clients stay away; after any other
            from 3000 on they come back.
        reason: what they are told.
        client: only this one of the user's connections.

    Raises:
        ValueError: for a code that no application may use.
        LayerUnavailable: when the broker could not be reached in time.
    """
    if not 3000 <= code < 5000:
        raise ValueError(f"{code} is no close code of an application; use 3000 to 4999")
    close = Close(code, reason or codes.CLOSE_KICKED.reason)
    await _tell(
        user_group(_user_id(user)),
        {
            "type": "topics.disconnect",
            "code": close.code,
            "reason": close.reason,
            "client": client,
        },
    )


def disconnect(
    user: Any,
    *,
    code: int = codes.CLOSE_KICKED.code,
    reason: str = "",
    client: str = "",
) -> None:
    """Close the connections of ``user``; see ``adisconnect``."""
    sync_bridge.call(adisconnect, user, code=code, reason=reason, client=client)


async def arefresh(user: Any) -> None:
    """Have the connections of ``user`` prove again who they are, and what they may.

    They come back at once with fresh tokens (3014); what they missed is recovered.
    """
    close = codes.CLOSE_STATE_INVALIDATED
    await adisconnect(user, code=close.code, reason=close.reason)


def refresh(user: Any) -> None:
    """Have the connections of ``user`` prove who they are; see ``arefresh``."""
    sync_bridge.call(arefresh, user)


async def asubscribe(user: Any, topic: str) -> None:
    """Subscribe all connections of ``user`` to ``topic``, without asking permission.

    Raises:
        UnknownTopic: when no declared topic has this name.
    """
    declared.resolve(topic)
    await _tell(
        user_group(_user_id(user)), {"type": "topics.subscribe", "topic": topic}
    )


def subscribe(user: Any, topic: str) -> None:
    """Subscribe all connections of ``user``; see ``asubscribe``."""
    sync_bridge.call(asubscribe, user, topic)


async def aunsubscribe(
    user: Any, topic: str, *, code: int = codes.UNSUBSCRIBED_BY_SERVER.code
) -> None:
    """End the subscriptions of ``user`` to ``topic``.

    Args:
        user: a user, or its primary key.
        topic: its name.
        code: from 2000 to 2499 it is for good; from 2500 the clients subscribe again,
            and permissions are asked anew.

    Raises:
        ValueError: for another code.
    """
    if not 2000 <= code < 3000:
        raise ValueError(f"{code} is no unsubscribe code; use 2000 to 2999")
    await _tell(
        user_group(_user_id(user)),
        {"type": "topics.unsubscribe", "topic": topic, "code": code},
    )


def unsubscribe(
    user: Any, topic: str, *, code: int = codes.UNSUBSCRIBED_BY_SERVER.code
) -> None:
    """End the subscriptions of ``user`` to ``topic``; see ``aunsubscribe``."""
    sync_bridge.call(aunsubscribe, user, topic, code=code)


async def aclose_topic(
    topic: str, *, code: int = codes.UNSUBSCRIBED_BY_SERVER.code, reason: str = ""
) -> None:
    """End all subscriptions to ``topic``, whoever has them.

    Whoever may subscribe may do so again, and its history stays. Pages that listen to
    it by ``connection/events`` are ended too, and come back after five seconds, since
    browsers cannot be told not to.

    Args:
        topic: its name.
        code: from 2000 to 2499 it is for good, as far as clients do of themselves; from
            2500 they subscribe again, and permissions are asked anew.
        reason: what they are told.

    Raises:
        UnknownTopic: when no declared topic has this name.
        ValueError: for another code.
        LayerUnavailable: when the broker could not be reached in time.
    """
    declared.resolve(topic)
    if not 2000 <= code < 3000:
        raise ValueError(f"{code} is no unsubscribe code; use 2000 to 2999")
    await _tell(
        CONNECTIONS_GROUP,
        {
            "type": "end-topic",
            "topic": topic,
            "code": code,
            "reason": reason or codes.UNSUBSCRIBED_BY_SERVER.reason,
        },
    )


def close_topic(
    topic: str, *, code: int = codes.UNSUBSCRIBED_BY_SERVER.code, reason: str = ""
) -> None:
    """End all subscriptions to ``topic``; see ``aclose_topic``."""
    sync_bridge.call(aclose_topic, topic, code=code, reason=reason)


async def asend_to(user: Any, data: Any) -> None:
    """Send ``data`` to all connections of ``user`` that there are now.

    Nothing of it is kept: who is away never gets it. A topic per user (``topics_for``)
    is for what must arrive.
    """
    await _tell(
        user_group(_user_id(user)), {"type": "topics.message", "data": to_json(data)}
    )


def send_to(user: Any, data: Any) -> None:
    """Send ``data`` to all connections of ``user``; see ``asend_to``."""
    sync_bridge.call(asend_to, user, data)
