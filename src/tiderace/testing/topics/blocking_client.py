"""The client of topics for sync tests: the async one with methods that block."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack

from tiderace.history import Position
from tiderace.testing.topics.client import AsyncTopicsClient, ClientOptions
from tiderace.testing.topics.loop_thread import LoopThread
from tiderace.testing.topics.subscribed_topic import AsyncSubscribedTopic

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Any, P], T]:
    """Return a method of a class below that is one of its async class, and blocks."""

    @functools.wraps(method)
    def run(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = self._run(method(self._async, *args, **kwargs))
        return result

    return run


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
        self._async = AsyncTopicsClient(**options)
        self._loop = loop
        self._own_loop: LoopThread | None = None

    @property
    def id(self) -> str:
        """The client's id, from the reply to connect."""
        return self._async.id

    @property
    def data(self) -> Any:
        """The value that the hook ``on_connect`` returned."""
        return self._async.data

    def connect(self) -> Self:
        if self._loop is None:
            self._loop = self._own_loop = LoopThread()
        try:
            self._run(self._async.connect())
        except BaseException:
            self._close_loop()
            raise
        return self

    def disconnect(self) -> None:
        if self._loop is not None:
            self._run(self._async.disconnect())
            self._close_loop()

    def __enter__(self) -> Self:
        return self if self._async.connected else self.connect()

    def __exit__(self, *error: object) -> None:
        self.disconnect()

    def topic(self, name: str) -> SubscribedTopic:
        return SubscribedTopic(self._async.topic(name), self._require_loop())

    def subscribe(
        self,
        name: str,
        *,
        token: str = "",
        data: Any = None,
        since: Position | None = None,
    ) -> SubscribedTopic:
        subscribing = self._async.subscribe(name, token=token, data=data, since=since)
        return SubscribedTopic(self._run(subscribing), self._require_loop())

    call = _blocking(AsyncTopicsClient.call)
    send = _blocking(AsyncTopicsClient.send)
    receive = _blocking(AsyncTopicsClient.receive)
    receive_close = _blocking(AsyncTopicsClient.receive_close)

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
        self._async = topic
        self._run = loop.run

    @property
    def name(self) -> str:
        """The topic's name."""
        return self._async.name

    @property
    def data(self) -> Any:
        """The value that the hook ``on_subscribe`` returned."""
        return self._async.data

    @property
    def recovered(self) -> bool:
        """Whether all publications since the position of ``subscribe`` were recovered."""
        return self._async.recovered

    @property
    def position(self) -> Position:
        """The end of the stream when the client subscribed."""
        return self._async.position

    unsubscribe = _blocking(AsyncSubscribedTopic.unsubscribe)
    publish = _blocking(AsyncSubscribedTopic.publish)
    receive = _blocking(AsyncSubscribedTopic.receive)
    receive_publication = _blocking(AsyncSubscribedTopic.receive_publication)
    unread = _blocking(AsyncSubscribedTopic.unread)
    history = _blocking(AsyncSubscribedTopic.history)
    call = _blocking(AsyncSubscribedTopic.call)
    whisper = _blocking(AsyncSubscribedTopic.whisper)
    receive_whisper = _blocking(AsyncSubscribedTopic.receive_whisper)
    presence = _blocking(AsyncSubscribedTopic.presence)
    receive_join = _blocking(AsyncSubscribedTopic.receive_join)
    receive_leave = _blocking(AsyncSubscribedTopic.receive_leave)
    receive_subscribe = _blocking(AsyncSubscribedTopic.receive_subscribe)
    receive_unsubscribe = _blocking(AsyncSubscribedTopic.receive_unsubscribe)

    def stream(self, method: str, /, **arguments: Any) -> Generator[Any]:
        """Call a method that is an async generator, and yield what it yields."""
        generator = self._async.stream(method, **arguments)
        try:
            while True:
                try:
                    yield self._run(anext(generator))
                except StopAsyncIteration:
                    return
        finally:
            self._run(generator.aclose())
