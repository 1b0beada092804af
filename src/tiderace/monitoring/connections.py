"""Lists the open connections of this process, and ends those of a user or a topic."""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import msgspec
from django.utils.functional import empty

from tiderace import conf
from tiderace.asgi import known_user_id, unwrap_lazy, websocket_close
from tiderace.connection import Connection
from tiderace.db import database_sync_to_async
from tiderace.monitoring.recent_logs import LogLine, recent_records
from tiderace.protocol import codes
from tiderace.protocol.codes import Close, Unsubscription
from tiderace.revocation.account_state import Reason
from tiderace.revocation.auth_changed import AuthChanged
from tiderace.runtime.connections import (
    ConnectionInfo,
    DescribedConnection,
    DrainNotice,
    OpenConnection,
    process_connections,
)
from tiderace.runtime.futures import call_soon
from tiderace.security.bearer import CLOSE_FORBIDDEN
from tiderace.topics.client.client import TopicClient

logger = logging.getLogger("tiderace.monitoring")

# Topics listed of one connection, and of one process, the largest.
_TOPICS_OF_ONE = 10
_TOPICS = 100

_RECORDS = 20

# Seconds after which a page may connect to an event stream again.
_RETRY = 5.0


class ProcessReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """The connections of one process, and its last warnings and errors."""

    process: str
    """The layer's name for it, as in ``ProcessStats.process``."""
    host: str
    pid: int
    open: int
    """The number of connections."""
    topic_clients: int
    matching: int
    """The number of connections of the requested user and topic."""
    connections: tuple[ConnectionInfo, ...]
    """The newest of these."""
    topics: dict[str, int]
    """Subscribers by topic, of the 100 largest."""
    topic_count: int
    recent: tuple[LogLine, ...]
    """The last warnings and errors, the newest first."""

    @property
    def name(self) -> str:
        """Host and process id."""
        return f"{self.host}:{self.pid}"


def report(
    process: str, *, limit: int, user: str = "", topic: str = ""
) -> ProcessReport:
    """Describe this process.

    Args:
        process: the layer's name for it; empty without a layer.
        limit: the number of connections listed.
        user: list only connections of the user with this primary key.
        topic: list only connections that are subscribed to this topic.
    """
    everything = _described()
    counts = Counter(name for _, each in everything for name in each.topics)
    matching = [
        (opened, each)
        for opened, each in everything
        if (not user or _user_id(each) == user) and (not topic or topic in each.topics)
    ]
    newest = reversed(matching[-limit:]) if limit else ()
    return ProcessReport(
        process,
        socket.gethostname(),
        os.getpid(),
        open=len(everything),
        topic_clients=sum(not isinstance(each, Connection) for _, each in everything),
        matching=len(matching),
        connections=tuple(_info(opened, each) for opened, each in newest),
        topics=dict(counts.most_common(_TOPICS)),
        topic_count=len(counts),
        recent=tuple(recent_records.latest(_RECORDS)),
    )


async def disconnect_user(user: str, reason: str) -> int:
    """Close all connections of a user in this process; return their number.

    Topic clients are closed with 3503 and do not reconnect, consumers' sockets with
    4403. A handler that does not end within ``TIDERACE["DRAIN_GRACE"]`` seconds is
    cancelled.
    """
    everything = _described()
    unloaded = [each.user for _, each in everything if unwrap_lazy(each.user) is empty]
    if unloaded:
        # One of them may be the user.
        await database_sync_to_async(_load)(unloaded)
    matching = [opened for opened, each in everything if _user_id(each) == user]
    for opened in matching:
        _call_soon(opened, partial(_disconnect, opened, reason))
    return len(matching)


def close_topic(topic: str, why: Unsubscription) -> int:
    """End all subscriptions to a topic in this process; return their number."""
    subscribed = [(o, each) for o, each in _described() if topic in each.topics]
    for opened, each in subscribed:
        if isinstance(each, TopicClient):
            _call_soon(opened, partial(each.subscriptions.end, topic, why))
        else:
            _call_soon(opened, partial(each.drain, DrainNotice(_RETRY)))
    return len(subscribed)


class _DisconnectEvent(AuthChanged):
    """The event that closes a consumer's socket after the handlers before it."""

    def __init__(self, reason: str) -> None:
        super().__init__(Reason.LOGGED_OUT)
        # No method has this name, so no handler replaces the closing.
        self["type"] = "server disconnected"
        self["reason"] = reason

    def closing(self) -> dict[str, Any]:
        return websocket_close(CLOSE_FORBIDDEN, self["reason"])


def _disconnect(opened: OpenConnection, reason: str) -> None:
    connection = opened.connection
    if isinstance(connection, TopicClient):
        connection.end(Close(codes.CLOSE_KICKED.code, reason))
    elif not isinstance(connection, Connection):
        connection.drain(DrainNotice(_RETRY))
    elif not connection.is_websocket:
        connection.cut()  # a response has no code to end with
    else:
        connection.queue_event(_DisconnectEvent(reason))
        grace = conf.current().drain_grace
        opened.loop.call_later(grace, _cut_if_open, connection)


def _cut_if_open(connection: Connection) -> None:
    if connection in process_connections:
        connection.cut()


def _call_soon(opened: OpenConnection, act: Callable[[], object]) -> None:
    def safely() -> None:
        try:
            act()
        except Exception:
            logger.exception("%r could not be ended", opened.connection)

    call_soon(opened.loop, safely)


def _described() -> list[tuple[OpenConnection, DescribedConnection]]:
    return [
        (opened, cast("DescribedConnection", opened.connection))
        for opened in process_connections
        if hasattr(opened.connection, "describe")
    ]


def _info(opened: OpenConnection, connection: DescribedConnection) -> ConnectionInfo:
    topics = connection.topics
    return msgspec.structs.replace(
        connection.describe(),
        since=opened.since,
        user_id=_user_id(connection),
        user=_username(connection.user),
        topics=topics[:_TOPICS_OF_ONE],
        topic_count=len(topics),
    )


def _user_id(connection: DescribedConnection) -> str:
    pk = known_user_id({"user": connection.user})
    return "" if pk is None else str(pk)


def _username(user: Any) -> str:
    if (
        user is None
        or unwrap_lazy(user) is empty
        or known_user_id({"user": user}) is None
    ):
        return ""
    try:
        return str(user.get_username())[:150]
    except Exception:  # an application's own kind of user
        return ""


def _load(users: list[Any]) -> None:
    for user in users:
        try:
            _ = user.pk
        except Exception as error:
            logger.warning("a connected user could not be looked up: %r", error)
