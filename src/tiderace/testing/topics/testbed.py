"""The surroundings of a test of topics: fresh layers, captured publications, clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self, Unpack
from unittest import mock

from django.apps import apps

from tiderace.history import Position, Publication
from tiderace.layers import InMemoryChannelLayer
from tiderace.layers.broker import KEY_TTL, Retention
from tiderace.layers.manager import channel_layers
from tiderace.ratelimit import Rate
from tiderace.testing.topics.blocking_client import TopicsClient
from tiderace.testing.topics.client import AsyncTopicsClient, ClientOptions
from tiderace.testing.topics.commits import publications_at_commit
from tiderace.testing.topics.loop_thread import LoopThread
from tiderace.topics.declaration.topic import declared
from tiderace.topics.fanout.listening import without_pace


@dataclass(frozen=True, slots=True)
class CapturedPublication:
    """A publication to a topic, by the server or by a client."""

    topic: str
    data: Any
    """The data as a subscriber receives it: plain Python from JSON, or bytes."""
    tags: Mapping[str, str]


class _CapturingLayer(InMemoryChannelLayer):
    """A layer in memory that keeps a list of the publications to topics."""

    def __init__(self, publications: list[CapturedPublication]) -> None:
        super().__init__()
        self._publications = publications

    async def stream_publish(
        self,
        group: str,
        record: Mapping[str, Any],
        *,
        keep: Retention,
        key: str = "",
        key_ttl: float = KEY_TTL,
        limit: tuple[str, Rate] | None = None,
    ) -> Position:
        known = bool(key) and await self.stream_find_published(group, key) is not None
        position = await super().stream_publish(
            group, record, keep=keep, key=key, key_ttl=key_ttl, limit=limit
        )
        if not known and record.get("topic"):
            captured = CapturedPublication(
                record["topic"],
                Publication.of_record(Position("", 0), record).value,
                dict(record.get("tags") or {}),
            )
            self._publications.append(captured)
        return position


class TopicsTestbed:
    """Runs a test of topics: fresh layers, captured publications and clients.

    ``TopicsTestMixin`` and the pytest fixture ``topics`` have one for each test. While it
    is open, every alias in ``CHANNEL_LAYERS`` is a new layer in memory, whatever its
    backend is, and inside a ``TestCase`` publications are sent at the point where their
    transaction would be committed. Without a relay, those in the outbox are handed over
    when their transaction is committed. Topics with ``deliver = Latest(...)`` do not
    wait: a test client gets every publication at once.
    """

    def __init__(self) -> None:
        self.publications: list[CapturedPublication] = []
        """The publications to all topics, oldest first."""
        self._loop: LoopThread | None = None
        self._stack = ExitStack()

    def published_to(self, topic: str) -> list[Any]:
        """Return the data of the publications to a topic, oldest first.

        Raises:
            UnknownTopic: when no declared topic has this name.
        """
        declared.resolve(topic)
        return [each.data for each in self.publications if each.topic == topic]

    def connect(self, **options: Unpack[ClientOptions]) -> TopicsClient:
        """Return a connected client, which is disconnected at the end of the test.

        Args:
            options: as for ``AsyncTopicsClient``, such as ``user``.

        Raises:
            Refusal: when the server refuses the connection.
        """
        if self._loop is None:
            self._loop = LoopThread()
            self._stack.callback(self._loop.close)
        client = TopicsClient(loop=self._loop, **options).connect()
        self._stack.callback(client.disconnect)
        return client

    async def aconnect(self, **options: Unpack[ClientOptions]) -> AsyncTopicsClient:
        """Return a connected client for an async test, which ends with its event loop.

        Arguments and errors are those of ``connect``.
        """
        return await AsyncTopicsClient(**options).connect()

    def __enter__(self) -> Self:
        self._stack.enter_context(_layers(self.publications))
        self._stack.enter_context(publications_at_commit())
        self._stack.enter_context(_handed_over())
        self._stack.enter_context(without_pace())
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect the clients, and restore the project's layers."""
        self._stack.close()


@contextmanager
def _layers(publications: list[CapturedPublication]) -> Iterator[None]:
    """Replace the layers of all aliases by new ones in memory."""
    before = channel_layers.backends
    channel_layers.backends = {
        alias: _CapturingLayer(publications) for alias in channel_layers.configs
    }
    try:
        yield
    finally:
        channel_layers.backends = before


@contextmanager
def _handed_over() -> Iterator[None]:
    """Publish the rows of an outbox where its relay would be woken."""
    if not apps.is_installed("tiderace.outbox"):
        yield
        return
    # Their models can be imported only where the app is installed.
    from tiderace.outbox.hand_over import hand_over
    from tiderace.outbox.process import process_relays

    with mock.patch.object(process_relays, "wake", hand_over):
        yield
