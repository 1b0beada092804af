"""The context of one topic client, the first argument of its commands."""

from __future__ import annotations

import os
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tiderace import conf
from tiderace.asgi import Scope
from tiderace.protocol import codes
from tiderace.protocol.messages import ClientInfo
from tiderace.protocol.session import Refused
from tiderace.ratelimit import Rate, TokenBucket
from tiderace.runtime.single_flight import SingleFlight
from tiderace.topics.client.streamed_calls import StreamedCalls
from tiderace.topics.declaration.topic import Topic, declared
from tiderace.topics.fanout.dispatcher import ActiveSubscription
from tiderace.topics.growing.feed import GrowingFeeds
from tiderace.topics.hooks import TopicHooks
from tiderace.topics.identity import Identity
from tiderace.topics.json_fields import client_info, join_info
from tiderace.topics.permissions import Action, refusal
from tiderace.topics.trackers import OccupiedTopics, PresenceTrackers


@dataclass(slots=True)
class ClientContext:
    """The identity and state of one client, and the objects that it shares with others."""

    hooks: TopicHooks
    scope: Scope
    trackers: PresenceTrackers
    growing: GrowingFeeds
    occupied: OccupiedTopics
    publishing: SingleFlight
    """Publications with a key that are in progress in this event loop."""
    connects: TokenBucket | None
    """The rate limit of new connections; None for no limit."""
    settings: conf.TopicSettings
    binary: bool = False
    """Whether the client speaks Protobuf."""
    # Random, so that no id is used twice: presence identifies connections by it.
    client_id: str = field(default_factory=lambda: os.urandom(16).hex())
    identity: Identity = field(default_factory=Identity)
    subscriptions: dict[str, ActiveSubscription] = field(default_factory=dict)
    """The subscriptions by topic, including those that are being prepared."""
    streams: StreamedCalls = field(default_factory=StreamedCalls)
    # The rate limits of the client, made when needed, as most clients publish nothing.
    _buckets: dict[tuple[Action, type[Topic]], TokenBucket] | None = None

    def rate_limit(self, action: Action, topic: Topic, rate: str) -> TokenBucket:
        """Return the client's rate limit of an action on topics of one class."""
        if self._buckets is None:
            self._buckets = {}
        key = action, type(topic)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(Rate.parse(rate))
        return bucket

    def info_text_in(self, name: str) -> str:
        """Return ``info_in`` as JSON, which is cached in the subscription."""
        subscription = self.subscriptions.get(name)
        if subscription is None:
            return msgspec.json.encode(self.info_in(name)).decode()
        known, of = subscription.publisher, (self.identity, subscription.grant)
        if known is None or known[0] != of:
            text = msgspec.json.encode(self.info_in(name)).decode()
            known = subscription.publisher = (of, text)
        return known[1]

    def info_in(self, name: str) -> ClientInfo:
        """Return what others see of the client in its publications to a topic."""
        identity, subscription = self.identity, self.subscriptions.get(name)
        grant = None if subscription is None else subscription.grant
        info = join_info(identity.info, None if grant is None else grant.info)
        return client_info(identity.user_id, self.client_id, info)

    async def may(self, action: Any, topic: Topic) -> bool:
        """Return whether the topic's permissions allow ``action``."""
        return await self._refusal(action, topic) is None

    async def require(self, action: Any, topic: Topic) -> None:
        """Return if the topic's permissions allow ``action``.

        Raises:
            Refused: if not.
        """
        reason = await self._refusal(action, topic)
        if reason is not None:
            raise Refused(codes.PERMISSION_DENIED, reason=reason)

    def require_codec(self, topic: Topic) -> None:
        """Return if the client's codec carries the topic's publications.

        Raises:
            Refused: if not.
        """
        if topic.is_binary() and not self.binary:
            why = "its publications are bytes, which JSON does not carry; use Protobuf"
            raise Refused(codes.NOT_AVAILABLE, why)

    def subscribed(self, name: str) -> Topic | None:
        """Return the topic called ``name`` if the client is subscribed to it."""
        subscription = self.subscriptions.get(name)
        if subscription is None or subscription.buffered is not None:
            return None
        return subscription.topic

    async def topic(self, name: str) -> Topic:
        """Return the topic called ``name``, if the client may publish, read or call there.

        Raises:
            Refused: if it is not subscribed, and the topic requires that or does not
                allow to subscribe.
            UnknownTopic: if no topic is declared for the name.
        """
        subscribed = self.subscribed(name)
        if subscribed is not None:
            return subscribed
        topic = declared.resolve(name)
        self.require_codec(topic)
        if topic.subscribers_only or topic.require_token:
            kind = type(topic).__name__
            option = "require_token" if topic.require_token else "subscribers_only"
            reason = f"the client is not subscribed to it, and {kind}.{option} is True"
            raise Refused(codes.PERMISSION_DENIED, reason=reason)
        await self.require("subscribe", topic)
        return topic

    def _refusal(self, action: Any, topic: Topic) -> Awaitable[str | None]:
        subscription = self.subscriptions.get(topic.topic)
        admitted = subscription is not None and subscription.grant is not None
        user = self.identity.user
        return refusal(topic, user, action, self.scope, admitted=admitted)
