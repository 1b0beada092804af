"""A topic as a test client uses it, and what the client receives in it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import Raw

from tiderace.history import Position, Publication
from tiderace.presence.tracker import Presence
from tiderace.protocol.messages import (
    ClientInfo,
    DataMessage,
    Empty,
    HistoryRequest,
    HistoryResult,
    Pub,
    PublishRequest,
    Push,
    RPCRequest,
    StreamPosition,
    SubscribeResult,
    TopicRequest,
)
from tiderace.testing.topics.connection import TIMEOUT, TopicsConnection
from tiderace.testing.topics.refusals import Refusal
from tiderace.topics.declaration.topic import declared
from tiderace.topics.json_fields import as_bytes, as_python, as_raw
from tiderace.topics.server_api.calls import HistoryPage, PresenceInfo

_stream_ids = itertools.count(1)


@dataclass(frozen=True, slots=True)
class ReceivedPublication:
    """A publication as a client receives it."""

    data: Any
    offset: int
    """Its place in the topic's stream; 0 in a topic without history."""
    publisher: PresenceInfo | None
    """The client that published it; None for the server."""
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ReceivedWhisper:
    """A whisper of another subscriber."""

    data: Any
    sender: PresenceInfo


class AsyncSubscribedTopic:
    """A topic as one client uses it; returned by ``AsyncTopicsClient.subscribe``.

    All methods raise ``Refusal`` when the server refuses the command, or has ended the
    subscription or the connection; those with a timeout (in seconds; None for no limit)
    raise ``TimeoutError`` when nothing arrives in time.
    """

    def __init__(
        self, connection: TopicsConnection, name: str, *, client: str, user_id: str
    ) -> None:
        self.name = name
        self.data: Any = None
        """The value that the hook ``on_subscribe`` has returned."""
        self.recovered = False
        """Whether all publications since the position of ``subscribe`` were recovered."""
        self.position = Position("", 0)
        """The end of the stream when the client subscribed."""
        self._connection = connection
        self._client = client
        self._user_id = user_id

    def begin(self, result: SubscribeResult) -> None:
        """Take the reply to the subscribe command; called by the client."""
        self.data = as_python(result.data)
        self.recovered = result.recovered
        publications = result.publications or ()
        end = publications[-1].offset if publications else result.offset
        self.position = Position(result.epoch, end)
        for publication in publications:
            self._connection.put(Push(channel=self.name, pub=publication))

    async def unsubscribe(self) -> None:
        """End the subscription."""
        await self._ask("unsubscribe", TopicRequest(self.name), "unsubscribe from")

    # Publications

    async def publish(self, data: Any) -> None:
        """Publish as this client; returns when the server has accepted it."""
        is_bytes = isinstance(data, bytes) and self._is_binary
        raw = Raw(data) if is_bytes else as_raw(data, always=True)
        request = PublishRequest(self.name, raw)
        await self._ask("publish", request, "publish to")

    async def receive(self, *, timeout: float | None = TIMEOUT) -> Any:
        """Return the data of the next publication; wait for it."""
        return (await self.receive_publication(timeout=timeout)).data

    async def receive_publication(
        self, *, timeout: float | None = TIMEOUT
    ) -> ReceivedPublication:
        """Return the next publication with its publisher and tags; wait for it."""
        push = await self._connection.take("pub", self.name, timeout)
        return self._received(push)

    async def unread(self) -> list[Any]:
        """Return the data of the publications that have arrived and were not received.

        All that was published before the call has arrived, so an empty list means that
        nothing was published to this client.
        """
        await self._ask("ping", Empty(), "ping for")
        pushes = self._connection.take_received(
            lambda push: push.channel == self.name and push.pub is not None,
            everything=True,
        )
        return [self._received(push).data for push in pushes]

    async def history(
        self,
        *,
        limit: int | None = None,
        since: Position | None = None,
        reverse: bool = False,
    ) -> HistoryPage:
        """Return the history as this client may read it; arguments as of ``history()``."""
        start = None if since is None else StreamPosition(since.offset, since.epoch)
        request = HistoryRequest(
            self.name, -1 if limit is None else limit, start, reverse
        )
        result: HistoryResult = await self._ask("history", request, "read history of")
        return HistoryPage(
            [self._publication(result.epoch, each) for each in result.publications],
            Position(result.epoch, result.offset),
        )

    # Calls

    async def call(self, method: str, /, **arguments: Any) -> Any:
        """Call a method of the topic marked with ``@rpc``; return its result."""
        return await self._call(method, arguments, f"call {method!r} of")

    async def stream(self, method: str, /, **arguments: Any) -> AsyncGenerator[Any]:
        """Call a method that is an async generator, and yield what it yields.

        The end of this generator, as by ``contextlib.aclosing``, stops the method.
        """
        name = str(next(_stream_ids))
        call = {"id": name, "method": method, "data": arguments}
        await self._call("$stream", call, f"stream {method!r} of")
        part: dict[str, Any] = {}
        try:
            while not ("end" in part or "error" in part):
                part = await self._stream_part(name)
                for item in part.get("items", ()):
                    yield item
        finally:
            if not ("end" in part or "error" in part):
                await self._call("$stop", {"id": name}, f"stop {method!r} of")
        if "error" in part:
            code, message = part["error"]["code"], part["error"]["message"]
            raise Refusal(code, message, action=f"stream {method!r} of {self.name!r}")

    async def _stream_part(self, stream: str) -> dict[str, Any]:
        def belongs(push: Push) -> bool:
            message = push.message
            return message is not None and as_python(message.data)["stream"] == stream

        push = await self._connection.take("message", self.name, TIMEOUT, belongs)
        assert push.message is not None  # the kind that was asked for
        part: dict[str, Any] = as_python(push.message.data)
        return part

    async def _call(self, method: str, data: Any, action: str) -> Any:
        call = {"channel": self.name, "method": method, "data": data}
        request = RPCRequest(method="$call", data=as_raw(call))
        result: DataMessage = await self._ask("rpc", request, action)
        return as_python(result.data)

    # Whispers

    async def whisper(self, data: Any = None) -> None:
        """Whisper to the other subscribers; returns when the server has accepted it."""
        whisper = {"channel": self.name, "data": data}
        request = RPCRequest(method="$whisper", data=as_raw(whisper))
        await self._ask("rpc", request, "whisper to")

    async def receive_whisper(
        self, *, timeout: float | None = TIMEOUT
    ) -> ReceivedWhisper:
        """Return the next whisper of another subscriber; wait for it."""
        push = await self._connection.take("whisper", self.name, timeout)
        assert push.whisper is not None  # the kind that was asked for
        assert push.whisper.info is not None  # of every whisper
        return ReceivedWhisper(as_python(push.whisper.data), _member(push.whisper.info))

    # Presence and the end of the subscription

    async def presence(self) -> list[PresenceInfo]:
        """Return the members: connections, or users with ``Presence.PER_USER``."""
        request = TopicRequest(self.name)
        result = await self._ask("presence", request, "read presence of")
        return [_member(info) for info in result.presence.values()]

    async def receive_join(self, *, timeout: float | None = TIMEOUT) -> PresenceInfo:
        """Return the next member that joins, apart from this client; wait for it."""
        return await self._receive_change("join", timeout)

    async def receive_leave(self, *, timeout: float | None = TIMEOUT) -> PresenceInfo:
        """Return the next member that leaves; wait for it."""
        return await self._receive_change("leave", timeout)

    async def receive_subscribe(self, *, timeout: float | None = TIMEOUT) -> None:
        """Wait until the server has subscribed the client, by ``subscribe(user, ...)``."""
        push = await self._connection.take("subscribe", self.name, timeout)
        assert push.subscribe is not None  # the kind that was asked for
        self.begin(push.subscribe)

    async def receive_unsubscribe(
        self, *, timeout: float | None = TIMEOUT
    ) -> tuple[int, str]:
        """Wait until the server ends the subscription; return the code and reason."""
        push = await self._connection.take("unsubscribe", self.name, timeout)
        assert push.unsubscribe is not None  # the kind that was asked for
        return push.unsubscribe.code, push.unsubscribe.reason

    async def _receive_change(self, kind: str, timeout: float | None) -> PresenceInfo:
        topic = declared.resolve(self.name)
        if topic.presence is Presence.OFF:
            raise RuntimeError(
                f"nobody joins or leaves {self.name!r}: {type(topic).__name__}.presence "
                "is Presence.OFF; set it to PER_CONNECTION or PER_USER"
            )
        while True:
            push = await self._connection.take(kind, self.name, timeout)
            change = push.join or push.leave
            info = None if change is None else change.info
            if info is not None and not self._is_own(info, topic.presence):
                return _member(info)

    def _is_own(self, member: ClientInfo, presence: Presence) -> bool:
        """Return whether a member is this client, or its user with ``PER_USER``."""
        if presence is Presence.PER_USER and member.user:
            return member.user == self._user_id
        return member.client == self._client

    @property
    def _is_binary(self) -> bool:
        return declared.resolve(self.name).is_binary()

    def _received(self, push: Push) -> ReceivedPublication:
        publication = push.pub
        assert publication is not None  # the kind that was asked for
        data, info = publication.data, publication.info
        return ReceivedPublication(
            as_bytes(data) if self._is_binary else as_python(data),
            publication.offset,
            None if info is None else _member(info),
            publication.tags or {},
        )

    def _publication(self, epoch: str, publication: Pub) -> Publication:
        data = as_bytes(publication.data)
        return Publication(
            Position(epoch, publication.offset),
            data if self._is_binary else data.decode(),
            topic=self.name,
            tags=publication.tags,
            time=publication.time / 1000,
        )

    async def _ask(self, command: str, request: Any, action: str) -> Any:
        return await self._connection.request(
            command, request, f"{action} {self.name!r}"
        )


def _member(info: ClientInfo) -> PresenceInfo:
    return PresenceInfo(
        info.client, info.user, as_python(info.conn_info), as_python(info.chan_info)
    )
