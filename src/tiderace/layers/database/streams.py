"""Publications in the database: a row for each stream, and one for each message."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from tiderace.history import Position
from tiderace.layers.broker import Published, Retention, StreamMessage
from tiderace.layers.database.executor import Executor, one_by_one
from tiderace.layers.database.retention import StreamRetention
from tiderace.layers.database.vendor import Cursor, Row

_EPOCH_SIZE = 6  # bytes

# Milliseconds in which a publication under the same idempotency key is the same one.
_IDEMPOTENCY_TTL_MS = 300_000

# By what offsets leap at least when commits may have been lost: more messages than can
# be lost at once. As much again is random, so that two leaps from one offset do not meet.
_LEAP = 1 << 20

_TRIM_EVERY = 64  # messages after which those beyond the size are deleted

# A position is extended when this part of its lifetime has passed without use.
_TOUCH_PARTS = 5

# What one call of ``read_after`` returns at most.
_PAGE_ROWS = 1000
_PAGE_BYTES = 1_000_000

_MAX_NUMBER = 2**62  # above every offset, and no limit

_ENTRY_COLUMNS = (
    "subject",
    "epoch",
    "number",
    "previous",
    "data",
    "published_ms",
)


@dataclass(slots=True)
class _Publication:
    """The arguments of one call of ``publish``."""

    subject: str
    data: bytes
    keep: Retention
    members_age: float
    history: Retention | None
    key: str


@dataclass(slots=True)
class _Stream:
    """The row of a stream while a transaction appends to it."""

    subject: str
    epoch: str
    last: int
    timeline: str
    bytes: int
    has_members: bool
    check_ms: int
    retention: StreamRetention
    is_new: bool = False
    is_changed: bool = False  # more than `last` and `bytes`
    old_last: int = 0
    obsolete: int = 0  # the last offset to delete

    def __post_init__(self) -> None:
        self.old_last = self.last


class DatabaseStreams:
    """A ``StreamStore`` in a database.

    Args:
        executor: runs the operations.
        prefix: what every stored name begins with.
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
    ) -> Published:
        name = self._prefix + subject
        publication = _Publication(name, data, keep, members_age, history, key)
        return await self._executor.write(
            self._append, publication, lock=(f"stream {name}",)
        )

    async def find_published(self, subject: str, key: str) -> Position | None:
        name = self._prefix + subject

        def find(cursor: Cursor) -> Position | None:
            return _find_keys(cursor, [(name, key)]).get((name, key))

        return await self._executor.read(find)

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
            await self._executor.write(_touch, name)
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
                limit=limit,
                reverse=reverse,
            )
            return end, messages, is_stale

        end, messages, is_stale = await self._executor.read(read)
        if is_stale:
            created = await self._executor.write(
                _prepare,
                (name, history, keep),
                lock=(f"stream {name}",),
            )
            if end is None:
                # Nothing was there, unless it was published meanwhile.
                end, messages, _ = await self._executor.read(read)
                return end or created, messages
        return cast("Position", end), messages

    async def delete_history(self, subject: str) -> None:
        name = self._prefix + subject

        await self._executor.write(_delete_history, name, lock=(f"stream {name}",))

    # Appending

    def _append(
        self, cursor: Cursor, publications: list[_Publication]
    ) -> list[Published]:
        """Append publications to their streams, in order, in few statements."""
        streams = _load(cursor, publications)
        keys = _find_keys(
            cursor, [(each.subject, each.key) for each in publications if each.key]
        )
        members = _find_members(cursor, streams, publications)
        now = cursor.now_ms
        entries: list[Row] = []
        once = []
        published = []
        for each in publications:
            if each.key:
                known = keys.get((each.subject, each.key))
                if known is not None:
                    published.append(Published(known, ()))
                    continue
            stream = streams[each.subject]
            before = stream.last
            if stream.timeline != cursor.timeline:
                self._leap(stream, cursor.timeline)
            stream.last += 1
            self._count(stream, each, now)
            entries.append(
                Row(each.subject, stream.epoch, stream.last, before, each.data, now)
            )
            position = Position(stream.epoch, stream.last)
            if each.key:
                keys[each.subject, each.key] = position
                once.append(
                    (
                        each.subject,
                        each.key,
                        stream.epoch,
                        stream.last,
                        now + _IDEMPOTENCY_TTL_MS,
                    )
                )
            published.append(Published(position, members.get(each.subject, ())))
        _store(cursor, streams.values(), now)
        cursor.insert("entry", _ENTRY_COLUMNS, entries)
        if once:
            cursor.insert(
                "once",
                ("subject", "idempotency_key", "epoch", "number", "expires_ms"),
                once,
                "ON CONFLICT (subject, idempotency_key) DO UPDATE SET "
                "epoch = excluded.epoch, number = excluded.number, "
                "expires_ms = excluded.expires_ms",
            )
        for stream in streams.values():
            if stream.obsolete > 0:
                delete_entries(cursor, stream.subject, stream.obsolete)
        cursor.announced += entries
        return published

    def _leap(self, stream: _Stream, timeline: str) -> None:
        """Skip offsets that subscribers may have seen before commits were lost."""
        before = stream.last
        stream.last += _LEAP + secrets.randbelow(_LEAP)
        stream.retention.leap(before, stream.last + 1)
        stream.timeline = timeline
        stream.is_changed = True

    def _count(self, stream: _Stream, publication: _Publication, now: int) -> None:
        """Note a message in the retention of its stream, and what it makes obsolete."""
        retention, history = stream.retention, publication.history
        if history is not None and (
            history.size != retention.history_size
            or int(history.seconds * 1000) != retention.history_ms
        ):
            retention.set_history(history)
            stream.is_changed = True
        keep_ms = int(publication.keep.seconds * 1000)
        if keep_ms > retention.keep_ms:
            retention.keep_ms = keep_ms
            stream.is_changed = True
        obsolete = 0
        stream.bytes += len(publication.data)
        if stream.bytes > self._max_bytes / 4:
            stream.bytes = 0
            obsolete = retention.add_step(stream.last)
            stream.is_changed = True
        if stream.last % _TRIM_EVERY == 0:
            obsolete = max(
                obsolete, retention.surplus(publication.keep.size, stream.last)
            )
        if now - retention.mark[1] >= retention.keep_ms:
            obsolete = max(obsolete, retention.expired(stream.last, now))
            stream.is_changed = True
        stream.obsolete = max(stream.obsolete, obsolete)


