"""One topic as server-sent events, read-only, for pages without a client library.

::

    GET connection/events?topic=<signed name>[&since=<epoch>:<offset>]

For EventSource and htmx: ``data`` is what was published, a string (such as HTML) as it is
and anything else as JSON. ``id`` is the position: a browser reconnects with it and gets
the events that it has missed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import msgspec
from msgspec import Raw

from tiderace import conf, metrics
from tiderace.asgi import connection_id, describe, printable
from tiderace.exceptions import LayerUnavailable, TokenExpired, TokenInvalid
from tiderace.history import Position, Publication
from tiderace.protocol import codes
from tiderace.protocol.messages import SubscribeRequest
from tiderace.protocol.session import PositionLost, Refused, Subscription
from tiderace.protocol.stream_codecs import EVENTS
from tiderace.revocation.account_state import Reason
from tiderace.revocation.auth_changed import current_watcher
from tiderace.runtime.connections import (
    ConnectionInfo,
    DrainNotice,
    process_connections,
)
from tiderace.runtime.drain import process_drain
from tiderace.runtime.tasks import TaskGroup
from tiderace.topics.client.authentication import admit
from tiderace.topics.client.refusals import log_refusal
from tiderace.topics.declaration.topic import Topic, UnknownTopic, declared
from tiderace.topics.fanout.filtered import make_gate
from tiderace.topics.fanout.listening import (
    activate,
    follows,
    start_listening,
    stop_listening,
)
from tiderace.topics.fanout.outbox import ClientOutbox, write_all
from tiderace.topics.fanout.tag_gate import TagGate, TagSet, tag_set
from tiderace.topics.hooks import TopicHooks
from tiderace.topics.hub import current
from tiderace.topics.identity import Identity, identity_of
from tiderace.topics.names import topic_group, user_group
from tiderace.topics.permissions import allowed, refusal
from tiderace.topics.positions import UNKNOWN_EPOCH, client_position
from tiderace.topics.streams import control_layer, start_stream
from tiderace.topics.tokens import SignedName, read_signed_name
from tiderace.topics.transports.http_exchange import HttpExchange, Rejected
from tiderace.topics.transports.sse import EVENT_STREAM

logger = logging.getLogger("tiderace.topics")

# Milliseconds after which browsers reconnect, chosen at random between two bounds.
_RETRY = (1000, 3000)
_RETRY_WHEN_BUSY = (3000, 9000)

_END_TIMEOUT = 2.0  # seconds for sending the end
_OFFSET_LENGTH = 15  # the most digits of a position; brokers count in doubles

_RESET = "reset"
_EVENT = "event"  # the tag that names an event


async def serve(hooks: TopicHooks, exchange: HttpExchange) -> None:
    """Send a topic to a page."""
    exchange.require_method("GET")
    identity = await identity_of(exchange.scope, "")
    topic, signed = await _topic(exchange, identity)
    since = _position(
        exchange.header(b"last-event-id") or exchange.query.get("since", "")
    )
    try:
        admit(current().connects)
        busy = process_drain.draining
    except Refused:
        busy = True
    if busy:
        # With any other status EventSource would never reconnect.
        await exchange.start_stream(EVENT_STREAM)
        await exchange.write(_retry(_RETRY_WHEN_BUSY))
        await exchange.end()
        return
    await EventStream(exchange, identity, topic, signed).run(since)


async def _topic(
    exchange: HttpExchange, identity: Identity
) -> tuple[Topic, SignedName | None]:
    """Return the topic, and the signed name that allows it; None if its permissions do."""
    asked = exchange.query.get("topic", "")
    try:
        signed = read_signed_name(asked, user=identity.user)
    except TokenExpired:
        raise Rejected(403, "the signed name has expired, load the page anew") from None
    except TokenInvalid:
        signed = None
    try:
        topic = declared.resolve(asked if signed is None else signed.topic)
    except UnknownTopic as unknown:
        log_refusal("the stream of", asked, unknown, exchange.scope)
        raise Rejected(404, "there is no such topic") from None
    if topic.is_binary():
        raise Rejected(406, "the publications of this topic are bytes")
    if signed is None:
        reason = (
            f"{type(topic).__name__}.require_token is True"
            if topic.require_token
            else await refusal(topic, identity.user, "subscribe", exchange.scope)
        )
        if reason is not None:
            denied = Refused(codes.PERMISSION_DENIED, reason=reason)
            log_refusal("the stream of", topic.topic, denied, exchange.scope)
            raise Rejected(403, "you may not subscribe to this topic")
    return topic, signed


class EventStream:
    """One response that sends a topic; a listener to the topic and to its user.

    Args:
        exchange: the request; its response begins when the stream has subscribed.
        identity: the user.
        topic: the topic.
        signed: the signed name that allows the stream; None where the topic's permissions
            allow it: they are checked again when those of the user change.
    """

    def __init__(
        self,
        exchange: HttpExchange,
        identity: Identity,
        topic: Topic,
        signed: SignedName | None,
    ) -> None:
        self.groups: Collection[str] = ()
        self._exchange = exchange
        self._identity = identity
        self._signed = signed
        self._topic = topic
        self._group = topic_group(topic.topic)
        self.seen = 0
        self._gate: TagGate | None = None
        if topic.may_receive is not None:
            self._gate = make_gate(
                topic,
                lambda: identity.user,
                spawn=lambda work: self._tasks.spawn(work),
                deliver=self._deliver,
                lose=self._lose,
            )
        self._subscription = Subscription(topic.topic)
        self._over = asyncio.Event()
        self.outbox = ClientOutbox(
            EVENTS,
            exchange.write,
            writer=None,
            limit=conf.current().outbox_limit,
            on_slow=self._end_slow,
        )
        self._task = asyncio.current_task()
        self._gone = False
        # Whether it counts as a subscriber, for ``topic_opened`` and ``topic_closed``.
        self._occupies = False
        self._tasks = TaskGroup(logger)

    # Beginning and end

    async def run(self, since: Position | None) -> None:
        """Send what is published until the client, the user's rights or the process end.

        Args:
            since: the client's position; None to send only what is published from now.
        """
        metrics.TOPIC_CONNECTIONS.add()
        process_connections.add(self)
        self._tasks.spawn(self._watch())
        if self._signed is not None and self._signed.expires_at is not None:
            self._tasks.spawn(self._end_at(self._signed.expires_at))
        registration = current_watcher().register(
            self._identity.user, self._identity.session_key, self._on_revocation
        )
        try:
            await self._subscribe(since)
            # After the subscription: the page's EventSource is open with the first byte,
            # and no event may be lost after that.
            await self._exchange.start_stream(EVENT_STREAM)
            self.outbox.start(self._exchange.writer)
            self._tasks.spawn(self._keep_alive())
            await self._over.wait()
            await self._end()
        finally:
            if registration is not None:
                registration.cancel()
            self._unsubscribe()
            await self._tasks.cancel_in_time(conf.current().disconnect_timeout)
            self.outbox.abandon()
            process_connections.discard(self)
            metrics.TOPIC_CONNECTIONS.add(-1)

    @property
    def user(self) -> Any:
        return self._identity.user

    @property
    def topics(self) -> tuple[str, ...]:
        return (self._topic.topic,)

    def describe(self) -> ConnectionInfo:
        """Return this stream's entry in the list of connections."""
        scope = self._exchange.scope
        path = printable(str(scope.get("path", "")))[:200]
        return ConnectionInfo(connection_id(scope), "feed", path)

    async def _subscribe(self, since: Position | None) -> None:
        self.outbox.push(_retry(_RETRY))
        try:
            await start_listening(self._topic, self)
            if self._identity.user_id:
                group = user_group(self._identity.user_id)
                await control_layer().stream_subscribe(group, self)
            await self._begin(since)
            self._occupies = True
            current().occupied.enter(self._topic)
        except LayerUnavailable as error:
            logger.warning("%s (%s)", error, describe(self._exchange.scope))
            self._over.set()
        except Refused:
            self._over.set()  # the browser reconnects, and tries again

    async def _begin(self, since: Position | None) -> None:
        """Send the publications that were missed, and then those that follow."""
        request = SubscribeRequest(recover=since is not None)
        if since is not None:
            request.epoch, request.offset = since.epoch, since.offset
        result, top = await start_stream(
            self._subscription,
            self._topic,
            request,
            self._may_read_history,
            follows=follows(self._topic, self),
        )
        if self._gate is not None and result.publications:
            result.publications = await self._gate.select(result.publications)
        if since is not None and not result.recovered:
            self.outbox.push(_block(f"{top.epoch}:{top.offset}", event=_RESET))
        for pub in result.publications or ():
            place = Position(result.epoch, pub.offset)
            self.outbox.push(_published(bytes(cast("Raw", pub.data)), place, pub.tags))
        if result.recoverable:
            # An event without data moves the browser's position.
            self.outbox.push(f"id: {top.epoch}:{top.offset}\n\n".encode())
        for publication in self._subscription.commit():
            self.on_publication(self._group, cast("Publication", publication))
        activate(self._topic, self)

    async def _end(self) -> None:
        if self._gone:
            return
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(_END_TIMEOUT):
                await self.outbox.finish()
                await self._exchange.end()

    def _end_slow(self) -> None:
        metrics.SLOW_CLIENTS.add()
        self.outbox.abandon()
        self._over.set()

    async def _watch(self) -> None:
        await self._exchange.disconnected()
        self._gone = True
        self._over.set()

    async def _end_at(self, expires_at: float) -> None:
        await asyncio.sleep(expires_at - time.time())
        self._over.set()

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(conf.current().topics.ping)
            self.outbox.push(b":\n\n")

    def _unsubscribe(self) -> None:
        stop_listening(self._topic, self)
        if self._gate is not None:
            self._gate.close()
        if self._occupies:
            current().occupied.leave(self._topic)
        for group in list(self.groups):
            control_layer().stream_unsubscribe(group, self)

    # Publications

    @staticmethod
    def dispatch(
        group: str, publication: Publication, listeners: Sequence[EventStream]
    ) -> None:
        """Send a publication to all ``listeners``; its event is built once."""
        if group != listeners[0]._group:  # noqa: SLF001 (of this class)
            for stream in listeners:
                stream._on_user_event(publication)  # noqa: SLF001
            return
        tags = tag_set(publication.tags)
        receivers = []
        for stream in listeners:
            passes = stream._gate is None or stream.passes(tags, publication)  # noqa: SLF001
            # ``passes`` is None while the publication waits for the decision.
            if passes is not None and stream.accept(publication) and passes:
                receivers.append(stream.outbox)
        if receivers:
            write_all(receivers, listeners[0].encode(publication))

    def on_publication(self, group: str, publication: Publication) -> None:
        """Send a publication to this stream alone."""
        self.dispatch(group, publication, [self])

    def passes(self, tags: TagSet, publication: Publication) -> bool | None:
        """Return whether the user gets a publication; None while it waits."""
        if self._gate is None or not self.active:
            return True
        return self._gate.passes(tags, publication)

    def _deliver(self, publication: Publication, passes: bool) -> None:
        if self.accept(publication) and passes:
            self.outbox.push(self.encode(publication))

    def _lose(self) -> None:
        self.on_gap(self._group)

    def on_gap(self, group: str) -> None:
        """End where the topic has positions: the browser reconnects with its last one."""
        if self._subscription.active and self._subscription.position is not None:
            self._over.set()

    def accept(self, publication: Publication) -> bool:
        """Return whether to send a publication; end where one before it is missing."""
        try:
            return self._subscription.advance(publication)
        except PositionLost:
            self._over.set()  # the browser reconnects with its position
            return False

    @property
    def active(self) -> bool:
        """Whether publications may be sent: only after those that were missed."""
        return self._subscription.active

    @property
    def encoding(self) -> type[EventStream]:
        """Equal for all subscribers of one topic that get the same bytes."""
        return EventStream

    def encode(self, publication: Publication) -> bytes:
        """Return a publication as an event, with its position where there is a history."""
        place = None
        if self._topic.history is not None:
            place = client_position(self._topic, publication.position)
        return _published(publication.raw, place, publication.tags)

    # The user and the process

    def _on_user_event(self, publication: Publication) -> None:
        event = msgspec.json.decode(publication.data)
        kicked = event["type"] == "topics.disconnect" and not event.get("client")
        unsubscribed = (
            event["type"] == "topics.unsubscribe"
            and event["topic"] == self._topic.topic
        )
        if kicked or unsubscribed:
            self._over.set()

    def _on_revocation(self, reason: Reason) -> None:
        if reason.final:
            self._over.set()
        else:
            if self._gate is not None:
                self._gate.forget()
            if self._signed is None:
                self._tasks.spawn(self._check_permission())

    async def _may_read_history(self) -> bool:
        user, scope = self._identity.user, self._exchange.scope
        admitted = self._signed is not None
        return await allowed(self._topic, user, "history", scope, admitted=admitted)

    async def _check_permission(self) -> None:
        user, scope = self._identity.user, self._exchange.scope
        may_stay = False
        try:
            may_stay = await allowed(self._topic, user, "subscribe", scope)
        finally:
            if not may_stay:  # also where the permission fails
                self._over.set()

    def drain(self, notice: DrainNotice) -> None:
        """End, with the time after which the browser reconnects."""
        milliseconds = int(notice.retry_after * 1000)
        self.outbox.push(f"retry: {milliseconds}\n\n".encode())
        self._over.set()

    def cut(self) -> None:
        """End at once, without a last event."""
        if self._task is not None:
            self._task.cancel()


