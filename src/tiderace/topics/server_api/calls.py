"""The functions to publish, read and send commands from views, tasks and consumers.

Every function has two forms: a coroutine function whose name begins with ``a``, and a
sync one for code without an event loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import DEFAULT_DB_ALIAS, transaction

from tiderace import cluster, conf
from tiderace.db import is_transaction_open
from tiderace.history import Position, Publication
from tiderace.presence.tracker import Presence
from tiderace.protocol import codes
from tiderace.runtime import sync_bridge
from tiderace.topics.declaration.topic import Topic, declared
from tiderace.topics.json_fields import as_python, client_info, data_as_json
from tiderace.topics.names import publication_key, topic_group, user_group
from tiderace.topics.positions import client_position, layer_position
from tiderace.topics.server_api.transactions import (
    PreparedPublication,
    outbox,
    publish_after_commit,
)
from tiderace.topics.streams import (
    control_layer,
    encoded,
    layer_of,
    members_of,
    record_of,
    without_history,
    without_presence,
)


class HistoryPage(msgspec.Struct, frozen=True):
    """Publications in a topic's history, and the position at its end."""

    publications: Sequence[Publication]
    position: Position

    @property
    def messages(self) -> list[Any]:
        """The published data, as plain Python."""
        return [each.value for each in self.publications]


class PresenceInfo(msgspec.Struct, frozen=True):
    """A member of a topic: a connection, or a user with ``Presence.PER_USER``."""

    client: str
    user_id: str
    info: Any
    """Data about the connection; with ``PER_USER``, about the user's first one."""
    chan_info: Any = None
    """Data about the subscription, from its token."""


async def apublish(
    topic: str,
    data: Any,
    *,
    key: str = "",
    tags: Mapping[str, str] | None = None,
    using: str | None = None,
) -> Position | None:
    """Publish ``data`` to all subscribers of ``topic``, at once.

    With ``tiderace.outbox`` installed it is written into the outbox instead when the
    thread of this task's sync code is inside ``transaction.atomic()``, as when a view
    calls async code there. Without the outbox it waits for no transaction.

    Args:
        topic: its name, ``"room:lobby"``.
        data: anything that JSON can express, a msgspec Struct, dataclass or pydantic
            model; bytes for a topic with ``message = bytes``. It is not checked against
            the topic's ``message``: only the data of clients is.
        key: idempotency key: a second publication with the same key within five
            minutes is dropped.
        tags: labels that subscribers get with it.
        using: alias of the database whose transaction and outbox are used.

    Returns:
        Its position in the topic's stream; None when it waits in the outbox.

    Raises:
        UnknownTopic: when no declared topic has this name.
        TypeError: for data that JSON cannot express, or that is not bytes where it has
            to be, and for tags that are no strings.
        LayerUnavailable: when the broker could not be reached in time.
    """
    publication = _prepare(topic, data, key, tags)
    app = outbox()
    if (
        app is not None
        and is_transaction_open(using or DEFAULT_DB_ALIAS)
        and await sync_to_async(app.store)(publication, using)
    ):
        return None
    return await publication.apublish()


async def apublish_at_once(
    topic: str, data: Any, *, key: str = "", tags: Mapping[str, str] | None = None
) -> Position:
    """Publish as ``apublish``, but never into an outbox."""
    return await _prepare(topic, data, key, tags).apublish()


def publish(
    topic: str,
    data: Any,
    *,
    key: str = "",
    tags: Mapping[str, str] | None = None,
    using: str | None = None,
) -> Position | None:
    """Publish ``data`` to all subscribers of ``topic``, after the transaction.

    Inside ``transaction.atomic()`` it is serialized at once and published after the
    commit, or not at all after a rollback; unknown topics and invalid data raise at
    once.

    With ``tiderace.outbox`` installed it is part of the transaction: it is published
    when the transaction is committed, however long the broker is away. Without it, the
    publications of one commit are made together when its ``on_commit`` hooks run, also
    when another hook raises. If the broker cannot be reached then, or the process ends,
    they are lost; unless the process has ended each is logged as an error and counted in
    ``metrics.PUBLICATIONS_LOST``.

    Args:
        topic, data, key, tags: as for ``apublish``.
        using: alias of the database whose transaction is waited for.

    Returns:
        Its position in the stream; None when it waits for a commit.

    Raises:
        RuntimeError: where an event loop runs in this thread; await ``apublish`` there.
        UnknownTopic, TypeError: as for ``apublish``.
        LayerUnavailable: outside a transaction, when the broker could not be reached.
    """
    sync_bridge.require_no_loop("publish", "apublish")
    publication = _prepare(topic, data, key, tags)
    if not transaction.get_connection(using).in_atomic_block:
        return publication.publish()
    app = outbox()
    if app is None or not app.store(publication, using):
        publish_after_commit(publication, using)
    return None


