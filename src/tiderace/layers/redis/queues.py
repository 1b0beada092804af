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

    def __init__(self, commands: CommandRunner, keys: KeySchema) -> None:
        self._commands = commands
        self._keys = keys

    async def push(self, queue: str, data: bytes, *, size: int, seconds: float) -> bool:
        token = secrets.token_hex(8)

        async def attempt(again: bool) -> Any:
            return await self._commands.try_script(
                "push",
                [f"{self._keys.queue(queue)}:list"],
                [
                    self._keys.queue_channel(queue),
                    data,
                    token,
                    size,
                    int(seconds * 1000),
                    1 if again else 0,
                    self._keys.publish,
                ],
            )

        return bool(await self._commands.call_with_retry(attempt))

    async def take(self, queue: str, *, lease: float) -> Delivery | None:
        item: bytes | None = await self._commands.run_script(
            "take", self._queue_keys(queue), [int(lease * 1000)]
        )
        return None if item is None else Delivery(queue, item, item[_HEAD:])

    async def ack(self, delivery: Delivery) -> None:
        await self._settle(delivery, "1")

    async def nack(self, delivery: Delivery, *, acked: bool = False) -> None:
        await self._settle(delivery, "2" if acked else "0")

    async def _settle(self, delivery: Delivery, how: str) -> None:
        await self._commands.run_script(
            "ack",
            self._queue_keys(delivery.queue),
            [
                delivery.token,
                how,
                self._keys.queue_channel(delivery.queue),
                self._keys.publish,
            ],
        )

    def _queue_keys(self, queue: str) -> list[str]:
        key = self._keys.queue(queue)
        return [f"{key}:list", f"{key}:taken"]