def _published(
    data: bytes, position: Position | None, tags: Mapping[str, str] | None
) -> bytes:
    """Return a publication as an event: a string as it is, anything else as JSON."""
    text = msgspec.json.decode(data) if data.startswith(b'"') else data.decode()
    event = (tags or {}).get(_EVENT, "")
    if event == _RESET:
        event = ""  # only Tiderace sends resets
    return _block(text, event=event, position=position)


def _block(text: str, *, event: str = "", position: Position | None = None) -> bytes:
    lines = []
    if position is not None:
        lines.append(f"id: {position.epoch}:{position.offset}")
    if event:
        lines.append(f"event: {''.join(event.splitlines())}")
    # The three line endings of the specification, and no others.
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    lines += [f"data: {line}" for line in plain.split("\n")]
    return ("\n".join(lines) + "\n\n").encode()


def _retry(between: tuple[int, int]) -> bytes:
    return f"retry: {random.randint(*between)}\n\n".encode()  # noqa: S311 (spreads load)


def _position(text: str) -> Position | None:
    """Return the position in an event's ``id``; for other text one of an unknown epoch."""
    if not text:
        return None
    epoch, _, offset = text.rpartition(":")
    if not (offset.isascii() and offset.isdecimal() and len(offset) <= _OFFSET_LENGTH):
        return Position(UNKNOWN_EPOCH, 0)
    return Position(epoch, int(offset))
