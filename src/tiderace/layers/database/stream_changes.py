"""Changes of streams in the database: appends messages, and deletes obsolete ones."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tiderace.history import Position
from tiderace.layers.broker import KEY_TTL, Published, Retention
from tiderace.layers.database.rates import take_token
from tiderace.layers.database.retention import StreamRetention
from tiderace.layers.database.vendor import Cursor, FeedRow, replacing
from tiderace.ratelimit import Rate

_EPOCH_SIZE = 6  # bytes

# The least number of offsets that are skipped when commits may have been lost: more than
# can be lost at once. Up to as many again are added at random, so that two leaps from one
# offset do not reach the same one.
_LEAP = 1 << 20

_KEYS = 500  # idempotency keys in one statement

_TRIM_EVERY = 64  # messages of a stream between two deletions of those beyond the size

_ENTRY_COLUMNS = (
    "subject",
    "epoch",
    "number",
    "previous",
    "data",
    "published_ms",
)


# Those that each publication changes.
_COUNTED = ("last_number", "unstepped_bytes", "used_ms")

# Those of ``_StreamRow``, in its order.
_STREAM_COLUMNS = (
    "subject",
    "epoch",
    "last_number",
    "timeline",
    "unstepped_bytes",
    "has_members",
    "check_ms",
    "retention",
)


@dataclass(slots=True)
class AppendRequest:
    """The arguments of one call of ``publish``."""

    max_bytes: int
    """Bytes of messages that each stream keeps."""
    subject: str
    data: bytes
    keep: Retention
    members_age: float
    history: Retention | None
    key: str
    key_ttl: float = KEY_TTL
    limit: tuple[str, Rate] | None = None


@dataclass(slots=True)
class _StreamRow:
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
    is_changed: bool = False  # in more than `last` and `bytes`
    old_last: int = 0
    obsolete: int = 0  # the last offset to delete

    def __post_init__(self) -> None:
        self.old_last = self.last


def append(
    cursor: Cursor, publications: list[AppendRequest]
) -> list[Published | float]:
    """Append publications to their streams, in order, in few statements.

    Returns:
        For each its result, or the seconds until its rate limit allows it.
    """
    results: list[Published | float] = [
        0.0 if each.limit is None else take_token(cursor, *each.limit)
        for each in publications
    ]
    allowed = [place for place, wait in enumerate(results) if not wait]
    appended = _append(cursor, [publications[place] for place in allowed])
    for place, published in zip(allowed, appended, strict=True):
        results[place] = published
    return results


def _append(cursor: Cursor, publications: list[AppendRequest]) -> list[Published]:
    streams = _load(cursor, [each.subject for each in publications])
    keys = find_keys(
        cursor, [(each.subject, each.key) for each in publications if each.key]
    )
    members = _find_members(cursor, streams, publications)
    now = cursor.now_ms
    entries: list[FeedRow] = []
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
            _leap(stream, cursor.timeline)
        stream.last += 1
        _count(stream, each, now)
        entries.append(
            FeedRow(each.subject, stream.epoch, stream.last, before, each.data, now)
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
                    now + int(each.key_ttl * 1000),
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
            replacing("subject, idempotency_key", "epoch", "number", "expires_ms"),
        )
    for stream in streams.values():
        if stream.obsolete > 0:
            delete_entries(cursor, stream.subject, stream.obsolete)
    cursor.announced += entries
    return published


def _leap(stream: _StreamRow, timeline: str) -> None:
    """Skip offsets that subscribers may have seen before commits were lost."""
    before = stream.last
    stream.last += _LEAP + secrets.randbelow(_LEAP)
    stream.retention.leap(before, stream.last + 1)
    stream.timeline = timeline
    stream.is_changed = True


def _count(stream: _StreamRow, publication: AppendRequest, now: int) -> None:
    """Count a message in the retention of its stream, and set ``obsolete``."""
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
    if stream.bytes > publication.max_bytes / 4:
        stream.bytes = 0
        obsolete = retention.add_step(stream.last)
        stream.is_changed = True
    if stream.last % _TRIM_EVERY == 0:
        obsolete = max(obsolete, retention.surplus(publication.keep.size, stream.last))
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


def _load(cursor: Cursor, names: Iterable[str]) -> dict[str, _StreamRow]:
    """Return streams by name; new ones are not stored yet."""
    keys = [(name,) for name in dict.fromkeys(names)]
    rows = cursor.select("stream", _STREAM_COLUMNS, ("subject",), keys)
    streams = {}
    for *columns, retention in rows:
        columns.append(StreamRetention.decode(retention))
        streams[columns[0]] = _StreamRow(*columns)
    for (name,) in keys:
        if name not in streams:
            streams[name] = _new_stream(cursor, name)
    return streams


def _new_stream(cursor: Cursor, name: str) -> _StreamRow:
    epoch, now = secrets.token_hex(_EPOCH_SIZE), cursor.now_ms
    retention = StreamRetention(mark=(0, now), history_mark=(0, now))
    has_members = bool(
        cursor.fetch(
            "SELECT 1 FROM tiderace_layer_member WHERE subject = %s LIMIT 1", (name,)
        )
    )
    return _StreamRow(
        name, epoch, 0, cursor.timeline, 0, has_members, now, retention, is_new=True
    )


def _store(cursor: Cursor, streams: Iterable[_StreamRow], now: int) -> None:
    """Store the rows of streams: all columns where they are new or changed."""
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
                    each.check_ms,
                    each.retention.encode(),
                    now,
                )
            )
        elif each.last != each.old_last:
            counted.append((each.subject, each.epoch, each.last, each.bytes, now))
    cursor.insert(
        "stream",
        (*_STREAM_COLUMNS, "used_ms"),
        whole,
        replacing("subject", *_COUNTED, "timeline", "check_ms", "retention"),
    )
    cursor.insert(
        "stream",
        ("subject", "epoch", *_COUNTED),
        counted,
        replacing("subject", *_COUNTED),
    )


def find_keys(
    cursor: Cursor, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Position]:
    """Return the positions of publications by idempotency keys that have not expired."""
    rows = cursor.select(
        "once",
        ("subject", "idempotency_key", "epoch", "number", "expires_ms"),
        ("subject", "idempotency_key"),
        keys,
    )
    return {
        (subject, key): Position(epoch, number)
        for subject, key, epoch, number, expires_ms in rows
        if expires_ms > cursor.now_ms
    }


def expire_keys(cursor: Cursor, subject: str, keys: Sequence[str]) -> None:
    """Shorten the life of idempotency keys of a stream to five minutes from now."""
    expires_ms = cursor.now_ms + int(KEY_TTL * 1000)
    for start in range(0, len(keys), _KEYS):
        some = keys[start : start + _KEYS]
        cursor.execute(
            "UPDATE tiderace_layer_once SET expires_ms = %s WHERE subject = %s AND "
            f"idempotency_key IN ({marks(len(some))}) AND expires_ms > %s",
            (expires_ms, subject, *some, expires_ms),
        )


def _find_members(
    cursor: Cursor,
    streams: dict[str, _StreamRow],
    publications: Sequence[AppendRequest],
) -> dict[str, list[str]]:
    """Return the named queues in each of the streams."""
    ages = {
        each.subject: int(each.members_age * 1000)
        for each in publications
        if streams[each.subject].has_members
    }
    members = defaultdict(list)
    rows = cursor.select(
        "member",
        ("joined_ms", "member", "subject"),
        ("subject",),
        [(subject,) for subject in ages],
    )
    for joined_ms, member, subject in sorted(rows):
        if joined_ms > cursor.now_ms - ages[subject]:
            members[subject].append(member)
    return members


# Reading


def prepare_stream(
    cursor: Cursor, name: str, history: Retention, keep: Retention
) -> Position:
    """Create a stream if there is none, and set its history unless it has one."""
    stream = _load(cursor, [name])[name]
    retention = stream.retention
    if retention.history_size is None:
        retention.set_history(history)
    retention.keep_ms = max(retention.keep_ms, int(keep.seconds * 1000))
    stream.is_changed = True
    _store(cursor, [stream], cursor.now_ms)
    return Position(stream.epoch, stream.last)
