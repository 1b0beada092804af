"""Named queues in Redis: each message is taken by one reader, under a lease."""

from __future__ import annotations

import secrets
from typing import Any

from tiderace.layers.broker import Delivery
from tiderace.layers.redis.commands import CommandRunner
from tiderace.layers.redis.keys import KeySchema

# 16 digits of deadline and 16 of id precede the data of an item.
_HEADER_SIZE = 32


class RedisQueues:
    """A ``QueueStore`` over one server, Sentinel set-up or cluster."""

    def __init__(self, commands: CommandRunner, keys: KeySchema) -> None:
        self._commands = commands
        self._keys = keys

    async def push(self, queue: str, data: bytes, *, size: int, seconds: float) -> bool:
        message_id = secrets.token_hex(8)

        async def attempt(is_retry: bool) -> Any:
            return await self._commands.try_script(
                "push",
                queue=self._keys.queue_list(queue),
                channel=self._keys.queue_channel(queue),
                data=data,
                id=message_id,
                capacity=size,
                ttl_ms=int(seconds * 1000),
                is_retry=int(is_retry),
                publish=self._keys.publish_command,
            )

        return bool(await self._commands.call_with_retry(attempt))

    async def take(self, queue: str, *, lease: float) -> Delivery | None:
        item: bytes | None = await self._commands.run_script(
            "take",
            queue=self._keys.queue_list(queue),
            taken=self._keys.taken(queue),
            lease_ms=int(lease * 1000),
        )
        return None if item is None else Delivery(queue, item, item[_HEADER_SIZE:])

    async def ack(self, delivery: Delivery) -> None:
        await self._finish(delivery, "ack")

    async def nack(self, delivery: Delivery, *, acked: bool = False) -> None:
        await self._finish(delivery, "unack" if acked else "nack")

    async def _finish(self, delivery: Delivery, action: str) -> None:
        await self._commands.run_script(
            "ack",
            queue=self._keys.queue_list(delivery.queue),
            taken=self._keys.taken(delivery.queue),
            item=delivery.token,
            action=action,
            channel=self._keys.queue_channel(delivery.queue),
            publish=self._keys.publish_command,
        )
