"""What a subscriber may do with a topic: publish, read, see who is there, call.

It knows topics' policy and layers. Everything here is for subscribers, and for those who
might be where a topic says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from tiderace.history import Position
from tiderace.presence.tracker import Presence
from tiderace.protocol import codes
from tiderace.protocol.codes import Failure
from tiderace.protocol.messages import (
    ClientInfo,
    Empty,
    HistoryRequest,
    HistoryResult,
    PresenceResult,
    PresenceStatsResult,
    PublishRequest,
    Reply,
    RPCRequest,
    RPCResult,
    TopicRequest,
)
from tiderace.protocol.session import Refused, to_pub
from tiderace.ratelimit import Rate, TokenBucket
from tiderace.topics.api import layer_of, record_of
from tiderace.topics.client.served import Served
from tiderace.topics.hub import TopicHub
from tiderace.topics.json_fields import as_bytes, as_raw, read_fields
from tiderace.topics.names import topic_group
from tiderace.topics.permissions import allowed
from tiderace.topics.topic import Topic, call_with, declared, to_json
from tiderace.topics.user_code import call_hook

__all__ = ["Participating"]


class Participating:
    """What one client does with the topics that it is subscribed to."""

    def __init__(self, conductor: Served, process: TopicHub) -> None:
        self._conductor = conductor
        self._process = process
        self._buckets: dict[type[Topic], TokenBucket] = {}

    async def publish(self, request: PublishRequest, reply: Reply) -> None:
        """The command of that name."""
        await self._publish_to(request.channel, as_bytes(request.data))
        reply.publish = Empty()

    async def _publish_to(self, name: str, data: bytes, key: str = "") -> None:
        topic = await self._topic(name)
        if not data:
            raise Refused(codes.BAD_REQUEST)
        self._limit_rate(topic)
        await self._require(topic, "publish")
        layer = layer_of(topic)
        await self._limit_user(topic, layer)
        if not key:
            await self._publish_now(topic, data)
            return
        # Of one user: nobody can use up another one's keys.
        key = f"{self._conductor.identity.user_id}:{key}"

        async def publish() -> None:
            # Else the application has done its part, and only the answer was lost.
            if await layer.stream_find_published(topic_group(name), key) is None:
                await self._publish_now(topic, data, key)

        # Not by the layer alone: a client may be back before the application is done.
        await self._process.once.do((name, key), publish)

    async def _publish_now(self, topic: Topic, data: bytes, key: str = "") -> None:
        message = topic.checked(data)
        if topic.on_publish is None:
            text = to_json(message) if topic.message is not None else data.decode()
        else:
            user = self._conductor.identity.user
            message = await call_hook(topic.on_publish, user, message)
            if message is None:
                return
            text = to_json(message)
        info = msgspec.json.encode(self._client_info()).decode()
        await layer_of(topic).stream_publish(
            topic_group(topic.topic),
            record_of(topic.topic, text, info=info),
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

    async def _limit_user(self, topic: Topic, layer: Any) -> None:
        user_id = self._conductor.identity.user_id
        if topic.user_rate is None or not user_id:
            return
        # Of all topics of this kind, or a second name would be a second allowance.
        kind = type(topic)
        key = f"publish:{kind.__module__}.{kind.__qualname__}:{user_id}"
        if await layer.take_token(key, Rate.parse(topic.user_rate)):
            raise Refused(codes.TOO_MANY_REQUESTS)

    def _client_info(self) -> ClientInfo:
        """This client as others see it."""
        identity = self._conductor.identity
        info = ClientInfo(user=identity.user_id, client=self._conductor.client)
        if identity.info is not None:
            info.conn_info = Raw(identity.info.encode())
        return info

    # Asking

    async def _topic(self, name: str) -> Topic:
        """The topic of this name, if the client may take part in it."""
        joined = self._conductor.joined.get(name)
        if joined is not None:
            return joined.topic
        topic = declared.resolve(name)
        if topic.subscribers_only or topic.require_token:
            raise Refused(codes.PERMISSION_DENIED)
        await self._require(topic, "subscribe")
        return topic

    async def _require(self, topic: Topic, action: Any) -> None:
        conductor = self._conductor
        if not await allowed(topic, conductor.identity.user, action, conductor.scope):
            raise Refused(codes.PERMISSION_DENIED)

    async def history(self, request: HistoryRequest, reply: Reply) -> None:
        """The command of that name."""
        topic = await self._topic(request.channel)
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

    async def presence(self, request: TopicRequest, reply: Reply) -> None:
        """The command of that name."""
        topic = await self._present_topic(request.channel)
        # Read once for a crowd that asks at the same time.
        keeper = self._process.keeper(topic.layer)
        members = await keeper.members(topic.topic, topic.presence)
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

    async def presence_stats(self, request: TopicRequest, reply: Reply) -> None:
        """The command of that name."""
        topic = await self._present_topic(request.channel)
        keeper = self._process.keeper(topic.layer)
        clients, users = await keeper.stats(topic.topic)
        reply.presence_stats = PresenceStatsResult(num_clients=clients, num_users=users)

    async def _present_topic(self, name: str) -> Topic:
        topic = await self._topic(name)
        if topic.presence is Presence.OFF:
            raise Refused(codes.NOT_AVAILABLE)
        await self._require(topic, "presence")
        return topic

    # Calls

    async def rpc(self, request: RPCRequest, reply: Reply) -> None:
        """The command of that name."""
        data = as_bytes(request.data)
        if request.method == "$publish":
            await self._publish_with_key(data)
            answer: Any = None
        elif request.method == "$call":
            answer = await self._call_topic(data)
        else:
            answer = await self._call_endpoint(request.method, data)
        reply.rpc = RPCResult(data=as_raw(answer, always=True))

    async def _publish_with_key(self, data: bytes) -> None:
        asked = read_fields(data, _Publish)
        await self._publish_to(asked.channel, bytes(asked.data), asked.key)

    async def _call_topic(self, data: bytes) -> Any:
        asked = read_fields(data, _Call)
        topic = await self._topic(asked.channel)
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


class _Publish(msgspec.Struct):
    channel: str
    data: Raw
    key: str = ""


class _Call(msgspec.Struct):
    channel: str
    method: str
    data: Raw = Raw(b"")
