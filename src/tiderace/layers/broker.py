"""What a technology must offer so that a channel layer between processes can stand on it.

Bytes in, bytes out, under names called subjects and queues. It knows no groups, no
consumers and no event; what is remembered, and for how long, is an argument.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from tiderace.history import Position
from tiderace.presence.store import PresenceStore
from tiderace.ratelimit import Rate

__all__ = [
    "Broker",
    "Delivery",
    "Entry",
    "Position",
    "Published",
    "QueueReady",
    "Reconnected",
    "Retention",
    "StreamMessage",
]


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of a subject's stream is kept for those who were cut off."""

    size: int
    """Messages, at least."""
    seconds: float
    """After the last one."""


@dataclass(frozen=True, slots=True)
class Published:
    """What became of a publication."""

    position: Position
    members: Sequence[str]
    """Named queues that are to get a copy."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A message out of a stream's memory."""

    offset: int
    before: int
    """The offset of the message before it: one less, but for a leap."""
    age: float
    """Seconds since it was published, by the broker's clock."""
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamMessage:
    """A message as it was published."""

    subject: str
    epoch: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class QueueReady:
    """A queue has something to take."""

    queue: str


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The connection was opened, or lost and opened again: something may be missing."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message taken from a queue, held under a lease until it is confirmed."""

    queue: str
    token: bytes
    data: bytes


class Broker(Protocol):
    """A technology that carries bytes between processes.

    Every coroutine may be called from any event loop, one that lives for a single
    call included; ``messages`` belongs to one loop at a time. They wait up to the
    broker's own publish timeout for a broker that is away.

    Raises (all coroutines):
        LayerUnavailable: when the broker could not be reached in that time, or has
            refused, with what it said.
    """

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
        """Append ``data`` to the subject's stream and publish it, as one step.

        Tried again over a lost connection, it still happens once.

        Args:
            subject: where to.
            data: what.
            keep: what is kept of the stream for processes that were cut off.
            members_age: how many seconds a membership by ``join`` lasts.
            history: what is kept of it, besides, for those who ``read`` it; None to
                leave that as it is.
            key: if the same was given for the subject in the last five minutes, nothing
                happens, and what is returned is the first one's position, and nobody.
        """

    async def position(self, subject: str) -> Position | None:
        """The end of the subject's stream; None when it has none."""

    async def read_after(
        self, subject: str, offset: int
    ) -> tuple[Position | None, Sequence[Entry]]:
        """The end of the subject's stream, and what it still has after ``offset``.

        When that is much it is only the beginning: the last entry is not the end then,
        and the next call goes on after it.
        """

    async def read(
        self,
        subject: str,
        *,
        history: Retention,
        keep: Retention,
        since: Position | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> tuple[Position, Sequence[Entry]]:
        """The end of the subject's stream, and what it still has: all of it, exactly.

        A stream begins when there is none. ``history`` is what is to be read at most;
        unless ``publish`` has said it before, it is also kept from now on. The rest is
        as in ``BaseChannelLayer.stream_read``.
        """

    async def find_published(self, subject: str, key: str) -> Position | None:
        """Where what was published under ``key`` lately stands; None when nothing was."""

    async def delete_history(self, subject: str) -> None:
        """Let the subject's stream have nothing any more; its position stays."""

    async def take_token(self, key: str, rate: Rate) -> float:
        """Take one from the bucket ``key``; the seconds to wait when it is empty, else 0."""

    async def push(self, queue: str, data: bytes, *, size: int, seconds: float) -> bool:
        """Put ``data`` into a queue for ``seconds``; False when it holds ``size``."""

    async def take(self, queue: str, *, lease: float) -> Delivery | None:
        """The next message of a queue, which returns there unless confirmed in time."""

    async def ack(self, delivery: Delivery) -> None:
        """The message has arrived; nobody else shall get it."""

    async def nack(self, delivery: Delivery, *, acked: bool = False) -> None:
        """The message goes back to the head of its queue, if it is still held.

        With ``acked`` also when it is not, since it was confirmed.
        """

    async def join(self, subject: str, member: str, *, seconds: float) -> None:
        """Let the named queue ``member`` get a copy of what is published."""

    async def leave(self, subject: str, member: str) -> None:
        """Let it get none any more."""

    async def announce(
        self,
        process: str,
        joined: Collection[tuple[str, str]],
        left: Collection[tuple[str, str]],
        *,
        lease: float,
    ) -> None:
        """Tell who joined and left which subject here; all of it lapses with the lease."""

    async def refresh(
        self, process: str, subjects: Collection[str], *, lease: float
    ) -> list[str]:
        """Keep what was announced for another lease; the subjects for which it is lost.

        What is returned has lapsed, or the broker has lost its memory: announce it anew.
        """

    async def remove_process(self, process: str, subjects: Collection[str]) -> None:
        """Withdraw everything announced for ``process``."""

    async def members(self, subject: str) -> list[str]:
        """Who has joined ``subject``: announced by any process, and named queues."""

    async def count(self, subject: str) -> int:
        """How many ``members`` would return."""

    async def report(self, process: str, data: bytes, *, lease: float) -> None:
        """Keep ``data`` about ``process`` for a lease, which says that it lives.

        Whoever has subscribed to the queue named ``process`` is woken by it: the
        process itself, which sees how long the way takes.
        """

    async def reports(self) -> list[bytes]:
        """What is kept about the processes that live."""

    @property
    def presence(self) -> PresenceStore:
        """Who is present in the groups that this broker serves."""

    async def subscribe(
        self, subjects: Collection[str], queues: Collection[str] = ()
    ) -> None:
        """Have ``messages`` yield what comes for these; returns when it is so.

        Without a reader of ``messages``, or while it is cut off, it is only noted:
        an ``Reconnected`` follows when it hears them.
        """

    async def unsubscribe(
        self, subjects: Collection[str], queues: Collection[str] = ()
    ) -> None:
        """Undo ``subscribe``."""

    def messages(
        self,
    ) -> AsyncGenerator[Sequence[StreamMessage | QueueReady | Reconnected], None]:
        """What arrives, in order and in batches, for ever; reconnects by itself."""

    @property
    def is_connected(self) -> bool:
        """Whether a reader of ``messages`` hears everything that is subscribed to now."""

    async def flush(self) -> None:
        """Forget everything under this broker's prefix; for tests."""

    async def close(self) -> None:
        """Close the connections of the running event loop."""

    async def drop_connections(self) -> None:
        """Break the connections of the running event loop, as a network would."""
