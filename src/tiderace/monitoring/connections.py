"""The open connections of this process, as values to look at, and how to end some.

It knows consumers' connections, topic clients and feeds, and no other process.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from django.utils.functional import LazyObject, empty

from tiderace import conf
from tiderace.asgi import Event, Scope, connection_id, known_user_id, websocket_close
from tiderace.connection import Connection
from tiderace.db import database_sync_to_async
from tiderace.protocol import codes
from tiderace.protocol.codes import Close, Unsubscription
from tiderace.revocation.signals import AuthChanged, Reason
from tiderace.runtime.drain import DrainNotice, OpenConnection, process_drain
from tiderace.security.bearer import CLOSE_FORBIDDEN
from tiderace.topics.client.client import TopicClient
from tiderace.topics.transports.event_feed import EventStream

__all__ = ["ConnectionInfo", "Here", "end_topic", "end_user", "look"]

logger = logging.getLogger("tiderace.monitoring")

# Topics named of one connection, and of one process, the largest.
_TOPICS_OF_ONE = 10
_TOPICS = 100

# Seconds after which a page that listens to a feed may come back.
_RETRY = 5.0


class ConnectionInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """One connection. Nothing in it proves anything: no token, key or query string."""

    id: str
    """What log lines call it; of a topic client, what others know it by."""
    kind: str
    """``websocket`` or ``http`` of a consumer, ``topics``, or ``feed``."""
    path: str
    since: float
    """When it began, in seconds since 1970."""
    user_id: str = ""
    user: str = ""
    consumer: str = ""
    groups: int | None = None
    """How many groups a consumer is in; None where that cannot be known."""
    topics: tuple[str, ...] = ()
    """At most ten of the topics it hears."""
    topic_count: int = 0


class Here(msgspec.Struct, frozen=True, omit_defaults=True):
    """The connections of this process."""

    open: int
    """How many there are."""
    topic_clients: int
    matching: int
    """How many are of the user and the topic that were asked for."""
    seen: tuple[ConnectionInfo, ...]
    """Of these the newest ones."""
    topics: dict[str, int]
    """Subscribers by topic, of the 100 largest."""
    topic_count: int


@dataclass(frozen=True, slots=True)
class _Known:
    """A connection, and what is known of it however it is served."""

    open: OpenConnection
    scope: Scope
    user: Any
    topics: tuple[str, ...]

    @property
    def user_id(self) -> str:
        pk = known_user_id({"user": self.user})
        return "" if pk is None else str(pk)


def look(*, limit: int, user: str = "", topic: str = "") -> Here:
    """The connections of this process, the newest ``limit`` of them one by one.

    Args:
        limit: connections at the most.
        user: only those of the user with this primary key.
        topic: only those that hear this topic.
    """
    everybody = list(_known())
    counts = Counter(name for each in everybody for name in each.topics)
    matching = [
        each
        for each in everybody
        if (not user or each.user_id == user) and (not topic or topic in each.topics)
    ]
    newest = reversed(matching[-limit:]) if limit else ()
    return Here(
        open=len(everybody),
        topic_clients=sum(
            not isinstance(each.open.connection, Connection) for each in everybody
        ),
        matching=len(matching),
        seen=tuple(_seen(each) for each in newest),
        topics=dict(counts.most_common(_TOPICS)),
        topic_count=len(counts),
    )


async def end_user(user: str, reason: str) -> int:
    """Have all connections of a user of this process end; how many there are.

    Topic clients are closed with 3503 and stay away, consumers' sockets with 4403.
    A handler that does not end in ``TIDERACE["DRAIN_GRACE"]`` seconds is cut.
    """
    everybody = list(_known())
    unknown = [each.user for each in everybody if _is_unknown(each.user)]
    if unknown:
        # Whom nobody has looked at yet is loaded now: it may be the one.
        await database_sync_to_async(_load)(unknown)
    theirs = [each for each in everybody if each.user_id == user]
    for each in theirs:
        _soon(each.open, _ending(each.open, reason))
    return len(theirs)


def end_topic(topic: str, why: Unsubscription) -> int:
    """Have all subscriptions to a topic in this process end; how many there are."""
    subscribed = [each for each in _known() if topic in each.topics]
    for each in subscribed:
        connection = each.open.connection
        if isinstance(connection, TopicClient):
            _soon(each.open, _call(connection.unsubscribe, topic, why))
        else:
            _soon(each.open, _call(connection.drain, DrainNotice(_RETRY)))
    return len(subscribed)


class _Ended(AuthChanged):
    """The event that closes a consumer's socket, in turn with what is before it."""

    def __init__(self, reason: str) -> None:
        super().__init__(Reason.LOGGED_OUT)
        # No method has this name, so that no handler stands in its way.
        self["type"] = "server disconnected"
        self["reason"] = reason

    def closing(self) -> dict[str, Any]:
        return websocket_close(CLOSE_FORBIDDEN, self["reason"])


