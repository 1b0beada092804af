"""The streams of one process: positions, and what is kept of each.

Without a broker, for the in-memory layer. It knows no listener, and forgets a stream
that nobody has used for long, without a task.
"""

from __future__ import annotations

import heapq
import itertools
import secrets
import threading
from collections import deque
from collections.abc import Callable

from tiderace.history import Position, Publication
from tiderace.layers.broker import Retention

__all__ = ["MemoryStream", "MemoryStreams"]

_EPOCH_LENGTH = 6  # bytes
_KEYS_FOR = 300.0  # seconds in which a repeated key publishes nothing

# A position outlives what was kept by so many times, as in Redis.
_POSITION_LASTS = 10


class MemoryStream:
    """One group's stream."""

    __slots__ = ("_entries", "epoch", "keep", "offset", "used_at")

    def __init__(self, now: float) -> None:
        self.epoch = secrets.token_hex(_EPOCH_LENGTH)
        self.offset = 0
        # None until somebody has said it.
        self.keep: Retention | None = None
        self.used_at = now
        self._entries: deque[tuple[float, Publication]] = deque()

    @property
    def position(self) -> Position:
        """The end of the stream."""
        return Position(self.epoch, self.offset)

    def append(
        self, make: Callable[[Position], Publication], now: float
    ) -> Publication:
        """Add the publication that ``make`` makes for its position."""
        publication = make(Position(self.epoch, self.offset + 1))
        self.offset += 1
        self.used_at = now
        self._entries.append((now, publication))
        self.trim(now)
        return publication

    def trim(self, now: float) -> None:
        """Forget what need not be kept any more."""
        entries = self._entries
        keep = self.keep or Retention(0, 0)
        while entries and (
            len(entries) > keep.size or entries[0][0] + keep.seconds <= now
        ):
            entries.popleft()

    def forget(self) -> None:
        """Keep nothing of what there is; the position stays."""
        self._entries.clear()

    def read(
        self,
        keep: Retention,
        since: Position | None,
        limit: int | None,
        now: float,
        *,
        reverse: bool,
    ) -> list[Publication]:
        """What is kept; see ``BaseChannelLayer.stream_read``."""
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
        """How many publications are held, expired ones included."""
        return len(self._entries)


class MemoryStreams:
    """The streams by group.

    Callers hold ``lock`` around what they do with a stream, and for as long as what
    they do next must be in the stream's order.

    Args:
        expiry: seconds for which a stream's position is kept at least, ten times over.
    """

    def __init__(self, expiry: float) -> None:
        self.lock = threading.RLock()
        self._expiry = expiry
        self._streams: dict[str, MemoryStream] = {}
        # When to look at a stream again; every stream is in it once.
        self._looks: list[tuple[float, int, str]] = []
        self._serial = itertools.count()
        # Where what a key has published stands, the oldest first.
        self._keys: dict[tuple[str, str], tuple[float, Position]] = {}

    def get(self, group: str) -> MemoryStream | None:
        """The stream of ``group``, if it has one."""
        return self._streams.get(group)

    def made(self, group: str, now: float) -> MemoryStream:
        """The stream of ``group``, a new one if it has none."""
        stream = self._streams.get(group)
        if stream is None:
            stream = self._streams[group] = MemoryStream(now)
            self._look_again(group, stream, now)
        stream.used_at = now
        return stream

    def published(self, group: str, key: str, now: float) -> Position | None:
        """Where what was published under ``key`` stands, if it was lately."""
        until, position = self._keys.get((group, key), (now, None))
        return position if until > now else None

    def note(self, group: str, key: str, position: Position, now: float) -> None:
        """Remember what was published under ``key``."""
        self._keys.pop((group, key), None)
        self._keys[group, key] = (now + _KEYS_FOR, position)

    def expire(self, now: float, used: Callable[[str], bool]) -> None:
        """Forget what is due, but no stream that is ``used``; nothing when nothing is."""
        if self._looks and self._looks[0][0] <= now:
            with self.lock:
                while self._looks and self._looks[0][0] <= now:
                    self._look(heapq.heappop(self._looks)[2], now, used)
        while self._keys:
            with self.lock:
                key = next(iter(self._keys), None)
                if key is None or self._keys[key][0] > now:
                    return
                del self._keys[key]

    def clear(self) -> None:
        """Forget everything."""
        with self.lock:
            self._streams.clear()
            self._looks.clear()
            self._keys.clear()

    def _look(self, group: str, now: float, used: Callable[[str], bool]) -> None:
        stream = self._streams[group]
        stream.trim(now)
        if used(group):
            stream.used_at = now
        if stream.used_at + self._lasts(stream) * _POSITION_LASTS <= now:
            del self._streams[group]
        else:
            self._look_again(group, stream, now)

    def _look_again(self, group: str, stream: MemoryStream, now: float) -> None:
        when = now + self._lasts(stream)
        heapq.heappush(self._looks, (when, next(self._serial), group))

    def _lasts(self, stream: MemoryStream) -> float:
        kept = 0.0 if stream.keep is None else stream.keep.seconds
        return max(kept, self._expiry, 1.0)
