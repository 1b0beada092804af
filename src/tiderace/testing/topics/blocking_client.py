"""The client of topics for sync tests: the async one with methods that block."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from tiderace.history import Position
from tiderace.testing.topics.client import AsyncTopicsClient, ClientOptions
from tiderace.testing.topics.connection import TIMEOUT
from tiderace.testing.topics.loop_thread import LoopThread
from tiderace.testing.topics.subscribed_topic import (
    AsyncSubscribedTopic,
    ReceivedPublication,
    ReceivedWhisper,
)
from tiderace.topics.server_api.calls import HistoryPage, PresenceInfo

T = TypeVar("T")


class TopicsClient:
    """A client of the project's topics for sync tests::

        with TopicsClient(user=alice) as client:
            room = client.subscribe("room:tea")
            publish("room:tea", {"text": "hi"})
            assert room.receive() == {"text": "hi"}

    The server's part runs in another thread, and its sync code (permissions, hooks) in
    the thread of the test whenever that waits for the client: it sees the data that a
    ``TestCase`` has not committed.

    Args:
        loop: the thread that it shares with other clients; by default its own.
        options: as for ``AsyncTopicsClient``.
    """

    def __init__(
        self, *, loop: LoopThread | None = None, **options: Unpack[ClientOptions]
    ) -> None:
        self._client = AsyncTopicsClient(**options)
        self._loop = loop
        self._own_loop: LoopThread | None = None

    @property
    def id(self) -> str:
        """The client's id, from the reply to connect."""
        return self._client.id

    @property
    def data(self) -> Any:
        """The value that the hook ``on_connect`` returned."""
        return self._client.data

    def connect(self) -> Self:
        if self._loop is None:
            self._loop = self._own_loop = LoopThread()
        try:
            self._run(self._client.connect())
        except BaseException:
            self._close_loop()
            raise
        return self

    def disconnect(self) -> None:
        if self._loop is not None:
            self._run(self._client.disconnect())
            self._close_loop()

    def __enter__(self) -> Self:
        return self if self._client.connected else self.connect()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.disconnect()

    def topic(self, name: str) -> SubscribedTopic:
        return SubscribedTopic(self._client.topic(name), self._require_loop())

    def subscribe(
        self,
        name: str,
        *,
        token: str = "",
        data: Any = None,
        since: Position | None = None,
    ) -> SubscribedTopic:
        subscribing = self._client.subscribe(name, token=token, data=data, since=since)
        return SubscribedTopic(self._run(subscribing), self._require_loop())

    def call(self, method: str, /, **arguments: Any) -> Any:
        return self._run(self._client.call(method, **arguments))

    def send(self, data: Any) -> None:
        self._run(self._client.send(data))

    def receive(self, *, timeout: float | None = TIMEOUT) -> Any:
        return self._run(self._client.receive(timeout=timeout))

    def receive_close(self, *, timeout: float | None = TIMEOUT) -> tuple[int, str]:
        return self._run(self._client.receive_close(timeout=timeout))

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            coroutine.close()
        return self._require_loop().run(coroutine)

    def _require_loop(self) -> LoopThread:
        if self._loop is None:
            raise RuntimeError(
                "the client is not connected; call connect(), or use it in a with block"
            )
        return self._loop

    def _close_loop(self) -> None:
        if self._own_loop is not None:
            self._own_loop.close()
            self._own_loop = self._loop = None


class SubscribedTopic:
    """A topic as one client uses it; returned by ``TopicsClient.subscribe``.

    The methods are those of ``AsyncSubscribedTopic``.
    """

    def __init__(self, topic: AsyncSubscribedTopic, loop: LoopThread) -> None:
        self._topic = topic
        self._loop = loop

    @property
    def name(self) -> str:
        """The topic's name."""
        return self._topic.name

    @property
    def data(self) -> Any:
        """The value that the hook ``on_subscribe`` returned."""
        return self._topic.data

    @property
    def recovered(self) -> bool:
        """Whether all publications since the position of ``subscribe`` were recovered."""
        return self._topic.recovered

    @property
    def position(self) -> Position:
        """The end of the stream when the client subscribed."""
        return self._topic.position

    def unsubscribe(self) -> None:
        self._loop.run(self._topic.unsubscribe())

    def publish(self, data: Any) -> None:
        self._loop.run(self._topic.publish(data))

    def receive(self, *, timeout: float | None = TIMEOUT) -> Any:
        return self._loop.run(self._topic.receive(timeout=timeout))

    def receive_publication(
        self, *, timeout: float | None = TIMEOUT
    ) -> ReceivedPublication:
        return self._loop.run(self._topic.receive_publication(timeout=timeout))

    def unread(self) -> list[Any]:
        return self._loop.run(self._topic.unread())

    def history(
        self,
        *,
        limit: int | None = None,
        since: Position | None = None,
        reverse: bool = False,
    ) -> HistoryPage:
        reading = self._topic.history(limit=limit, since=since, reverse=reverse)
        return self._loop.run(reading)

    def call(self, method: str, /, **arguments: Any) -> Any:
        return self._loop.run(self._topic.call(method, **arguments))

    def stream(self, method: str, /, **arguments: Any) -> Generator[Any]:
        generator = self._topic.stream(method, **arguments)
        try:
            while True:
                try:
                    yield self._loop.run(anext(generator))
                except StopAsyncIteration:
                    return
        finally:
            self._loop.run(generator.aclose())

    def whisper(self, data: Any = None) -> None:
        self._loop.run(self._topic.whisper(data))

    def receive_whisper(self, *, timeout: float | None = TIMEOUT) -> ReceivedWhisper:
        return self._loop.run(self._topic.receive_whisper(timeout=timeout))

    def presence(self) -> list[PresenceInfo]:
        return self._loop.run(self._topic.presence())

    def receive_join(self, *, timeout: float | None = TIMEOUT) -> PresenceInfo:
        return self._loop.run(self._topic.receive_join(timeout=timeout))

    def receive_leave(self, *, timeout: float | None = TIMEOUT) -> PresenceInfo:
        return self._loop.run(self._topic.receive_leave(timeout=timeout))

    def receive_subscribe(self, *, timeout: float | None = TIMEOUT) -> None:
        self._loop.run(self._topic.receive_subscribe(timeout=timeout))

    def receive_unsubscribe(
        self, *, timeout: float | None = TIMEOUT
    ) -> tuple[int, str]:
        return self._loop.run(self._topic.receive_unsubscribe(timeout=timeout))