def _ending(open_: OpenConnection, reason: str) -> Callable[[], None]:
    connection = open_.connection
    if isinstance(connection, TopicClient):
        return _call(connection.end, Close(codes.CLOSE_KICKED.code, reason))
    if not isinstance(connection, Connection):
        return _call(connection.drain, DrainNotice(_RETRY))
    if _scope_of(connection).get("type") != "websocket":
        return connection.cut  # a response has no code to end with
    event: Event = _Ended(reason)

    def tell() -> None:
        connection.tell(event)
        grace = conf.current().drain_grace
        open_.loop.call_later(grace, _cut_if_open, open_)

    return tell


def _cut_if_open(open_: OpenConnection) -> None:
    if process_drain.is_open(open_.connection):
        open_.connection.cut()


def _call(function: Callable[..., object], *arguments: Any) -> Callable[[], None]:
    def act() -> None:
        function(*arguments)

    return act


def _soon(open_: OpenConnection, act: Callable[[], None]) -> None:
    def safely() -> None:
        try:
            act()
        except Exception:
            logger.exception("%r could not be ended", open_.connection)

    try:
        open_.loop.call_soon_threadsafe(safely)
    except RuntimeError:
        return  # its loop is closed, and so is it


# What is known of a connection. The attributes of three classes are read here, and
# nowhere else, rather than having each of them describe itself for this page alone.


def _known() -> Iterator[_Known]:
    for open_ in process_drain.connections():
        connection = open_.connection
        if isinstance(connection, Connection):
            scope = _scope_of(connection)
            yield _Known(open_, scope, scope.get("user"), ())
        elif isinstance(connection, TopicClient):
            topics = tuple(connection.joined)
            yield _Known(open_, connection.scope, connection.identity.user, topics)
        elif isinstance(connection, EventStream):
            scope = connection._exchange.scope  # noqa: SLF001
            user = connection._identity.user  # noqa: SLF001
            yield _Known(open_, scope, user, (connection._topic.topic,))  # noqa: SLF001


def _scope_of(connection: Connection) -> Scope:
    return connection._consumer.scope  # noqa: SLF001


def _seen(known: _Known) -> ConnectionInfo:
    connection = known.open.connection
    consumer, groups = "", None
    if isinstance(connection, Connection):
        served = connection._consumer  # noqa: SLF001
        consumer = type(served).__qualname__
        if hasattr(served.channel_layer, "attach"):
            groups = len(connection._mailbox.groups)  # noqa: SLF001
        kind = str(known.scope.get("type", ""))
    else:
        kind = "feed" if isinstance(connection, EventStream) else "topics"
    return ConnectionInfo(
        id=connection.client
        if isinstance(connection, TopicClient)
        else connection_id(known.scope),
        kind=kind,
        path=str(known.scope.get("path", ""))[:200],
        since=known.open.since,
        user_id=known.user_id,
        user=_name(known.user),
        consumer=consumer,
        groups=groups,
        topics=known.topics[:_TOPICS_OF_ONE],
        topic_count=len(known.topics),
    )


def _name(user: Any) -> str:
    if user is None or _is_unknown(user) or known_user_id({"user": user}) is None:
        return ""
    try:
        return str(user.get_username())[:150]
    except Exception:  # of an application's own kind of user
        return ""


def _is_unknown(user: Any) -> bool:
    """Whether a lazy user has not been looked up yet."""
    return issubclass(type(user), LazyObject) and user._wrapped is empty  # noqa: SLF001


def _load(users: list[Any]) -> None:
    for user in users:
        try:
            _ = user.pk
        except Exception as error:
            logger.warning("a connected user could not be looked up: %r", error)
