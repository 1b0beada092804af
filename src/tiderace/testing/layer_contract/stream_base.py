"""What the parts of the contract of streams share: a listener, and short ways to speak.

It knows a layer by its public methods alone.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from tiderace.history import Position, Publication
from tiderace.layers.broker import Retention
from tiderace.testing.layer_contract.base import Contract

__all__ = ["RecordingListener", "Streams"]


class RecordingListener:
    """A listener that remembers what it was told, and in which thread.

    Args:
        name: no other listener to a group has it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.groups: set[str] = set()
        self.told: list[tuple[str, Publication | None]] = []
        self.threads: set[int] = set()

    def on_publication(self, group: str, publication: Publication) -> None:
        """Remember a publication."""
        self.told.append((group, publication))
        self.threads.add(threading.get_ident())

    def on_gap(self, group: str) -> None:
        """Remember, as None, that something was lost."""
        self.told.append((group, None))

    @property
    def data(self) -> list[str | None]:
        """The data of what was heard, with None for what was lost."""
        return [None if each is None else each.data for _, each in self.told]

    @property
    def offsets(self) -> list[int]:
        """Where what was heard stands."""
        return [each.position.offset for _, each in self.told if each is not None]


class Streams(Contract):
    """A part of the contract of streams; the whole one is ``StreamsContract``.

    Attributes:
        keep: see ``StreamsContract``.
    """

    keep = Retention(100, 3600)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when ``condition`` holds, which must be within ``patience``."""
        async with asyncio.timeout(self.patience):
            while not condition():  # noqa: ASYNC110 (nobody tells when it does)
                await asyncio.sleep(0.005)

    async def say(
        self, layer: Any, *numbers: object, group: str = "stream", **options: Any
    ) -> list[Position]:
        """Publish each of ``numbers`` as data, one after the other."""
        keep = options.pop("keep", self.keep)
        return [
            await layer.stream_publish(group, {"data": str(each)}, keep=keep, **options)
            for each in numbers
        ]

    async def kept(self, layer: Any, group: str = "stream", **options: Any) -> Any:
        """The data of what a stream has."""
        _, found = await layer.stream_read(group, **{"keep": self.keep, **options})
        return [publication.data for publication in found]
