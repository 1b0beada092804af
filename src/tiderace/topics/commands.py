"""What a topic client may ask for, command by command.

It knows topics' policy, layers and tokens, and speaks to the client by way of its
conductor. Checks come before effects: a command that is refused has changed nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from tiderace.asgi import describe
from tiderace.exceptions import LayerUnavailable, TokenExpired, TokenInvalid
from tiderace.history import Position
from tiderace.layers.presence import Member
from tiderace.protocol import codes
from tiderace.protocol.codes import Failure
from tiderace.protocol.frames import (
    ClientInfo,
    ConnectRequest,
    ConnectResult,
    Empty,
    HistoryRequest,
    HistoryResult,
    PresenceResult,
    PresenceStatsResult,
    PublishRequest,
    Push,
    RefreshRequest,
    RefreshResult,
    Reply,
    RPCRequest,
    RPCResult,
    SendRequest,
    SubRefreshRequest,
    SubRefreshResult,
    SubscribePush,
    SubscribeRequest,
    SubscribeResult,
    TopicRequest,
)
from tiderace.protocol.session import Ended, Granted, Refused, State, to_pub
from tiderace.ratelimit import Rate, TokenBucket
from tiderace.topics.hooks import call_hook
from tiderace.topics.identity import identity_of
from tiderace.topics.names import events_group, topic_group
from tiderace.topics.permissions import allowed
from tiderace.topics.presence import Presence
from tiderace.topics.process import Process
from tiderace.topics.publishing import control_layer, layer_of, record_of
from tiderace.topics.served import Joined, Served
from tiderace.topics.tokens import read_subscription_token
from tiderace.topics.topic import (
    Refuse,
    Topic,
    UnknownTopic,
    call_with,
    declared,
    to_json,
)

__all__ = ["Commands"]

logger = logging.getLogger("tiderace.topics")

After = Callable[[], None]

# How often a stream is read again when publications were lost while it was read.
_TRIES = 5
# Seconds after a token's end in which the client may still come with another.
_GRACE = 25.0


class Commands:
    """Carries out the commands of one client, one at a time."""

    def __init__(self, conductor: Served, process: Process) -> None:
        self._conductor = conductor
        self._process = process
        self._session = conductor.session
        self._buckets: dict[type[Topic], TokenBucket] = {}
        self._by_name: dict[str, Callable[[Any, Reply], Coroutine[Any, Any, Any]]] = {
            "connect": self._connect,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "publish": self._publish,
            "history": self._history,
            "presence": self._presence,
            "presence_stats": self._presence_stats,
            "rpc": self._rpc,
            "send": self._send,
            "refresh": self._refresh,
            "sub_refresh": self._sub_refresh,
            "ping": self._ping,
        }

    async def carry_out(self, name: str, request: Any, reply: Reply) -> After | None:
        """Do what ``request`` asks for and write the answer into ``reply``.

        Returns:
            What is to be done right after the answer was sent.

        Raises:
            Refused: when it is answered with an error.
            Ended: when the connection is to be closed.
        """
        try:
            after: After | None = await self._by_name[name](request, reply)
        except Refuse as refuse:
            raise Refused(refuse.failure) from None
        except UnknownTopic as unknown:
            logger.info("%s (%s)", unknown, describe(self._conductor.scope))
            raise Refused(codes.UNKNOWN_TOPIC) from None
        except LayerUnavailable as error:
            logger.warning("a command %s failed: %s", name, error)
            raise Refused(codes.INTERNAL) from None
        except (Refused, Ended, asyncio.CancelledError):
            raise
        except Exception:
            # The application's own mistake: the client learns that there was one.
            logger.exception(
                "a command %s failed (%s)", name, describe(self._conductor.scope)
            )
            raise Refused(codes.INTERNAL) from None
        return after

    # Connect

    async def _connect(self, request: ConnectRequest, reply: Reply) -> After | None:
        conductor, session = self._conductor, self._session
        endpoint, settings = conductor.endpoint, conductor.settings
        try:
            await endpoint.admit()
            _merge_headers(conductor.scope, request.headers)
            try:
                identity = await identity_of(conductor.scope, request.token)
            except TokenExpired:
                raise Refused(codes.TOKEN_EXPIRED) from None
            except TokenInvalid as invalid:
                raise Ended(codes.CLOSE_INVALID_TOKEN, f"token: {invalid}") from None
            if not identity.user_id and not settings.anonymous:
                raise Refused(codes.UNAUTHORIZED)
            if identity.info is None:
                info = await call_hook(
                    endpoint.user_info, identity.user, conductor.scope
                )
                if info is not None:
                    identity = dataclasses.replace(identity, info=to_json(info))
            conductor.identity = identity
            data = await call_hook(
                endpoint.on_connect, identity.user, _json(request.data)
            )
            if identity.user_id:
                await conductor.listen_as_user()
            subs, afters = await self._subscribe_on_connect(request.subs or {})
        except Refused:
            session.state = State.NEW
            raise
        reply.connect = ConnectResult(
            client=conductor.client,
            version=endpoint.version,
            data=_raw(data),
            subs=subs or None,
            ping=max(1, round(settings.ping)),
            pong=True,
            expires=identity.expires_at is not None,
            ttl=_ttl(identity.expires_at),
            session=conductor.secret if conductor.transport.emulated else "",
            node=self._process.node if conductor.transport.emulated else "",
        )
        self._set_expiry(identity.expires_at)

        def after() -> None:
            conductor.connected()
            for each in afters:
                each()

        return after

    async def _subscribe_on_connect(
        self, asked: dict[str, SubscribeRequest]
    ) -> tuple[dict[str, SubscribeResult], list[After]]:
        identity = self._conductor.identity
        topics: dict[str, bool] = dict.fromkeys(identity.topics, True)
        for kind in declared:
            for name in await call_hook(kind.topics_for, identity.user):
                topics.setdefault(name, False)
        results: dict[str, SubscribeResult] = {}
        afters: list[After] = []
        for name, by_token in topics.items():
            request = asked.get(name, SubscribeRequest())
            request.channel, request.token = name, ""
            try:
                results[name], after = await self._begin(
                    request, server_side=True, trusted=by_token
                )
            except (Refused, UnknownTopic) as error:
                logger.info("no subscription to %s on connect: %s", name, error)
            else:
                afters.append(after)
        return results, afters

    def _set_expiry(self, expires_at: float | None) -> None:
        conductor = self._conductor
        if expires_at is None:
            conductor.silence("expiry")
            return
        conductor.alarm_at(
            "expiry", expires_at + _GRACE, lambda: conductor.end(codes.CLOSE_EXPIRED)
        )

    async def _refresh(self, request: RefreshRequest, reply: Reply) -> None:
        conductor = self._conductor
        if not request.token:
            raise Refused(codes.BAD_REQUEST)
        try:
            identity = await identity_of(conductor.scope, request.token)
        except TokenExpired:
            raise Refused(codes.TOKEN_EXPIRED) from None
        except TokenInvalid as invalid:
            raise Ended(codes.CLOSE_INVALID_TOKEN, f"token: {invalid}") from None
        if identity.user_id != conductor.identity.user_id:
            raise Ended(codes.CLOSE_INVALID_TOKEN, "a token of another user")
        conductor.identity = dataclasses.replace(
            conductor.identity, expires_at=identity.expires_at
        )
        self._set_expiry(identity.expires_at)
        reply.refresh = RefreshResult(
            client=conductor.client,
            version=conductor.endpoint.version,
            expires=identity.expires_at is not None,
            ttl=_ttl(identity.expires_at),
        )

    # Subscriptions

    async def _subscribe(self, request: SubscribeRequest, reply: Reply) -> After:
        reply.subscribe, after = await self._begin(request)
        return after

    async def subscribe_from_here(self, name: str) -> None:
        """Subscribe the client to a topic that it did not ask for, and tell it."""
        try:
            result, after = await self._begin(
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

    async def _begin(
        self,
        request: SubscribeRequest,
        *,
        server_side: bool = False,
        trusted: bool = False,
    ) -> tuple[SubscribeResult, After]:
        conductor = self._conductor
        name = request.channel
        subscription = self._session.subscribe(name, server_side=server_side)
        joined: Joined | None = None
        try:
            topic = declared.resolve(name)
            expires_at = await self._permitted(topic, request, trusted=trusted)
            data = None
            if topic.on_subscribe is not None:
                data = await call_hook(topic.on_subscribe, conductor.identity.user)
            history = topic.history is not None
            granted = Granted(
                recoverable=history,
                joins=topic.presence is not Presence.OFF
                and (topic.push_joins or request.join_leave),
                data=_raw(data),
                expires_at=expires_at,
            )
            joined = conductor.join(subscription, topic)
            joined.by_policy = not (trusted or request.token)
            layer = layer_of(topic)
            await layer.listen(joined.group, joined.ear)
            if topic.presence is not Presence.OFF:
                await layer.listen(events_group(name), joined.ear)
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
            result.expires, result.ttl = True, _ttl(expires_at)
            self._set_subscription_expiry(name, expires_at)

        def after() -> None:
            conductor.pass_on_later(subscription, later)

        return result, after

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
            expires_at: float | None = self._read_token(
                request.token, topic.topic
            ).expires_at
            return expires_at
        if topic.require_token:
            raise Refused(codes.PERMISSION_DENIED)
        await self._require(topic, "subscribe")
        return None

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
        self, joined: Joined, request: SubscribeRequest, granted: Granted
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
            expires_at + _GRACE,
            lambda: conductor.unsubscribe(name, codes.UNSUBSCRIBED_EXPIRED),
        )

    async def _sub_refresh(self, request: SubRefreshRequest, reply: Reply) -> None:
        if request.channel not in self._conductor.joined:
            raise Refused(codes.BAD_REQUEST)
        said = self._read_token(request.token, request.channel)
        if said.expires_at is None:
            self._conductor.silence(f"sub:{request.channel}")
        else:
            self._set_subscription_expiry(request.channel, said.expires_at)
        reply.sub_refresh = SubRefreshResult(
            expires=said.expires_at is not None, ttl=_ttl(said.expires_at)
        )

    async def _unsubscribe(self, request: TopicRequest, reply: Reply) -> None:
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
            layer.unlisten(group, joined.ear)
        return self._left(joined)

    async def _left(self, joined: Joined) -> None:
        if not joined.present:
            return
        joined.present = False
        keeper = self._process.keeper(joined.topic.layer)
        await keeper.leave(joined.topic.topic, self._conductor.client)

    async def leave_all(self) -> None:
        """End every subscription, and stop listening for the user."""
        conductor = self._conductor
        ear, conductor.user_ear = conductor.user_ear, None
        if ear is not None:
            for group in list(ear.groups):
                control_layer().unlisten(group, ear)
        rest = [self.leave(name) for name in list(conductor.joined)]
        for result in await asyncio.gather(*rest, return_exceptions=True):
            if isinstance(result, Exception):
                logger.warning("leaving a topic failed: %s", result)

    # Publish

    async def _publish(self, request: PublishRequest, reply: Reply) -> None:
        await self._publish_to(request.channel, _bytes(request.data))
        reply.publish = Empty()

    async def _publish_to(self, name: str, data: bytes, key: str = "") -> None:
        conductor = self._conductor
        topic = self._subscribed_topic(name)
        if not data:
            raise Refused(codes.BAD_REQUEST)
        self._limit_rate(topic)
        user = conductor.identity.user
        await self._require(topic, "publish")
        layer = layer_of(topic)
        if key:
            # Of one user: nobody can use up another one's keys.
            key = f"{conductor.identity.user_id}:{key}"
        message = topic.checked(data)
        if topic.on_publish is None:
            text = to_json(message) if topic.message is not None else data.decode()
        else:
            message = await call_hook(topic.on_publish, user, message)
            if message is None:
                return
            text = to_json(message)
        info = msgspec.json.encode(self.client_info()).decode()
        await layer.stream_publish(
            topic_group(name),
            record_of(name, text, info=info),
            keep=topic.keep(),
            key=key,
        )

    def _limit_rate(self, topic: Topic) -> None:
        if topic.publish_rate is None:
            return
        bucket = self._buckets.get(type(topic))
        if bucket is None:
            bucket = TokenBucket(Rate.parse(topic.publish_rate))
            self._buckets[type(topic)] = bucket
        if bucket.take():
            raise Refused(codes.TOO_MANY_REQUESTS)

    def client_info(self) -> ClientInfo:
        """This client as others see it."""
        identity = self._conductor.identity
        info = ClientInfo(user=identity.user_id, client=self._conductor.client)
        if identity.info is not None:
            info.conn_info = Raw(identity.info.encode())
        return info

    # Asking

    def _subscribed_topic(self, name: str) -> Topic:
        joined = self._conductor.joined.get(name)
        if joined is None:
            declared.resolve(name)
            raise Refused(codes.PERMISSION_DENIED)
        return joined.topic

    async def permits(self, topic: Topic) -> bool:
        """Whether the topic's permissions let this client subscribe."""
        conductor = self._conductor
        user = conductor.identity.user
        return await allowed(topic, user, "subscribe", conductor.scope)

    async def _require(self, topic: Topic, action: Any) -> None:
        conductor = self._conductor
        if not await allowed(topic, conductor.identity.user, action, conductor.scope):
            raise Refused(codes.PERMISSION_DENIED)

    async def _history(self, request: HistoryRequest, reply: Reply) -> None:
        topic = self._subscribed_topic(request.channel)
        if topic.history is None:
            raise Refused(codes.NOT_AVAILABLE)
        await self._require(topic, "history")
        since = request.since
        position = None if since is None else Position(since.epoch, since.offset)
        top, publications = await layer_of(topic).stream_read(
            topic_group(request.channel),
            keep=topic.keep(),
            since=position,
            limit=request.limit if request.limit >= 0 else None,
            reverse=request.reverse,
        )
        if position is not None and position.epoch not in ("", top.epoch):
            raise Refused(codes.UNRECOVERABLE)
        reply.history = HistoryResult(
            publications=[to_pub(each) for each in publications],
            epoch=top.epoch,
            offset=top.offset,
        )

    async def _enter(self, joined: Joined) -> None:
        topic, identity = joined.topic, self._conductor.identity
        member = Member(
            client=self._conductor.client, user=identity.user_id, info=identity.info
        )
        joined.present = True
        keeper = self._process.keeper(topic.layer)
        await keeper.enter(
            topic.topic, member, topic.presence, grace=topic.presence_grace
        )

    async def _presence(self, request: TopicRequest, reply: Reply) -> None:
        topic = await self._present_topic(request.channel)
        members = await layer_of(topic).presence.members(
            topic.topic, per_user=topic.presence is Presence.PER_USER
        )
        reply.presence = PresenceResult(
            presence={
                client: ClientInfo(
                    user=member.user,
                    client=client,
                    conn_info=UNSET
                    if member.info is None
                    else Raw(member.info.encode()),
                )
                for client, member in members.items()
            }
        )

    async def _presence_stats(self, request: TopicRequest, reply: Reply) -> None:
        topic = await self._present_topic(request.channel)
        clients, users = await layer_of(topic).presence.stats(topic.topic)
        reply.presence_stats = PresenceStatsResult(num_clients=clients, num_users=users)

    async def _present_topic(self, name: str) -> Topic:
        topic = self._subscribed_topic(name)
        if topic.presence is Presence.OFF:
            raise Refused(codes.NOT_AVAILABLE)
        await self._require(topic, "presence")
        return topic

    # Calls

    async def _rpc(self, request: RPCRequest, reply: Reply) -> None:
        data = _bytes(request.data)
        if request.method == "$publish":
            await self._publish_with_key(data)
            answer: Any = None
        elif request.method == "$call":
            answer = await self._call_topic(data)
        else:
            answer = await self._call_endpoint(request.method, data)
        reply.rpc = RPCResult(data=_raw(answer, always=True))

    async def _publish_with_key(self, data: bytes) -> None:
        asked = _fields(data, _Publish)
        await self._publish_to(asked.channel, bytes(asked.data), asked.key)

    async def _call_topic(self, data: bytes) -> Any:
        asked = _fields(data, _Call)
        topic = self._subscribed_topic(asked.channel)
        method = topic.method(asked.method)
        if method is None:
            raise Refused(codes.METHOD_NOT_FOUND)
        return await self._call(method, bytes(asked.data))

    async def _call_endpoint(self, name: str, data: bytes) -> Any:
        method = self._conductor.endpoint.method(name)
        if method is None:
            raise Refused(codes.METHOD_NOT_FOUND)
        return await self._call(method, data)

    async def _call(self, method: Callable[..., Any], data: bytes) -> Any:
        arguments = call_with(method, self._conductor.identity.user, data)
        try:
            async with asyncio.timeout(self._conductor.settings.call_timeout):
                return await call_hook(method, **arguments)
        except TimeoutError:
            raise Refused(
                Failure(100, "the call took too long", temporary=True)
            ) from None

    async def _send(self, request: SendRequest, reply: Reply) -> None:
        conductor = self._conductor
        await call_hook(
            conductor.endpoint.on_message,
            conductor.identity.user,
            _json(request.data),
        )

    async def _ping(self, request: Empty, reply: Reply) -> None:
        reply.ping = Empty()


