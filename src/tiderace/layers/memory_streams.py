"""The streams of one process: positions, and the publications that each stream keeps."""

from __future__ import annotations

import heapq
import itertools
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from tiderace.history import Position, Publication
from tiderace.layers.broker import KEY_TTL, Retention

C = TypeVar("C")

_EPOCH_LENGTH = 6  # bytes
_MAX_KEYS = 100_000  # the oldest are forgotten earlier

# How many times longer a position lasts than the publications, and before the first
# publication than the expiry, as in Redis.
_POSITION_TTL_FACTOR = 10
_EMPTY_TTL_FACTOR = 3


# The entries of streams that have had none: an empty deque takes 0.7 KB, and each user with
# an open connection has such a stream.
_NO_ENTRIES: deque[Any] = deque(maxlen=0)


class MemoryStream:
    """The stream of one group."""

    __slots__ = (
        "_entries",
        "_max_bytes",
        "_size",
        "epoch",
        "keep",
        "offset",
        "used_at",
    )

    def __init__(self, now: float, max_bytes: int) -> None:
        self.epoch = secrets.token_hex(_EPOCH_LENGTH)
        self.offset = 0
        # None until it is first given.
        self.keep: Retention | None = None
        self.used_at = now
        self._entries: deque[tuple[float, Publication]] = _NO_ENTRIES
        self._max_bytes = max_bytes
        self._size = 0  # of the data of all entries

    @property
    def position(self) -> Position:
        """The end of the stream."""
        return Position(self.epoch, self.offset)

    def append(
        self, make: Callable[[Position, C], Publication], content: C, now: float
    ) -> Publication:
        """Append what ``make`` returns for the next position and ``content``."""
        publication = make(Position(self.epoch, self.offset + 1), content)
        self.offset += 1
        self.used_at = now
        if self._entries is _NO_ENTRIES:
            self._entries = deque()
        self._entries.append((now, publication))
        self._size += len(publication.data)
        self.trim(now)
        return publication

    def trim(self, now: float) -> None:
        """Remove the publications that are past the retention."""
        entries = self._entries
        keep = self.keep or Retention(0, 0)
        while entries and (
            len(entries) > keep.size
            or self._size > self._max_bytes
            or entries[0][0] + keep.seconds <= now
        ):
            self._size -= len(entries.popleft()[1].data)

    def clear(self) -> None:
        """Remove all publications; the position stays."""
        self._entries = _NO_ENTRIES
        self._size = 0

    def read(
        self,
        keep: Retention,
        since: Position | None,
        limit: int | None,
        now: float,
        *,
        reverse: bool,
    ) -> list[Publication]:
        """Return publications as ``BaseChannelLayer.stream_read`` does."""
        if since is not None and since.epoch not in ("", self.epoch):
            return []
        above, below = self.offset - keep.size, self.offset + 1
        if since is not None and reverse:
            below = since.offset
        elif since is not None:
            above = max(above, since.offset)
        found = []
        for at, publication in reversed(self._entries):
            offset = publication.position.offset
            if offset <= above or at + keep.seconds <= now:
                break
            if offset < below:
                found.append(publication)
        if not reverse:
            found.reverse()
        return found if limit is None else found[:limit]

    def __len__(self) -> int:
        """Return how many publications are held, including expired ones."""
        return len(self._entries)


class MemoryStreams:
    """The streams by group.

    Callers hold ``lock`` while they use a stream, and for as long as what follows must
    happen in the stream's order.

    Args:
        expiry: a stream's position is kept for at least ten times as many seconds.
        max_bytes: characters of publications that each stream keeps.
    """

    def __init__(self, expiry: float, max_bytes: int) -> None:
        self.lock = threading.RLock()
        self._expiry = expiry
        self._max_bytes = max_bytes
        self._streams: dict[str, MemoryStream] = {}
        # A heap of (when to check a stream again, serial, group), once for each stream.
        self._checks: list[tuple[float, int, str]] = []
        self._serial = itertools.count()
        # Expiry and position of what was published by group and key, the oldest first.
        # Those with a longer life are apart, since they would keep the others from ending.
        self._keys: dict[tuple[str, str], tuple[float, Position]] = {}
        self._lasting_keys: dict[tuple[str, str], tuple[float, Position]] = {}

    def get(self, group: str) -> MemoryStream | None:
        """Return the stream of ``group``, or None."""
        return self._streams.get(group)

    def get_or_create(self, group: str, now: float) -> MemoryStream:
        """Return the stream of ``group``; begin one if there is none."""
        stream = self._streams.get(group)
        if stream is None:
            stream = self._streams[group] = MemoryStream(now, self._max_bytes)
            self._schedule_check(group, stream, now)
        stream.used_at = now
        return stream

    def find_published(self, group: str, key: str, now: float) -> Position | None:
        """Return where the recent publication with ``key`` stands, or None."""
        for keys in (self._keys, self._lasting_keys):
            expires_at, position = keys.get((group, key), (now, None))
            if expires_at > now:
                return position
        return None

    def remember(
        self, group: str, key: str, position: Position, now: float, ttl: float
    ) -> None:
        """Let ``find_published`` return ``position`` for the next ``ttl`` seconds."""
        for keys in (self._keys, self._lasting_keys):
            keys.pop((group, key), None)
        keys = self._lasting_keys if ttl > KEY_TTL else self._keys
        keys[group, key] = (now + ttl, position)
        if len(keys) > _MAX_KEYS:
            del keys[next(iter(keys))]

    def expire_keys(self, group: str, keys: Iterable[str], now: float) -> None:
        """Let keys with a longer life end in five minutes."""
        for key in keys:
            if found := self._lasting_keys.get((group, key)):
                self.remember(group, key, found[1], now, KEY_TTL)

    def expire(self, now: float, is_used: Callable[[str], bool]) -> None:
        """Remove expired publications and keys, and streams not used for long.

        Streams for whose group ``is_used`` is true stay.
        """
        if self._checks and self._checks[0][0] <= now:
            with self.lock:
                while self._checks and self._checks[0][0] <= now:
                    self._check(heapq.heappop(self._checks)[2], now, is_used)
        for keys in (self._keys, self._lasting_keys):
            while keys:
                with self.lock:
                    key = next(iter(keys), None)
                    if key is None or keys[key][0] > now:
                        break
                    del keys[key]

    def clear(self) -> None:
        """Remove all streams and keys."""
        with self.lock:
            self._streams.clear()
            self._checks.clear()
            self._keys.clear()
            self._lasting_keys.clear()

    def _check(self, group: str, now: float, is_used: Callable[[str], bool]) -> None:
        stream = self._streams[group]
        stream.trim(now)
        if is_used(group):
            stream.used_at = now
        if stream.offset:
            lifetime = self._ttl(stream) * _POSITION_TTL_FACTOR
        else:  # clients can subscribe to any number of names
            lifetime = max(self._expiry, 1.0) * _EMPTY_TTL_FACTOR
        if stream.used_at + lifetime <= now:
            del self._streams[group]
        else:
            self._schedule_check(group, stream, now)

    def _schedule_check(self, group: str, stream: MemoryStream, now: float) -> None:
        when = now + (self._ttl(stream) if stream.offset else max(self._expiry, 1.0))
        heapq.heappush(self._checks, (when, next(self._serial), group))

    def _ttl(self, stream: MemoryStream) -> float:
        seconds = 0.0 if stream.keep is None else stream.keep.seconds
        return max(seconds, self._expiry, 1.0)
