"""Publications in the database: a row for each stream, and one for each message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from tiderace.exceptions import RateExceeded
from tiderace.history import Position
from tiderace.layers.broker import KEY_TTL, Published, Retention, StreamMessage
from tiderace.layers.database.executor import Executor
from tiderace.layers.database.retention import StreamRetention
from tiderace.layers.database.stream_changes import (
    AppendRequest,
    append,
    expire_keys,
    find_keys,
    marks,
    prepare_stream,
)
from tiderace.layers.database.vendor import Cursor
from tiderace.ratelimit import Rate

# A position is extended when half of its lifetime has passed without use, so that
# subscribers of idle streams hardly write. They read it three or ten times in a lifetime.
_TOUCH_PARTS = 2

# The most that one call of ``read_after`` returns.
_PAGE_ROWS = 1000
_PAGE_BYTES = 1_000_000

_MAX_NUMBER = 2**62  # above every offset


class DatabaseStreams:
    """A ``StreamStore`` in a database.

    Args:
        executor: runs the operations.
        prefix: the beginning of every stored name.
        max_bytes: bytes of messages that each stream keeps.
    """

    def __init__(self, executor: Executor, prefix: str, *, max_bytes: int) -> None:
        self._executor = executor
        self._prefix = prefix
        self._max_bytes = max_bytes

    async def publish(
        self,
        subject: str,
        data: bytes,
        *,
        keep: Retention,
        members_age: float,
        history: Retention | None = None,
        key: str = "",
        key_ttl: float = KEY_TTL,
        limit: tuple[str, Rate] | None = None,
    ) -> Published:
        name = self._prefix + subject
        locks = [f"stream {name}"]
        if limit is not None:
            limit = self._prefix + limit[0], limit[1]
            locks.append(f"bucket {limit[0]}")
        publication = AppendRequest(
            self._max_bytes, name, data, keep, members_age, history, key, key_ttl, limit
        )
        published = await self._executor.write_together(
            append, publication, lock=locks, size=len(data)
        )
        if isinstance(published, float):
            raise RateExceeded(published)
        return published

    async def find_published(self, subject: str, key: str) -> Position | None:
        name = self._prefix + subject
        found = await self._executor.read(find_keys, [(name, key)])
        return found.get((name, key))

    async def expire_keys(self, subject: str, keys: Sequence[str]) -> None:
        name = self._prefix + subject
        await self._executor.write(expire_keys, name, keys, lock=(f"stream {name}",))

    async def position(self, subject: str) -> Position | None:
        end, _ = await self.read_after(subject, None)
        return end

    async def read_after(
        self, subject: str, offset: int | None
    ) -> tuple[Position | None, Sequence[StreamMessage]]:
        """Without an offset, return no messages."""
        name = self._prefix + subject

        def read(
            cursor: Cursor,
        ) -> tuple[Position | None, list[StreamMessage], bool]:
            row = _read_stream(cursor, name)
            if row is None:
                return None, [], False
            epoch, last, used_ms, retention = row
            messages = []
            if offset is not None and offset < last:
                messages = _page(
                    _messages(cursor, subject, name, above=offset, limit=_PAGE_ROWS)
                )
            is_old = _is_old(retention, last, used_ms, cursor.now_ms)
            return Position(epoch, last), messages, is_old

        end, messages, is_old = await self._executor.read(read)
        if is_old:
            await self._executor.write_together(_touch, name)
        return end, messages

    async def read(
        self,
        subject: str,
        *,
        history: Retention,
        keep: Retention,
        since: Position | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> tuple[Position, Sequence[StreamMessage]]:
        name = self._prefix + subject
        history_ms = int(history.seconds * 1000)

        def read(
            cursor: Cursor,
        ) -> tuple[Position | None, list[StreamMessage], bool]:
            row = _read_stream(cursor, name)
            if row is None:
                return None, [], True
            epoch, last, used_ms, retention = row
            end = Position(epoch, last)
            is_stale = retention.history_size is None or _is_old(
                retention, last, used_ms, cursor.now_ms
            )
            if limit == 0 or (since is not None and since.epoch not in ("", epoch)):
                return end, [], is_stale
            above, below = retention.start_of_last(history.size, last), last + 1
            if since is not None and reverse:
                below = since.offset
            elif since is not None:
                above = max(above, since.offset)
            if above + 1 >= below:
                return end, [], is_stale
            messages = _messages(
                cursor,
                subject,
                name,
                above=above,
                below=below,
                since_ms=cursor.now_ms - history_ms,
                # The limit of a client may exceed the integers of the database.
                limit=history.size if limit is None else min(limit, history.size),
                reverse=reverse,
            )
            return end, messages, is_stale

        end, messages, is_stale = await self._executor.read(read)
        if is_stale:
            created = await self._executor.write(
                prepare_stream,
                name,
                history,
                keep,
                lock=(f"stream {name}",),
            )
            if end is None:
                # There was no stream; a message may have been published meanwhile.
                end, messages, _ = await self._executor.read(read)
                return end or created, messages
        return cast("Position", end), messages

    async def delete_history(self, subject: str) -> None:
        name = self._prefix + subject
        await self._executor.write(_delete_history, name, lock=(f"stream {name}",))


def _read_stream(
    cursor: Cursor, name: str
) -> tuple[str, int, int, StreamRetention] | None:
    rows = cursor.fetch(
        "SELECT epoch, last_number, used_ms, retention FROM tiderace_layer_stream "
        "WHERE subject = %s",
        (name,),
    )
    if not rows:
        return None
    epoch, last, used_ms, retention = rows[0]
    return epoch, last, used_ms, StreamRetention.decode(retention)


def _messages(
    cursor: Cursor,
    subject: str,
    name: str,
    *,
    above: int,
    below: int | None = None,
    since_ms: int = 0,
    limit: int,
    reverse: bool = False,
) -> list[StreamMessage]:
    """Return messages of a stream between two offsets that were published after a time."""
    now = cursor.now_ms
    rows: list[Any] = cursor.fetch(
        "SELECT epoch, number, previous, published_ms, data FROM tiderace_layer_entry "
        "WHERE subject = %s AND number > %s AND number < %s AND published_ms > %s "
        f"ORDER BY number {'DESC' if reverse else 'ASC'} LIMIT %s",
        (
            name,
            above,
            _MAX_NUMBER if below is None else below,
            since_ms,
            limit,
        ),
    )
    return [
        StreamMessage(
            subject,
            Position(epoch, number),
            previous,
            bytes(data),
            max(now - published_ms, 0) / 1000,
        )
        for epoch, number, previous, published_ms, data in rows
    ]


def _page(messages: list[StreamMessage]) -> list[StreamMessage]:
    """Return the first messages, up to about a megabyte."""
    size = 0
    for index, message in enumerate(messages):
        size += len(message.data)
        if size > _PAGE_BYTES:
            return messages[: index + 1]
    return messages


def _is_old(retention: StreamRetention, last: int, used_ms: int, now_ms: int) -> bool:
    """Return whether the position has to be extended."""
    return now_ms - used_ms > retention.position_ttl_ms(last) / _TOUCH_PARTS


def _touch(cursor: Cursor, names: list[str]) -> list[None]:
    """Extend the positions of streams."""
    cursor.execute(
        "UPDATE tiderace_layer_stream SET used_ms = %s "
        f"WHERE subject IN ({marks(len(names))})",
        (cursor.now_ms, *names),
    )
    return [None] * len(names)


def _delete_history(cursor: Cursor, name: str) -> None:
    cursor.execute("DELETE FROM tiderace_layer_entry WHERE subject = %s", (name,))
