"""What the parts of a layer's contract stand on: time, patience, what must be refused.

It knows no layer; what one has to do stands in the parts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Contract", "MakeLayer", "Refusal", "refused"]

MakeLayer = Callable[..., Any]
"""Makes a layer with the options that a test gives; a fixture of the subclass."""


class Refusal:
    """The error that a block raised."""

    error: BaseException


@contextmanager
def refused(*expected: type[BaseException]) -> Iterator[Refusal]:
    """Fail unless the block raises one of ``expected``."""
    refusal = Refusal()
    try:
        yield refusal
    except expected as error:
        refusal.error = error
    else:
        names = " or ".join(each.__name__ for each in expected)
        raise AssertionError(f"{names} was expected, but nothing was raised")


class Contract:
    """A part of the contract; whole ones are ``LayerContract`` and ``StreamsContract``.

    Attributes:
        expiry: see ``LayerContract``.
        group_expiry: see ``LayerContract``.
        patience: see ``LayerContract``.
    """

    expiry: float = 60
    group_expiry: float = 3600
    patience: float = 10

    async def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass for the layers of this test.

        Raises:
            NotImplementedError: when the subclass does not say how.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must say how time passes: define advance(seconds)"
        )

    async def soon(self, awaitable: Awaitable[Any]) -> Any:
        """The result of ``awaitable``, which must come within ``patience``."""
        async with asyncio.timeout(self.patience):
            return await awaitable

    async def drain(self, layer: Any, channel: str) -> list[Any]:
        """All unread messages of ``channel``, in order."""
        await layer.send(channel, {"type": "the.end"})
        messages = []
        while (message := await self.soon(layer.receive(channel))) != {
            "type": "the.end"
        }:
            messages.append(message)
        return messages
