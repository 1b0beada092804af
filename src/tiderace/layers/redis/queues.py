"""Named queues in Redis: messages that one reader takes, under a lease.

It knows the scripts and keys of queues, and neither readers nor what is in a message.
"""

from __future__ import annotations

import secrets
from typing import Any

from tiderace.layers.broker import Delivery
from tiderace.layers.redis.commands import CommandRunner
from tiderace.layers.redis.keys import KeySchema

__all__ = ["RedisQueues"]

# 16 digits of deadline and 16 of id stand before the data.
_HEAD = 32


class RedisQueues:
    """The verbs of ``Broker`` that are about queues; raises what they raise."""

    def __init__(self, calls: CommandRunner, names: KeySchema) -> None:
        self._calls = calls
        self._names = names

    async def push(self, queue: str, data: bytes, *, size: int, seconds: float) -> bool:
        """See ``Broker.push``."""
        token = secrets.token_hex(8)

        async def attempt(again: bool) -> Any:
            return await self._calls.try_script(
                "push",
                [f"{self._names.queue(queue)}:list"],
                [
                    self._names.queue_channel(queue),
                    data,
                    token,
                    size,
                    int(seconds * 1000),
                    1 if again else 0,
                    self._names.publish,
                ],
            )

        return bool(await self._calls.until_done(attempt))

    async def take(self, queue: str, *, lease: float) -> Delivery | None:
        """See ``Broker.take``."""
        item: bytes | None = await self._calls.script(
            "take", self._keys(queue), [int(lease * 1000)]
        )
        return None if item is None else Delivery(queue, item, item[_HEAD:])

    async def ack(self, delivery: Delivery) -> None:
        """See ``Broker.ack``."""
        await self._settle(delivery, "1")

    async def nack(self, delivery: Delivery, *, acked: bool) -> None:
        """See ``Broker.nack``."""
        await self._settle(delivery, "2" if acked else "0")

    async def _settle(self, delivery: Delivery, how: str) -> None:
        await self._calls.script(
            "ack",
            self._keys(delivery.queue),
            [
                delivery.token,
                how,
                self._names.queue_channel(delivery.queue),
                self._names.publish,
            ],
        )

    def _keys(self, queue: str) -> list[str]:
        key = self._names.queue(queue)
        return [f"{key}:list", f"{key}:taken"]
