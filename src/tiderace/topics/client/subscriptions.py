"""A topic client's subscriptions: how they begin, go on and end.

It knows topics' policy, layers, presence and tokens. Checks come before effects: a
subscription that is refused has changed nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from tiderace.exceptions import TokenExpired, TokenInvalid
from tiderace.history import Position
from tiderace.presence.store import Member
from tiderace.presence.tracker import Presence
from tiderace.protocol import codes
from tiderace.protocol.messages import (
    Empty,
    Push,
    Reply,
    SubRefreshRequest,
    SubRefreshResult,
    SubscribePush,
    SubscribeRequest,
    SubscribeResult,
    TopicRequest,
)
from tiderace.protocol.session import Refused, SubscriptionOptions
from tiderace.topics.api import control_layer, layer_of
from tiderace.topics.client.served import ActiveSubscription, Served
from tiderace.topics.hub import TopicHub
from tiderace.topics.json_fields import as_raw, ttl_of
from tiderace.topics.names import events_group
from tiderace.topics.permissions import allowed
from tiderace.topics.tokens import read_subscription_token, verified_topic
from tiderace.topics.topic import Topic, UnknownTopic, declared
from tiderace.topics.user_code import call_hook

__all__ = ["GRACE", "After", "Subscribing"]

logger = logging.getLogger("tiderace.topics")

After = Callable[[], None]

GRACE = 25.0
"""Seconds after a token's end in which the client may still come with another."""

# How often a stream is read again when publications were lost while it was read.
_TRIES = 5


