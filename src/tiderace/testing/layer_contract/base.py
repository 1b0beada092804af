"""Base classes and helpers of the contract tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tiderace.history import Position, Publication
from tiderace.layers.broker import Retention

MakeLayer = Callable[..., Any]
"""Makes a layer with the given options; a fixture of the subclass."""


class RaisedError:
    """The error that a block raised."""

    error: BaseException


@contextmanager
def raises(*expected: type[BaseException]) -> Iterator[RaisedError]:
    """Fail unless the block raises one of ``expected``."""
    raised = RaisedError()
    try:
        yield raised
    except expected as error:
        raised.error = error
    else:
        names = " or ".join(each.__name__ for each in expected)
        raise AssertionError(f"{names} was expected, but nothing was raised")


class Contract:
    """Base of all contract tests; ``LayerContract`` describes the attributes."""

    expiry: float = 60
    group_expiry: float = 3600
    timeout: float = 10

    async def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass for the layers of this test.

        Raises:
            NotImplementedError: when the subclass does not define this method.
        """
        raise NotImplementedError(
            f"{type(self).__name__} cannot let time pass: define advance(seconds)"
        )

    async def wait_for(self, awaitable: Awaitable[Any]) -> Any:
        """Return the result of ``awaitable``; fail after ``timeout`` seconds."""
        async with asyncio.timeout(self.timeout):
            return await awaitable

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return when ``condition`` is true; fail after ``timeout`` seconds."""
        async with asyncio.timeout(self.timeout):
            while not condition():  # noqa: ASYNC110 (no event exists to wait for)
                await asyncio.sleep(0.005)

    async def receive(self, layer: Any, channel: Any) -> Any:
        """Return the next message of ``channel``; fail after ``timeout`` seconds."""
        return await self.wait_for(layer.receive(channel))

    async def join(self, layer: Any, group: str) -> str:
        """Return a new channel that is a member of ``group``."""
        channel: str = await layer.new_channel()
        await layer.group_add(group, channel)
        return channel

    async def read_all(self, layer: Any, channel: str) -> list[Any]:
        """Return the unread messages of ``channel``, in order."""
        end = {"type": "the.end"}
        await layer.send(channel, end)
        messages = []
        while (message := await self.receive(layer, channel)) != end:
            messages.append(message)
        return messages


class StreamContract(Contract):
    """Base of the tests of streams; ``StreamsContract`` describes the attribute."""

    keep = Retention(100, 3600)

    async def publish(
        self, layer: Any, *items: object, group: str = "stream", **options: Any
    ) -> list[Position]:
        """Publish each of ``items`` as data, one after the other."""
        keep = options.pop("keep", self.keep)
        return [
            await layer.stream_publish(group, {"data": str(each)}, keep=keep, **options)
            for each in items
        ]

    async def listen(self, layer: Any, group: str = "stream") -> RecordingListener:
        """Return a new listener to the stream of ``group``."""
        listener = RecordingListener()
        await layer.stream_subscribe(group, listener)
        return listener

    async def read_data(self, layer: Any, group: str = "stream", **options: Any) -> Any:
        """Return the data of each publication in the stream of ``group``."""
        _, found = await layer.stream_read(group, **{"keep": self.keep, **options})
        return [publication.data for publication in found]


class RecordingListener:
    """A stream listener that records its calls.

    Attributes:
        received: a pair (group, publication) for each call; None for a gap.
        threads: the ids of the threads in which publications came.
    """

    def __init__(self) -> None:
        self.groups: set[str] = set()
        self.received: list[tuple[str, Publication | None]] = []
        self.threads: set[int] = set()

    def on_publication(self, group: str, publication: Publication) -> None:
        """Record a publication."""
        self.received.append((group, publication))
        self.threads.add(threading.get_ident())

    def on_gap(self, group: str) -> None:
        """Record a gap, as None."""
        self.received.append((group, None))

    @property
    def data(self) -> list[Any]:
        """The data of each publication, with None for a gap."""
        return [None if each is None else each.data for _, each in self.received]

    @property
    def offsets(self) -> list[int]:
        """The offset of each publication."""
        return [each.position.offset for _, each in self.received if each is not None]