def _prepare(
    topic: str, data: Any, key: str, tags: Mapping[str, str] | None
) -> PreparedPublication:
    resolved = declared.resolve(topic)
    layer_of(resolved)  # raises where the topic cannot work
    record = record_of(topic, encoded(resolved, data), tags=tags)
    return PreparedPublication(resolved, record, publication_key(key))


async def ahistory(
    topic: str,
    *,
    since: Position | None = None,
    limit: int | None = None,
    reverse: bool = False,
) -> HistoryPage:
    """Return the history of ``topic``, oldest first.

    Args:
        topic: its name.
        since: only publications after this position; with ``reverse`` those before it.
        limit: maximum number of publications; 0 for the position alone, None for all.
        reverse: newest first.

    Raises:
        UnknownTopic: when no declared topic has this name.
        ImproperlyConfigured: when its class keeps no history.
        TypeError: when ``since`` is no position.
        LayerUnavailable: when the broker could not be reached in time.
    """
    resolved = declared.resolve(topic)
    if resolved.history is None:
        raise ImproperlyConfigured(
            f"no history of {topic!r}: {without_history(resolved)}"
        )
    if not isinstance(since, Position | None):
        raise TypeError(
            f"since is {since!r}; pass a Position, such as the position of an earlier "
            "result, or Position(epoch, offset)"
        )
    return await _read(resolved, since=since, limit=limit, reverse=reverse)


async def _read(topic: Topic, **options: Any) -> HistoryPage:
    since = options.pop("since", None)
    position, publications = await layer_of(topic).stream_read(
        topic_group(topic.topic),
        keep=topic.keep(),
        since=None if since is None else layer_position(topic, since),
        **options,
    )
    return HistoryPage(publications, client_position(topic, position))


history = sync_bridge.blocking(ahistory)


async def apositions(*topics: str) -> dict[str, Position]:
    """Return the positions at which the streams of ``topics`` end now.

    Read them before the page's own data, and pass them to the template: the browser
    then recovers what is published from that moment on, and nothing is lost between
    the page and its first subscription.

    Raises:
        UnknownTopic: when no declared topic has one of these names.
        LayerUnavailable: when the broker could not be reached in time.
    """
    found = [declared.resolve(name) for name in topics]
    return {each.topic: (await _read(each, limit=0)).position for each in found}


positions = sync_bridge.blocking(apositions)


async def apresence(topic: str) -> list[PresenceInfo]:
    """Return the members: connections, or users with ``Presence.PER_USER``.

    Raises:
        UnknownTopic: when no declared topic has this name.
        ImproperlyConfigured: when its class has no presence.
        LayerUnavailable: when the broker could not be reached in time.
    """
    members = await members_of(_with_presence(topic))
    return [
        PresenceInfo(
            client, member.user, *map(as_python, (info.conn_info, info.chan_info))
        )
        for client, member in members.items()
        for info in [client_info(member.user, client, member.info)]
    ]


presence = sync_bridge.blocking(apresence)


async def apresence_stats(topic: str) -> tuple[int, int]:
    """Return the number of connections and of users, without reading the members.

    Raises:
        UnknownTopic: when no declared topic has this name.
        ImproperlyConfigured: when its class has no presence.
        LayerUnavailable: when the broker could not be reached in time.
    """
    resolved = _with_presence(topic)
    clients, users = await layer_of(resolved).presence.stats(topic)
    return clients, users


presence_stats = sync_bridge.blocking(apresence_stats)


def _with_presence(name: str) -> Topic:
    topic = declared.resolve(name)
    if topic.presence is Presence.OFF:
        raise ImproperlyConfigured(
            f"no presence of {name!r}: {without_presence(topic)}"
        )
    return topic


# Commands to connections


async def _send(user: Any, event: dict[str, Any]) -> None:
    """Send an event to the connections of a user.

    Raises:
        ValueError: for what is neither a user nor a primary key.
    """
    pk = getattr(user, "pk", user)
    if pk is None or pk == "":
        raise ValueError(f"{user!r} has no id, so it has no connections")
    if isinstance(user, str):
        _require_primary_key(user)
    await control_layer().group_send(user_group(str(pk)), event)