class _Publish(msgspec.Struct):
    channel: str
    data: Raw
    key: str = ""


class _Call(msgspec.Struct):
    channel: str
    method: str
    data: Raw = Raw(b"")


def _fields(data: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise Refused(Failure(107, f"bad request: {error}")) from None


def _bytes(data: Raw | UnsetType) -> bytes:
    return b"" if isinstance(data, UnsetType) else bytes(data)


def _json(data: Raw | UnsetType) -> Any:
    text = _bytes(data)
    try:
        return msgspec.json.decode(text) if text else None
    except msgspec.MsgspecError:
        raise Refused(codes.BAD_REQUEST) from None


def _raw(value: Any, *, always: bool = False) -> Raw | UnsetType:
    if value is None and not always:
        return UNSET
    return Raw(to_json(value).encode())


def _ttl(expires_at: float | None) -> int:
    return 0 if expires_at is None else max(1, round(expires_at - time.time()))


def _merge_headers(scope: Any, headers: dict[str, str] | None) -> None:
    """Let some headers that a client sends in connect count as the request's.

    A browser cannot set any on a WebSocket. Only those of which no proxy says anything,
    and only where the request has none: a page may not claim another origin or address.
    """
    present = scope.get("headers", ())
    known = {name for name, _ in present}
    more = [
        (name.lower().encode("latin1", "replace"), value.encode("latin1", "replace"))
        for name, value in (headers or {}).items()
    ]
    scope["headers"] = [
        *present,
        *(each for each in more if each[0] in _HEADERS and each[0] not in known),
    ]


_HEADERS = frozenset({b"accept-language", b"authorization"})