def marks(count: int) -> str:
    """Return placeholders for a list of ``count`` values."""
    return ", ".join(["%s"] * count)


def delete_entries(cursor: Cursor, subject: str, upto: int) -> int:
    """Delete the messages of a stream up to an offset; return how many."""
    return cursor.execute(
        "DELETE FROM tiderace_layer_entry WHERE subject = %s AND number <= %s",
        (subject, upto),
    )


def _load(cursor: Cursor, publications: Sequence[_Publication]) -> dict[str, _Stream]:
    """Return the streams of publications by name; new ones are not stored yet."""
    names = list(dict.fromkeys(each.subject for each in publications))
    rows = cursor.fetch(
        "SELECT subject, epoch, last_number, timeline, unstepped_bytes, has_members, "
        f"check_ms, retention FROM tiderace_layer_stream WHERE subject IN ({marks(len(names))})",
        names,
    )
    streams = {
        subject: _Stream(
            subject,
            epoch,
            last,
            timeline,
            size,
            bool(members),
            check_ms,
            StreamRetention.decode(retention),
        )
        for subject, epoch, last, timeline, size, members, check_ms, retention in rows
    }
    for name in names:
        if name not in streams:
            streams[name] = _new_stream(cursor, name)
    return streams


def _new_stream(cursor: Cursor, name: str) -> _Stream:
    epoch = secrets.token_hex(_EPOCH_SIZE)
    retention = StreamRetention(
        mark=(0, cursor.now_ms), history_mark=(0, cursor.now_ms)
    )
    has_members = bool(
        cursor.fetch(
            "SELECT 1 FROM tiderace_layer_member WHERE subject = %s LIMIT 1", (name,)
        )
    )
    return _Stream(
        name,
        epoch,
        0,
        cursor.timeline,
        0,
        has_members,
        cursor.now_ms,
        retention,
        is_new=True,
    )