def _require_primary_key(text: str) -> None:
    """Raise for a user name or other text that is no primary key.

    With ``"USERS": "claims"`` any text may be an id.

    Raises:
        ValueError: for such a text.
    """
    if conf.current().topics.users == "claims":
        return
    model = get_user_model()
    try:
        model._meta.pk.to_python(text)  # noqa: SLF001 (Django's API)
    except ValidationError:
        raise ValueError(
            f"{text!r} is no primary key of {model._meta.label}, so it has no "  # noqa: SLF001
            "connections; pass the user, or user.pk"
        ) from None


def _require_unsubscribe_code(code: int) -> None:
    if not 2000 <= code < 3000:
        raise ValueError(f"{code} is no unsubscribe code; use 2000 to 2999")


async def adisconnect(
    user: Any,
    *,
    code: int = codes.CLOSE_KICKED.code,
    reason: str = "",
    client: str = "",
) -> None:
    """Close the connections of ``user``, in all processes.

    Args:
        user: a user, or its primary key.
        code: close code. With 3500 to 3999 and 4500 to 4999 clients do not reconnect;
            with any other from 3000 on they do.
        reason: sent to the client with the code.
        client: id of the only connection to close; empty for all of the user's.

    Raises:
        ValueError: for a code outside 3000 to 4999.
        LayerUnavailable: when the broker could not be reached in time.
    """
    if not 3000 <= code < 5000:
        raise ValueError(f"{code} is no close code of an application; use 3000 to 4999")
    reason = reason or codes.CLOSE_KICKED.reason
    event = {"type": "topics.disconnect", "code": code, "reason": reason}
    await _send(user, {**event, "client": client})


disconnect = sync_bridge.blocking(adisconnect)


async def arefresh(user: Any) -> None:
    """Close the connections of ``user`` so that they authenticate and authorize again.

    Their clients reconnect at once (3014), with fresh tokens, and recover what they
    missed.
    """
    close = codes.CLOSE_STATE_INVALIDATED
    await adisconnect(user, code=close.code, reason=close.reason)


refresh = sync_bridge.blocking(arefresh)


async def asubscribe(user: Any, topic: str) -> None:
    """Subscribe all connections of ``user`` to ``topic``, without permission checks.

    Raises:
        UnknownTopic: when no declared topic has this name.
    """
    declared.resolve(topic)
    await _send(user, {"type": "topics.subscribe", "topic": topic})


subscribe = sync_bridge.blocking(asubscribe)


async def aunsubscribe(
    user: Any, topic: str, *, code: int = codes.UNSUBSCRIBED_BY_SERVER.code
) -> None:
    """End the subscriptions of ``user`` to ``topic``.

    Args:
        user: a user, or its primary key.
        topic: its name.
        code: with 2000 to 2499 clients do not subscribe again; with 2500 to 2999 they
            do, and permissions are checked again.

    Raises:
        ValueError: for another code.
    """
    _require_unsubscribe_code(code)
    await _send(user, {"type": "topics.unsubscribe", "topic": topic, "code": code})


unsubscribe = sync_bridge.blocking(aunsubscribe)


async def aclose_topic(
    topic: str, *, code: int = codes.UNSUBSCRIBED_BY_SERVER.code, reason: str = ""
) -> None:
    """End all subscriptions to ``topic``.

    Clients with permission may subscribe again, and the history stays. Pages that use
    ``connection/events`` are disconnected too, and reconnect after five seconds: a
    browser's ``EventSource`` cannot be stopped from the server.

    Args:
        topic: its name.
        code: with 2000 to 2499 clients do not subscribe again by themselves; with 2500
            to 2999 they do, and permissions are checked again.
        reason: sent to the client with the code.

    Raises:
        UnknownTopic: when no declared topic has this name.
        ValueError: for another code.
        LayerUnavailable: when the broker could not be reached in time.
    """
    declared.resolve(topic)
    _require_unsubscribe_code(code)
    control_layer()  # raises where topics cannot work
    reason = reason or codes.UNSUBSCRIBED_BY_SERVER.reason
    payload = {"topic": topic, "code": code, "reason": reason}
    await cluster.current().tell("topics.close", payload)


close_topic = sync_bridge.blocking(aclose_topic)


async def asend_to(user: Any, data: Any) -> None:
    """Send ``data`` to all present connections of ``user``.

    It is not stored: a client that is disconnected never gets it. Use a topic per user
    (``topics_for``) for data that must arrive.
    """
    text = data_as_json(data, f"user {user!r}")
    await _send(user, {"type": "topics.message", "data": text})


send_to = sync_bridge.blocking(asend_to)
