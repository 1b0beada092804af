"""Named queues in the database: each message is taken by one reader, under a lease."""

from __future__ import annotations

import secrets
from typing import NamedTuple

from tiderace.layers.broker import Delivery
from tiderace.layers.database.executor import Executor
from tiderace.layers.database.vendor import Cursor, FeedRow


class _Taken(NamedTuple):
    """A message that was taken, and the token of its lease."""

    id: int
    expires_ms: int
    token: str
    data: bytes


class DatabaseQueues:
    """A ``QueueStore`` in a database.

    Args:
        executor: runs the operations.
        prefix: the beginning of every stored name.
    """

    def __init__(self, executor: Executor, prefix: str) -> None:
        self._executor = executor
        self._prefix = prefix

    async def push(self, queue: str, data: bytes, *, size: int, seconds: float) -> bool:
        name = self._prefix + queue
        return await self._executor.write(
            _push,
            name,
            data,
            size,
            int(seconds * 1000),
            lock=(_lock(name),),
            size=len(data),
        )

    async def take(self, queue: str, *, lease: float) -> Delivery | None:
        name = self._prefix + queue
        taken = await self._executor.write(
            _take, name, int(lease * 1000), lock=(_lock(name),)
        )
        if taken is None:
            return None
        token = f"{taken.id} {taken.expires_ms} {taken.token}".encode()
        return Delivery(queue, token, taken.data)

    async def ack(self, delivery: Delivery) -> None:
        name = self._prefix + delivery.queue
        await self._executor.write(_ack, _taken(delivery), lock=(_lock(name),))

    async def nack(self, delivery: Delivery, *, acked: bool = False) -> None:
        name = self._prefix + delivery.queue
        await self._executor.write(
            _nack, name, _taken(delivery), acked, lock=(_lock(name),)
        )


def ready_queues(cursor: Cursor, queues: set[str]) -> list[str]:
    """Return those of ``queues`` that have a message to take."""
    now = cursor.now_ms
    return [
        queue
        for queue in queues
        if cursor.fetch(
            "SELECT 1 FROM tiderace_layer_queue WHERE queue = %s AND taken_until_ms <= %s "
            "AND expires_ms > %s LIMIT 1",
            (queue, now, now),
        )
    ]


def _lock(name: str) -> str:
    return f"queue {name}"


def _taken(delivery: Delivery) -> _Taken:
    number, expires_ms, token = delivery.token.decode().split()
    return _Taken(int(number), int(expires_ms), token, delivery.data)


def _push(cursor: Cursor, queue: str, data: bytes, capacity: int, ttl_ms: int) -> bool:
    now = cursor.now_ms
    ((waiting,),) = cursor.fetch(
        "SELECT count(*) FROM tiderace_layer_queue "
        "WHERE queue = %s AND taken_until_ms <= %s AND expires_ms > %s",
        (queue, now, now),
    )
    if waiting >= capacity:
        return False
    cursor.insert(
        "queue",
        ("queue", "data", "expires_ms"),
        [(queue, data, now + ttl_ms)],
    )
    cursor.announced.append(FeedRow(queue))
    return True


def _take(cursor: Cursor, queue: str, lease_ms: int) -> _Taken | None:
    now = cursor.now_ms
    # The oldest first, including messages whose lease has ended because a reader died.
    found = cursor.fetch(
        "SELECT id, expires_ms, data FROM tiderace_layer_queue WHERE queue = %s "
        "AND taken_until_ms <= %s AND expires_ms > %s ORDER BY id LIMIT 1",
        (queue, now, now),
    )
    if not found:
        return None
    number, expires_ms, data = found[0]
    token = secrets.token_hex(8)
    cursor.execute(
        "UPDATE tiderace_layer_queue SET taken_until_ms = %s, token = %s WHERE id = %s",
        (now + lease_ms, token, number),
    )
    return _Taken(number, expires_ms, token, bytes(data))


def _ack(cursor: Cursor, taken: _Taken) -> None:
    cursor.execute(
        "DELETE FROM tiderace_layer_queue WHERE id = %s AND token = %s",
        (taken.id, taken.token),
    )


def _nack(cursor: Cursor, queue: str, taken: _Taken, acked: bool) -> None:
    if not cursor.execute(
        "UPDATE tiderace_layer_queue SET taken_until_ms = 0, token = '' "
        "WHERE id = %s AND token = %s",
        (taken.id, taken.token),
    ):
        if not acked:
            return
        # Its old id makes it the first of the queue again.
        cursor.insert(
            "queue",
            ("id", "queue", "data", "expires_ms"),
            [(taken.id, queue, taken.data, taken.expires_ms)],
            "ON CONFLICT (id) DO NOTHING",
        )
    cursor.announced.append(FeedRow(queue))