def _store(cursor: Cursor, streams: Iterable[_Stream], now: int) -> None:
    """Store the rows of streams: all of them where they are new or changed."""
    whole, counted = [], []
    for each in streams:
        check_ms = now + each.retention.ttl_ms
        if each.is_new or check_ms < each.check_ms:
            each.check_ms = check_ms
            each.is_changed = True
        if each.is_changed:
            whole.append(
                (
                    each.subject,
                    each.epoch,
                    each.last,
                    each.timeline,
                    each.bytes,
                    each.has_members,
                    each.retention.encode(),
                    now,
                    each.check_ms,
                )
            )
        elif each.last != each.old_last:
            counted.append((each.subject, each.epoch, each.last, each.bytes, now))
    cursor.insert(
        "stream",
        (
            "subject",
            "epoch",
            "last_number",
            "timeline",
            "unstepped_bytes",
            "has_members",
            "retention",
            "used_ms",
            "check_ms",
        ),
        whole,
        "ON CONFLICT (subject) DO UPDATE SET last_number = excluded.last_number, "
        "timeline = excluded.timeline, unstepped_bytes = excluded.unstepped_bytes, "
        "retention = excluded.retention, used_ms = excluded.used_ms, "
        "check_ms = excluded.check_ms",
    )
    cursor.insert(
        "stream",
        ("subject", "epoch", "last_number", "unstepped_bytes", "used_ms"),
        counted,
        "ON CONFLICT (subject) DO UPDATE SET last_number = excluded.last_number, "
        "unstepped_bytes = excluded.unstepped_bytes, used_ms = excluded.used_ms",
    )


def _find_keys(
    cursor: Cursor, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Position]:
    """Return the positions of what was published lately under idempotency keys."""
    found = {}
    for subject, key in keys:
        for epoch, number in cursor.fetch(
            "SELECT epoch, number FROM tiderace_layer_once "
            "WHERE subject = %s AND idempotency_key = %s AND expires_ms > %s",
            (subject, key, cursor.now_ms),
        ):
            found[subject, key] = Position(epoch, number)
    return found


def _find_members(
    cursor: Cursor,
    streams: dict[str, _Stream],
    publications: Sequence[_Publication],
) -> dict[str, list[str]]:
    """Return the named queues in each of the streams."""
    ages = {
        each.subject: int(each.members_age * 1000)
        for each in publications
        if streams[each.subject].has_members
    }
    members = defaultdict(list)
    for subject, age_ms in ages.items():
        for (member,) in cursor.fetch(
            "SELECT member FROM tiderace_layer_member "
            "WHERE subject = %s AND joined_ms > %s ORDER BY joined_ms",
            (subject, cursor.now_ms - age_ms),
        ):
            members[subject].append(member)
    return members


# Reading


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
    limit: int | None = None,
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
            _MAX_NUMBER if limit is None else limit,
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


@one_by_one
def _delete_history(cursor: Cursor, name: str) -> None:
    cursor.execute("DELETE FROM tiderace_layer_entry WHERE subject = %s", (name,))


@one_by_one
def _prepare(cursor: Cursor, argument: tuple[str, Retention, Retention]) -> Position:
    """Create a stream if there is none, and set its history unless it has one."""
    name, history, keep = argument
    publication = _Publication(name, b"", keep, 0, None, "")
    stream = _load(cursor, [publication])[name]
    retention = stream.retention
    if retention.history_size is None:
        retention.set_history(history)
    retention.keep_ms = max(retention.keep_ms, int(keep.seconds * 1000))
    stream.is_changed = True
    _store(cursor, [stream], cursor.now_ms)
    return Position(stream.epoch, stream.last)
