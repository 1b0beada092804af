"""Begins, renews and ends the subscriptions of one topic client.

Checks come before effects: a subscription that is refused has changed nothing.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

from tiderace import conf, metrics
from tiderace.presence.store import Member
from tiderace.presence.tracker import Presence
from tiderace.protocol import codes
from tiderace.protocol.codes import Close, Unsubscription
from tiderace.protocol.messages import (
    Empty,
    Push,
    RefreshResult,
    Reply,
    SubRefreshRequest,
    SubscribeRequest,
    SubscribeResult,
    TopicRequest,
)
from tiderace.protocol.session import Refused
from tiderace.runtime.tasks import TaskGroup
from tiderace.topics.client.authentication import authorize, read_token
from tiderace.topics.client.context import ClientContext
from tiderace.topics.client.refusals import log_refusal
from tiderace.topics.client.timers import Timers
from tiderace.topics.declaration.topic import UnknownTopic, declared
from tiderace.topics.fanout.deltas import DeltaSubscription
from tiderace.topics.fanout.dispatcher import ActiveSubscription, send_push
from tiderace.topics.fanout.filtered import FilteredSubscription, make_subscription
from tiderace.topics.fanout.listening import (
    activate,
    follows,
    start_listening,
    stop_listening,
)
from tiderace.topics.fanout.outbox import ClientOutbox
from tiderace.topics.hooks import call_hook
from tiderace.topics.identity import Grant
from tiderace.topics.json_fields import as_python, as_raw, join_info, ttl_of
from tiderace.topics.names import events_group
from tiderace.topics.streams import layer_of, start_stream

logger = logging.getLogger("tiderace.topics")


class ClientSubscriptions:
    """The subscriptions of one client.

    A subscription begins with ``await prepare()``; then the caller sends the reply, and
    ``commit()`` sends the publications that were buffered meanwhile.

    Args:
        context: the client's; this object changes its ``subscriptions``.
        outbox: the client's.
        timers: the client's.
        end: closes the connection.
    """

    __slots__ = ("_context", "_end_connection", "_outbox", "_tasks", "_timers")

    def __init__(
        self,
        context: ClientContext,
        outbox: ClientOutbox,
        timers: Timers,
        end: Callable[[Close], None],
    ) -> None:
        self._context = context
        self._outbox = outbox
        self._timers = timers
        self._end_connection = end
        self._tasks = TaskGroup(logger)

    # Beginning

    async def prepare(
        self,
        request: SubscribeRequest,
        *,
        server_side: bool = False,
        grant: Grant | None = None,
    ) -> SubscribeResult:
        """Begin a subscription, and buffer its publications until ``commit``.

        Args:
            request: the client's, or one made by the server.
            server_side: whether the server subscribes the client.
            grant: what a token or the server grants; permissions are not checked then.

        Returns:
            The result for the reply, to be sent before ``commit``.

        Raises:
            Refused: when the client may not subscribe.
            UnknownTopic: when no topic is declared for the name.
        """
        context, name = self._context, request.channel
        self._check_name(name)
        if request.type:
            raise Refused(codes.NOT_AVAILABLE, "type is not served")
        topic = declared.resolve(name)
        context.require_codec(topic)
        subscription = make_subscription(
            topic,
            request,
            self._outbox,
            self._on_lost,
            self._tasks.spawn,
            client_id=context.client_id,
            user=lambda: context.identity.user,
            server_side=server_side,
        )
        subscription.grant = grant or (Grant() if request.token else None)
        context.subscriptions[name] = subscription
        try:
            if grant is None:
                subscription.grant = await authorize(context, topic, request.token)
            value = None
            if topic.on_subscribe is not None:
                value = await self._call_on_subscribe(topic.on_subscribe, request)
            if subscription.grant is not None and subscription.grant.data is not None:
                value = subscription.grant.data
            data = as_raw(value)
            subscription.joins = topic.push_joins
            if topic.presence is not Presence.OFF and not topic.push_joins:
                subscription.asks_joins = request.join_leave
                await self._check_joins(subscription)
            await start_listening(topic, subscription)
            if topic.presence is not Presence.OFF or topic.whispers:
                layer = layer_of(topic)
                await layer.stream_subscribe(events_group(name), subscription)
            if topic.growing is not None:
                await context.growing.join(subscription)
            result, top = await start_stream(
                subscription,
                topic,
                request,
                lambda: context.may("history", topic),
                follows=follows(topic, subscription),
            )
            if isinstance(subscription, FilteredSubscription) and result.publications:
                selected = await subscription.gate.select(result.publications)
                result.publications = selected or None
                if not selected:
                    result.offset = top.offset
            self._require_current(subscription)
            if isinstance(subscription, DeltaSubscription):
                subscription.encode_result(result)
            if server_side and not result.recovered:
                # SDKs ignore the publications of such a result unless it has recovered.
                subscription.send_after_reply(result.publications or ())
                result.publications = None
            if topic.presence is not Presence.OFF:
                await self._add_presence(subscription)
                self._require_current(subscription)
            subscription.occupies = True
            context.occupied.enter(topic)
        except BaseException:
            self._end(subscription)
            raise
        result.data = data
        if subscription.grant is not None:
            expires_at = subscription.grant.expires_at
            result.expires, result.ttl = expires_at is not None, ttl_of(expires_at)
            self._start_expiry(name, expires_at)
        return result

    def _check_name(self, name: str) -> None:
        settings, subscriptions = self._context.settings, self._context.subscriptions
        if not name or len(name) > settings.name_length:
            raise Refused(codes.BAD_REQUEST)
        if name in subscriptions:
            raise Refused(codes.ALREADY_SUBSCRIBED)
        if len(subscriptions) >= settings.subscriptions:
            reason = f"TIDERACE['TOPICS']['SUBSCRIPTIONS'] is {settings.subscriptions}"
            raise Refused(codes.LIMIT_EXCEEDED, reason=reason)

    def commit(self, channel: str) -> None:
        """Activate a subscription after its reply, and send what was buffered."""
        subscription = self._context.subscriptions.get(channel)
        if subscription is None:
            return
        subscription.send_buffered()
        self._context.growing.begin(subscription)
        activate(subscription.topic, subscription)
        if subscription.end_reason is not None:
            self.end(channel, subscription.end_reason)

    def subscribe_from_server(self, channel: str) -> None:
        """Subscribe the client to a topic on the application's behalf, in the background."""
        self._tasks.spawn(self._subscribe_from_server(channel))

    async def _subscribe_from_server(self, channel: str) -> None:
        request = SubscribeRequest(channel=channel)
        try:
            result = await self.prepare(request, server_side=True, grant=Grant())
        except (Refused, UnknownTopic) as error:
            command = "the subscription by the server to"
            log_refusal(command, channel, error, self._context.scope)
            return
        self._push(Push(channel=channel, subscribe=result))
        self.commit(channel)

    async def _call_on_subscribe(
        self, hook: Callable[..., Any], request: SubscribeRequest
    ) -> Any:
        arguments = [self._context.identity.user]
        if len(inspect.signature(hook).parameters) > 1:
            arguments.append(as_python(request.data))
        return await call_hook(hook, *arguments)

    async def _check_joins(self, subscription: ActiveSubscription) -> None:
        """Decide whether a client that requests joins gets them.

        If two calls overlap, the decision of the later one counts. An active client that
        gets joins from now on is sent ``changed``, so that it reads the members.
        """
        if not subscription.asks_joins:
            return
        subscription.joins_checks += 1
        number = subscription.joins_checks
        allowed = await self._context.may("presence", subscription.topic)
        if number != subscription.joins_checks:
            return
        begins = allowed and not subscription.joins
        subscription.joins = allowed
        if begins and subscription.active:
            send_push(Push(subscription.channel, changed=Empty()), [subscription])

    def _require_current(self, subscription: ActiveSubscription) -> None:
        """Refuse the command if the subscription has ended, or was replaced, meanwhile."""
        if self._context.subscriptions.get(subscription.channel) is not subscription:
            raise Refused(codes.INTERNAL)

    async def _add_presence(self, subscription: ActiveSubscription) -> None:
        topic, identity = subscription.topic, self._context.identity
        chan_info = None if subscription.grant is None else subscription.grant.info
        member = Member(
            client=self._context.client_id,
            user=identity.user_id,
            info=join_info(identity.info, chan_info),
        )
        subscription.present = True
        await self._context.trackers.get(topic.layer).add(
            topic.topic, member, topic.presence, grace=topic.presence_grace
        )

    # Renewal and permissions

    async def refresh(self, request: SubRefreshRequest) -> RefreshResult:
        """Renew a subscription by a newer token.

        Raises:
            Refused: when there is no such subscription, or the token is not valid.
        """
        if request.channel not in self._context.subscriptions:
            raise Refused(codes.BAD_REQUEST)
        if request.type:
            raise Refused(codes.NOT_AVAILABLE, "type is not served")
        grant = read_token(self._context, request.token, request.channel)
        expires_at = grant.expires_at
        self._start_expiry(request.channel, expires_at)
        return RefreshResult(expires=expires_at is not None, ttl=ttl_of(expires_at))

    def _start_expiry(self, channel: str, expires_at: float | None) -> None:
        self._timers.start_expiry(
            f"sub:{channel}",
            expires_at,
            lambda: self.end(channel, codes.UNSUBSCRIBED_EXPIRED),
        )

    def check_permissions(self) -> None:
        """End subscriptions and joins that permissions no longer allow, in the background."""
        self._tasks.spawn(self._check_permissions())

    async def _check_permissions(self) -> None:
        for channel, subscription in list(self._context.subscriptions.items()):
            subscription.may_whisper = False  # checked again at the next whisper
            if isinstance(subscription, FilteredSubscription):
                subscription.gate.forget()
            try:
                await self._check_permission(subscription)
            except Exception:
                logger.exception(
                    "a permission of %r failed; its subscriber has to subscribe again",
                    channel,
                )
                self._on_lost(subscription)

    async def _check_permission(self, subscription: ActiveSubscription) -> None:
        context, channel = self._context, subscription.channel
        if subscription.grant is not None or await context.may(
            "subscribe", subscription.topic
        ):
            await self._check_joins(subscription)
        elif context.subscriptions.get(channel) is subscription:
            self.end(channel, codes.UNSUBSCRIBED_PERMISSION_DENIED)

    def _on_lost(self, subscription: ActiveSubscription) -> None:
        """End a subscription so that the client subscribes again and recovers."""
        if self._context.subscriptions.get(subscription.channel) is not subscription:
            return
        metrics.TOPIC_RESUBSCRIPTIONS.add()
        if subscription.server_side:
            self._end_connection(codes.CLOSE_INSUFFICIENT_STATE)
        else:
            self.end(subscription.channel, codes.UNSUBSCRIBED_INSUFFICIENT_STATE)

    # End

    async def unsubscribe(self, request: TopicRequest) -> Empty:
        """End a subscription at the client's request."""
        subscription = self._context.subscriptions.get(request.channel)
        if subscription is not None:
            self._end(subscription)
        return Empty()

    def end(self, channel: str, reason: Unsubscription) -> None:
        """End a subscription, and push the reason."""
        subscription = self._context.subscriptions.get(channel)
        if subscription is None:
            return
        if not subscription.active:
            # The push must not come before the reply to the subscribe command.
            subscription.end_reason = reason
            return
        self._end(subscription)
        self._push(Push(channel=channel, unsubscribe=reason))

    async def close(self) -> None:
        """End every subscription and background task."""
        for subscription in list(self._context.subscriptions.values()):
            self._end(subscription)
        await self._tasks.cancel_in_time(conf.current().disconnect_timeout)

    def _end(self, subscription: ActiveSubscription) -> None:
        subscriptions, name = self._context.subscriptions, subscription.channel
        if subscriptions.get(name) is subscription:
            del subscriptions[name]
            self._timers.cancel_timer(f"sub:{name}")
        stop_listening(subscription.topic, subscription)
        if isinstance(subscription, FilteredSubscription):
            subscription.gate.close()
        for group in list(subscription.groups):
            layer_of(subscription.topic).stream_unsubscribe(group, subscription)
        self._context.growing.leave(subscription)
        self._context.streams.stop_all(name)
        if subscription.occupies:
            subscription.occupies = False
            self._context.occupied.leave(subscription.topic)
        if subscription.present:
            subscription.present = False
            tracker = self._context.trackers.get(subscription.topic.layer)
            tracker.remove(name, self._context.client_id)

    def _push(self, push: Push) -> None:
        self._outbox.push(self._outbox.codec.encode(Reply(push=push)))