class Subscribing:
    """The subscriptions of one client."""

    def __init__(self, conductor: Served, process: TopicHub) -> None:
        self._conductor = conductor
        self._process = process
        self._session = conductor.session

    async def subscribe(self, request: SubscribeRequest, reply: Reply) -> After:
        """The command of that name."""
        reply.subscribe, after = await self.begin(request)
        return after

    async def subscribe_from_here(self, name: str) -> None:
        """Subscribe the client to a topic that it did not ask for, and tell it."""
        try:
            result, after = await self.begin(
                SubscribeRequest(channel=name), server_side=True, trusted=True
            )
        except (Refused, UnknownTopic) as error:
            logger.info("no subscription to %s from here: %s", name, error)
            return
        push = SubscribePush(
            recoverable=result.recoverable,
            positioned=result.positioned,
            epoch=result.epoch,
            offset=result.offset,
            data=result.data,
        )
        self._conductor.push(Push(channel=name, subscribe=push))
        after()

    async def begin(
        self,
        request: SubscribeRequest,
        *,
        server_side: bool = False,
        trusted: bool = False,
    ) -> tuple[SubscribeResult, After]:
        conductor = self._conductor
        name = request.channel
        subscription = self._session.subscribe(name, server_side=server_side)
        joined: ActiveSubscription | None = None
        try:
            topic = declared.resolve(name)
            expires_at = await self._permitted(topic, request, trusted=trusted)
            data = None
            if topic.on_subscribe is not None:
                data = await call_hook(topic.on_subscribe, conductor.identity.user)
            history = topic.history is not None
            granted = SubscriptionOptions(
                recoverable=history,
                joins=await self._hears_joins(topic, request),
                data=as_raw(data),
                expires_at=expires_at,
            )
            joined = conductor.join(subscription, topic)
            joined.by_policy = not (trusted or request.token)
            layer = layer_of(topic)
            await layer.stream_subscribe(joined.group, joined.ear)
            if topic.presence is not Presence.OFF:
                await layer.stream_subscribe(events_group(name), joined.ear)
            answer = await self._answer(joined, request, granted)
            if topic.presence is not Presence.OFF:
                await self._enter(joined)
        except BaseException:
            self._session.unsubscribe(name)
            if joined is not None:
                await self.leave(name)
            raise
        result, later = answer
        if expires_at is not None:
            result.expires, result.ttl = True, ttl_of(expires_at)
            self._set_subscription_expiry(name, expires_at)

        begun = joined
        return result, lambda: conductor.answered(begun, later)

    async def _permitted(
        self, topic: Topic, request: SubscribeRequest, *, trusted: bool
    ) -> float | None:
        """Until when it may.

        Raises:
            Refused: when it may not.
        """
        if trusted:
            return None
        if request.token:
            if request.token.startswith(f"{topic.topic}--"):
                self._check_signed_name(request.token, topic.topic)
                return None
            expires_at: float | None = self._read_token(
                request.token, topic.topic
            ).expires_at
            return expires_at
        if topic.require_token:
            raise Refused(codes.PERMISSION_DENIED)
        if not await self.permits(topic):
            raise Refused(codes.PERMISSION_DENIED)
        return None

    def _check_signed_name(self, signed: str, topic: str) -> None:
        """A name that a template has signed lets in who was shown it.

        Raises:
            Refused: when it was not signed here, is for somebody else, or too old.
        """
        try:
            name = verified_topic(signed, user=self._conductor.identity.user)
        except TokenExpired:
            raise Refused(codes.TOKEN_EXPIRED) from None
        except TokenInvalid as invalid:
            logger.info("a signed name for %s is refused: %s", topic, invalid)
            raise Refused(codes.PERMISSION_DENIED) from None
        if name != topic:
            raise Refused(codes.PERMISSION_DENIED)

    def _read_token(self, token: str, topic: str) -> Any:
        try:
            return read_subscription_token(
                token, user_id=self._conductor.identity.user_id, channel=topic
            )
        except TokenExpired:
            raise Refused(codes.TOKEN_EXPIRED) from None
        except TokenInvalid as invalid:
            logger.info("a subscription token for %s is refused: %s", topic, invalid)
            raise Refused(codes.PERMISSION_DENIED) from None

    async def _answer(
        self,
        joined: ActiveSubscription,
        request: SubscribeRequest,
        granted: SubscriptionOptions,
    ) -> tuple[SubscribeResult, Any]:
        topic, limit = joined.topic, self._conductor.settings.recovered
        if not granted.recoverable:
            answer = joined.subscription.answer(request, granted, Position("", 0))
            assert answer is not None  # noqa: S101 (there is nothing to follow)
            return answer
        layer = layer_of(topic)
        since = Position(request.epoch, request.offset) if request.recover else None
        for _ in range(_TRIES):
            top, kept = await layer.stream_read(
                joined.group,
                keep=topic.keep(),
                since=since,
                # One more than may be brought back shows that there are too many.
                limit=limit + 1 if since is not None else 0,
            )
            answer = joined.subscription.answer(
                request, granted, top, kept, limit=limit
            )
            if answer is not None:
                return answer
        raise Refused(codes.INTERNAL)

    def _set_subscription_expiry(self, name: str, expires_at: float) -> None:
        conductor = self._conductor
        conductor.alarm_at(
            f"sub:{name}",
            expires_at + GRACE,
            lambda: conductor.unsubscribe(name, codes.UNSUBSCRIBED_EXPIRED),
        )

    async def refresh(self, request: SubRefreshRequest, reply: Reply) -> None:
        """The command ``sub_refresh``."""
        if request.channel not in self._conductor.joined:
            raise Refused(codes.BAD_REQUEST)
        said = self._read_token(request.token, request.channel)
        if said.expires_at is None:
            self._conductor.silence(f"sub:{request.channel}")
        else:
            self._set_subscription_expiry(request.channel, said.expires_at)
        reply.sub_refresh = SubRefreshResult(
            expires=said.expires_at is not None, ttl=ttl_of(said.expires_at)
        )

    async def unsubscribe(self, request: TopicRequest, reply: Reply) -> None:
        """The command of that name."""
        if request.channel in self._conductor.joined:
            await self.leave(request.channel)
        reply.unsubscribe = Empty()

    def leave(self, name: str) -> Coroutine[Any, Any, None]:
        """End a subscription: now it hears nothing more; the rest is to be awaited."""
        conductor = self._conductor
        joined = conductor.joined.pop(name)
        self._session.unsubscribe(name)
        conductor.silence(f"sub:{name}")
        layer = layer_of(joined.topic)
        for group in list(joined.ear.groups):
            layer.stream_unsubscribe(group, joined.ear)
        return self._left(joined)

    async def _left(self, joined: ActiveSubscription) -> None:
        if not joined.present:
            return
        joined.present = False
        keeper = self._process.keeper(joined.topic.layer)
        keeper.remove(joined.topic.topic, self._conductor.client)

    async def leave_all(self) -> None:
        """End every subscription, and stop listening for the user."""
        conductor = self._conductor
        ear, conductor.user_ear = conductor.user_ear, None
        if ear is not None:
            for group in list(ear.groups):
                control_layer().stream_unsubscribe(group, ear)
        rest = [self.leave(name) for name in list(conductor.joined)]
        for result in await asyncio.gather(*rest, return_exceptions=True):
            if isinstance(result, Exception):
                logger.warning("leaving a topic failed: %s", result)

    async def permits(self, topic: Topic) -> bool:
        """Whether the topic's permissions let this client subscribe."""
        conductor = self._conductor
        user = conductor.identity.user
        return await allowed(topic, user, "subscribe", conductor.scope)

    async def _hears_joins(self, topic: Topic, request: SubscribeRequest) -> bool:
        """Whether it is told who comes and goes: of whom it may see, if it asks."""
        if topic.presence is Presence.OFF:
            return False
        if topic.push_joins or not request.join_leave:
            return topic.push_joins
        conductor = self._conductor
        user = conductor.identity.user
        return await allowed(topic, user, "presence", conductor.scope)

    async def _enter(self, joined: ActiveSubscription) -> None:
        topic, identity = joined.topic, self._conductor.identity
        member = Member(
            client=self._conductor.client, user=identity.user_id, info=identity.info
        )
        joined.present = True
        keeper = self._process.keeper(topic.layer)
        await keeper.add(
            topic.topic, member, topic.presence, grace=topic.presence_grace
        )
