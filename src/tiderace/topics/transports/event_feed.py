"""One topic as server-sent events, read-only, for pages that run no client of ours.

    GET connection/events?topic=<signed name>[&since=<epoch>:<offset>]

For EventSource and htmx: ``data`` is what was published, HTML as it is and anything
else as JSON, and ``id`` the position, with which a browser comes back by itself and gets
what it has missed. It knows topics and layers, and no client protocol.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

import msgspec
from msgspec import Raw

from tiderace import conf, metrics
from tiderace.asgi import connection_id, describe
from tiderace.delivery.outbox import TooSlow
from tiderace.exceptions import LayerUnavailable, TokenExpired, TokenInvalid
from tiderace.history import Position, Publication
from tiderace.protocol.messages import SubscribeRequest
from tiderace.protocol.session import (
    PositionLost,
    Refused,
    Subscription,
    SubscriptionOptions,
)
from tiderace.protocol.stream_codecs import EVENTS
from tiderace.revocation import signals
from tiderace.runtime.connections import (
    ConnectionInfo,
    DrainNotice,
    process_connections,
)
from tiderace.runtime.drain import process_drain
from tiderace.topics.api import control_layer, layer_of
from tiderace.topics.client.outbox import ClientOutbox
from tiderace.topics.hooks import TopicHooks
from tiderace.topics.hub import current
from tiderace.topics.identity import Identity, identity_of
from tiderace.topics.names import topic_group, user_group
from tiderace.topics.permissions import allowed
from tiderace.topics.tokens import verified_topic
from tiderace.topics.topic import Topic, UnknownTopic, declared
from tiderace.topics.transports.http_exchange import HttpExchange, Rejected
from tiderace.topics.transports.sse import EVENT_STREAM

__all__ = ["EventStream", "serve"]

logger = logging.getLogger("tiderace.topics")

# Milliseconds after which browsers come back: not all of them at once.
_RETRY = (1000, 3000)
_RETRY_WHEN_BUSY = (3000, 9000)

_TRIES = 5  # how often a stream is read again when something was lost meanwhile
_LAST_WORDS = 2.0  # seconds for the end; who does not read is not waited for
_OFFSET_LENGTH = 15  # digits of a position, at the most; brokers count in doubles

_RESET = "reset"
_EVENT = "event"  # the tag that names an event


async def serve(hooks: TopicHooks, exchange: HttpExchange) -> None:
    """Send a topic to somebody who only listens."""
    exchange.require_method("GET")
    identity = await identity_of(exchange.scope, "")
    topic, by_policy = await _topic(exchange, identity)
    since = _position(
        exchange.header(b"last-event-id") or exchange.query.get("since", "")
    )
    try:
        current().admit()
        busy = process_drain.draining
    except Refused:
        busy = True
    await exchange.start_stream(EVENT_STREAM)
    if busy:
        # Any other status would keep EventSource from ever coming back.
        await exchange.write(_retry(_RETRY_WHEN_BUSY))
        await exchange.end()
        return
    await EventStream(exchange, identity, topic, by_policy=by_policy).run(since)


async def _topic(exchange: HttpExchange, identity: Identity) -> tuple[Topic, bool]:
    """What is asked for, and whether its permissions said yes rather than a signature."""
    asked = exchange.query.get("topic", "")
    by_policy = False
    try:
        name = verified_topic(asked, user=identity.user)
    except TokenExpired:
        raise Rejected(403, "the signed name has expired, load the page anew") from None
    except TokenInvalid:
        name, by_policy = asked, True
    try:
        topic = declared.resolve(name)
    except UnknownTopic:
        raise Rejected(404, "there is no such topic") from None
    if by_policy and (
        topic.require_token
        or not await allowed(topic, identity.user, "subscribe", exchange.scope)
    ):
        raise Rejected(403, "you may not subscribe to this topic")
    return topic, by_policy


class EventStream:
    """Somebody who listens to one topic.

    Args:
        exchange: whose response it is, begun already.
        identity: who.
        topic: what.
        by_policy: whether the topic's permissions let it in, and may do so no longer.
    """

    def __init__(
        self,
        exchange: HttpExchange,
        identity: Identity,
        topic: Topic,
        *,
        by_policy: bool,
    ) -> None:
        # Of a listener; see tiderace.delivery.stream_hub.Listener.
        self.name = f"feed:{secrets.token_hex(16)}"
        self.groups: set[str] = set()
        self._exchange = exchange
        self._identity = identity
        self._topic = topic
        self._by_policy = by_policy
        self._group = topic_group(topic.topic)
        self._subscription = Subscription(topic.topic)
        self._over = asyncio.Event()
        self._out = ClientOutbox(
            EVENTS,
            exchange.write,
            frames=None,
            limit=conf.current().outbox_limit,
            # Only crowds of frames are found slow in that way; here are none.
            slow=self._over.set,
        )
        self._task = asyncio.current_task()
        self._gone = False
        self._interval = conf.current().topics.ping
        self._tasks: list[asyncio.Task[None]] = []

    # Its life

    async def run(self, since: Position | None) -> None:
        """Send what is published until somebody ends it.

        Args:
            since: where the client was; None for one who only wants to go on from here.
        """
        metrics.TOPIC_CONNECTIONS.add()
        process_connections.add(self)
        self._out.start()
        self._spawn(self._watch())
        self._spawn(self._keep_alive())
        watched = signals.current_watch().register(
            self._identity.user, self._identity.session_key, self._auth_changed
        )
        try:
            await self._listen(since)
            await self._over.wait()
            await self._end()
        finally:
            if watched is not None:
                watched.cancel()
            self._unlisten()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._out.abandon()
            process_connections.discard(self)
            metrics.TOPIC_CONNECTIONS.add(-1)

    @property
    def user(self) -> Any:
        return self._identity.user

    @property
    def topics(self) -> tuple[str, ...]:
        return (self._topic.topic,)

    def describe(self) -> ConnectionInfo:
        """Return what monitoring lists of this stream."""
        scope = self._exchange.scope
        path = str(scope.get("path", ""))[:200]
        return ConnectionInfo(connection_id(scope), "feed", path)

    async def _listen(self, since: Position | None) -> None:
        self._out.put(_retry(_RETRY))
        try:
            await layer_of(self._topic).stream_subscribe(self._group, self)
            if self._identity.user_id:
                await control_layer().stream_subscribe(
                    user_group(self._identity.user_id), self
                )
            await self._begin(since)
        except LayerUnavailable as error:
            logger.warning("%s (%s)", error, describe(self._exchange.scope))
            self._over.set()

    async def _begin(self, since: Position | None) -> None:
        """Send what was missed, and from now on what comes."""
        granted = SubscriptionOptions(recoverable=self._topic.history is not None)
        asked = SubscribeRequest(recover=since is not None)
        if since is not None:
            asked.epoch, asked.offset = since.epoch, since.offset
        limit = conf.current().topics.recovered
        for _ in range(_TRIES):
            top, kept = await layer_of(self._topic).stream_read(
                self._group,
                keep=self._topic.keep(),
                since=since,
                # One more than may be brought back shows that there are too many.
                limit=limit + 1 if since is not None and granted.recoverable else 0,
            )
            answer = self._subscription.answer(asked, granted, top, kept, limit=limit)
            if answer is not None:
                break
        else:
            self._over.set()  # it comes back, and tries again
            return
        result, later = answer
        if since is not None and not result.recovered:
            self._put(_block(f"{top.epoch}:{top.offset}", event=_RESET))
        for pub in result.publications or ():
            place = Position(result.epoch, pub.offset)
            self._put(_published(bytes(cast("Raw", pub.data)), place, pub.tags))
        if granted.recoverable:
            # An event that says nothing else moves the browser's position.
            self._put(f"id: {top.epoch}:{top.offset}\n\n".encode())
        for publication in later:
            self._pass_on(publication)

    async def _end(self) -> None:
        if self._gone:
            return
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(_LAST_WORDS):
                await self._out.finish()
                await self._exchange.end()

    async def _watch(self) -> None:
        while (await self._exchange.receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._over.set()

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            self._put(b":\n\n")

    def _unlisten(self) -> None:
        layer_of(self._topic).stream_unsubscribe(self._group, self)
        for group in list(self.groups):
            control_layer().stream_unsubscribe(group, self)

    def _spawn(self, work: Any) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work))

    # What it hears

    def on_publication(self, group: str, publication: Publication) -> None:
        """See ``tiderace.delivery.stream_hub.Listener``."""
        if group != self._group:
            self._hear_user(publication)
            return
        try:
            if self._subscription.heard(publication):
                self._pass_on(publication)
        except PositionLost:
            self._over.set()  # it comes back with its position, and gets it

    def on_gap(self, group: str) -> None:
        """See ``tiderace.delivery.stream_hub.Listener``."""
        if self._subscription.granted.recoverable and self._subscription.answered:
            self._over.set()

    def _hear_user(self, publication: Publication) -> None:
        event = msgspec.json.decode(publication.data)
        kicked = event["type"] == "topics.disconnect" and not event.get("client")
        unsubscribed = (
            event["type"] == "topics.unsubscribe"
            and event["topic"] == self._topic.topic
        )
        if kicked or unsubscribed:
            self._over.set()

    def _pass_on(self, publication: Publication) -> None:
        recoverable = self._subscription.granted.recoverable
        key = ("feed", recoverable)
        block = publication.encoded.get(key)
        if block is None:
            place = publication.position if recoverable else None
            block = _published(publication.data.encode(), place, publication.tags)
            publication.encoded[key] = block
        self._put(block)

    def _put(self, block: bytes) -> None:
        try:
            self._out.put(block)
        except TooSlow:
            metrics.SLOW_CLIENTS.add()
            self._out.abandon()
            self._over.set()

    # What others want of it

    def _auth_changed(self, reason: signals.Reason) -> None:
        if reason.final:
            self._over.set()
        elif self._by_policy:
            self._spawn(self._ask_again())

    async def _ask_again(self) -> None:
        user, scope = self._identity.user, self._exchange.scope
        if not await allowed(self._topic, user, "subscribe", scope):
            self._over.set()

    def drain(self, notice: DrainNotice) -> None:
        """See ``tiderace.runtime.connections.LiveConnection``."""
        milliseconds = int(notice.retry_after * 1000)
        self._put(f"retry: {milliseconds}\n\n".encode())
        self._over.set()

    def cut(self) -> None:
        """See ``tiderace.runtime.connections.LiveConnection``."""
        if self._task is not None:
            self._task.cancel()


def _published(
    data: bytes, position: Position | None, tags: Mapping[str, str] | None
) -> bytes:
    """A publication as an event: a string as it is, anything else as JSON."""
    value = msgspec.json.decode(data)
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    event = (tags or {}).get(_EVENT, "")
    if event == _RESET:
        event = ""  # that is ours
    return _block(text, event=event, position=position)


def _block(text: str, *, event: str = "", position: Position | None = None) -> bytes:
    lines = []
    if position is not None:
        lines.append(f"id: {position.epoch}:{position.offset}")
    if event:
        lines.append(f"event: {''.join(event.splitlines())}")
    # The three ends of a line that browsers know, and no others.
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    lines += [f"data: {line}" for line in plain.split("\n")]
    return ("\n".join(lines) + "\n\n").encode()


def _retry(between: tuple[int, int]) -> bytes:
    return f"retry: {random.randint(*between)}\n\n".encode()  # noqa: S311 (spreads load)


def _position(text: str) -> Position | None:
    """A position as ``id`` says it; one that nobody was at for text that is none."""
    if not text:
        return None
    epoch, _, offset = text.rpartition(":")
    if not (offset.isascii() and offset.isdecimal() and len(offset) <= _OFFSET_LENGTH):
        return Position("?", 0)
    return Position(epoch, int(offset))
