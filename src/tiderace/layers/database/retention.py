"""Decides which messages of a stream are kept, and which may be deleted.

All messages are kept for the period of ``keep``, for processes that were disconnected. The
last messages, as many as the topic's history has, are kept for the period of the history.
Messages are deleted in ranges of offsets: a mark notes the last offset, and one period
later the messages up to it are deleted.
"""

from __future__ import annotations

import msgspec

from tiderace.layers.broker import Retention

# A position is kept this many times as long as the messages.
_POSITION_LIFETIMES = 10

# Before the first message, the position is kept this many times as long as messages are
# kept for processes; listeners extend it in time.
_EMPTY_LIFETIMES = 3

_STEPS = 4  # parts in which the bytes of a stream are counted
_MAX_LEAPS = 10


class StreamRetention(msgspec.Struct, array_like=True):
    """The stored state of one stream's retention."""

    keep_ms: int = 0
    history_size: int | None = None
    """None until a history is given."""
    history_ms: int = 0
    mark: tuple[int, int] = (0, 0)
    """The last offset at a time at most one period of ``keep`` ago, and that time."""
    history_mark: tuple[int, int] = (0, 0)
    """The same for periods of the history."""
    steps: list[int] = []
    """The last offset at each of the last steps, the oldest first. A step is a quarter of
    the bytes that are kept."""
    leaps: list[tuple[int, int]] = []
    """Skipped offsets: the one before and the first one after each leap, latest first."""

    @classmethod
    def decode(cls, text: str) -> StreamRetention:
        """Return the retention that ``encode`` has returned as text."""
        return _decoder.decode(text)

    def encode(self) -> str:
        """Return the retention as text."""
        return msgspec.json.encode(self).decode()

    @property
    def ttl_ms(self) -> int:
        """The milliseconds that a message is kept at most."""
        return max(self.keep_ms, self.history_ms if self.history_size else 0, 1000)

    def position_ttl_ms(self, last: int) -> int:
        """Return the milliseconds that the position of a stream lasts without use."""
        # Short before the first message: clients can subscribe to any number of names.
        if not last:
            return max(self.keep_ms, 1000) * _EMPTY_LIFETIMES
        return self.ttl_ms * _POSITION_LIFETIMES

    def set_history(self, history: Retention) -> None:
        """Keep ``history`` from now on."""
        self.history_size = history.size
        self.history_ms = int(history.seconds * 1000)

    def leap(self, before: int, first: int) -> None:
        """Note that the offsets between two messages were skipped."""
        self.leaps = [(before, first), *self.leaps][:_MAX_LEAPS]

    def start_of_last(self, size: int, last: int) -> int:
        """Return the offset after which the last ``size`` messages begin."""
        start = last - size
        for before, first in self.leaps:
            if start + 1 >= first:
                break
            start -= first - 1 - before
        return start

    def surplus(self, keep_size: int, last: int) -> int:
        """Return the offset up to which messages exceed the size; below 1 for none."""
        return self.start_of_last(max(keep_size, self.history_size or 0), last)

    def add_step(self, last: int) -> int:
        """Note that another quarter of the bytes that are kept was published.

        Returns:
            The offset up to which messages exceed the bytes; 0 for none.
        """
        self.steps = [*self.steps, last]
        return self.steps.pop(0) if len(self.steps) >= _STEPS else 0

    def expired(self, last: int, now_ms: int) -> int:
        """Set the marks that are due; return the offset up to which messages expired."""
        keeps_history = bool(self.history_size) and self.history_ms > self.keep_ms
        done = 0
        if now_ms - self.mark[1] >= self.keep_ms:
            done = self.mark[0]
            if keeps_history:
                done = min(done, self.start_of_last(self.history_size or 0, last))
            self.mark = (last, now_ms)
        if keeps_history and now_ms - self.history_mark[1] >= self.history_ms:
            done = max(done, self.history_mark[0])
            self.history_mark = (last, now_ms)
        return done


_decoder = msgspec.json.Decoder(StreamRetention)
