"""The contract of a broker, on which a channel layer between processes is built.

A broker carries bytes under names called subjects and queues. How much it keeps, and
for how long, is an argument.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from typing import Protocol

import msgspec

from tiderace.history import Position
from tiderace.presence.store import PresenceStore
from tiderace.ratelimit import Rate

GROUP_MAX_BYTES = 4 * 1024 * 1024
"""Bytes of a group's messages that are kept, by default, whatever their retention."""

KEY_TTL = 300.0
"""Seconds in which a publication under the same idempotency key is the same one."""


# Structs, as ``Position``: they are made, or compared, for each publication.
class Retention(msgspec.Struct, frozen=True):
    """How much of a subject's stream is kept for readers that were disconnected."""

    size: int
    """The least number of messages."""
    seconds: float
    """Seconds after the last message."""


class Published(msgspec.Struct, frozen=True):
    """The result of a publication."""

    position: Position
    members: Sequence[str]
    """The named queues among the members, which need a copy."""


class StreamMessage(msgspec.Struct, frozen=True):
    """A message of a stream, received when it was published or read afterwards."""

    subject: str
    position: Position
    before: int
    """The offset of the message before it: one less, unless offsets were skipped."""
    data: bytes
    age: float = 0.0
    """Seconds since it was published, by the broker's clock."""


class QueueReady(msgspec.Struct, frozen=True):
    """A queue has a message to take."""

    queue: str


class Reconnected(msgspec.Struct, frozen=True):
    """The connection was opened, or lost and opened again: messages may be missing."""


class Delivery(msgspec.Struct, frozen=True):
    """A message taken from a queue, held under a lease until it is confirmed."""

    queue: str
    token: bytes
    data: bytes


class StreamStore(Protocol):
    """The streams of subjects: publishes messages and keeps the last of them."""

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
        """Append ``data`` to the subject's stream and publish it, as one step.

        Retried over a lost connection, it still happens once.

        Args:
            subject: the subject to publish on.
            data: the message.
            keep: what is kept of the stream for processes that were disconnected.
            members_age: seconds for which a membership by ``join`` lasts.
            history: what is kept, besides, for ``read``; None leaves it unchanged.
            key: idempotency key. While the same is kept for the subject, nothing
                happens, and the first publication's position is returned, without
                members.
            key_ttl: seconds for which the key is kept.
            limit: key and rate of a bucket from which a token is taken first, also for a
                key that is kept. If the broker can, it is taken in the same step, so that
                retries take one token in all.

        Raises:
            RateExceeded: when the bucket has no token.
        """

    async def expire_keys(self, subject: str, keys: Sequence[str]) -> None:
        """Keep idempotency keys that have a longer life for ``KEY_TTL`` from now on."""

    async def find_published(self, subject: str, key: str) -> Position | None:
        """Return the position of the publication with ``key``, or None."""

    async def position(self, subject: str) -> Position | None:
        """Return the end of the subject's stream; None when it has none."""

    async def read_after(
        self, subject: str, offset: int
    ) -> tuple[Position | None, Sequence[StreamMessage]]:
        """Return the end of the subject's stream, and its messages after ``offset``.

        Of many, only the first are returned: the last one is then before the end, and
        the next call continues after it.
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
    ) -> tuple[Position, Sequence[StreamMessage]]:
        """Return the end of the subject's stream, and all its messages within ``history``.

        A stream is created when there is none. Unless ``publish`` has set a history,
        ``history`` is also kept from now on. The other arguments are those of
        ``BaseChannelLayer.stream_read``.
        """

    async def delete_history(self, subject: str) -> None:
        """Delete the messages of the subject's stream; its position stays."""


class QueueStore(Protocol):
    """Named queues, whose messages go to one reader each, under a lease."""

    async def push(self, queue: str, data: bytes, *, size: int, seconds: float) -> bool:
        """Put ``data`` into a queue for ``seconds``; return False if it holds ``size``."""

    async def take(self, queue: str, *, lease: float) -> Delivery | None:
        """Take the next message, or None; it returns to the queue unless acked in time."""

    async def ack(self, delivery: Delivery) -> None:
        """Confirm the message, so that it is not delivered again."""

    async def nack(self, delivery: Delivery, *, acked: bool = False) -> None:
        """Return the message to the head of its queue, if it is still held.

        With ``acked``, it was confirmed, and is returned although it is not held.
        """


class MembershipStore(Protocol):
    """The members of subjects, and the processes that they belong to."""

    async def join(self, subject: str, member: str, *, seconds: float) -> None:
        """Let the named queue ``member`` get copies of publications for ``seconds``."""

    async def leave(self, subject: str, member: str) -> None:
        """Undo ``join``."""

    async def announce(
        self,
        process: str,
        joined: Collection[tuple[str, str]],
        left: Collection[tuple[str, str]],
        *,
        lease: float,
    ) -> None:
        """Store which members of ``process`` have joined and left which subjects.

        The memberships expire with the lease unless they are refreshed.
        """

    async def refresh(
        self, process: str, subjects: Collection[str], *, lease: float
    ) -> list[str]:
        """Extend the announced memberships by another lease.

        Returns:
            The subjects whose members have expired or were lost by the broker; announce
            them again.
        """

    async def remove_process(self, process: str, subjects: Collection[str]) -> None:
        """Remove everything announced for ``process``."""

    async def members(self, subject: str) -> list[str]:
        """Return the members of ``subject``: those announced, and named queues."""

    async def count(self, subject: str) -> int:
        """Return the number of members, as of ``members``."""

    async def report(self, process: str, data: bytes, *, lease: float) -> None:
        """Store ``data`` about ``process``, which counts as alive for a lease.

        Subscribers of the queue named ``process`` get a ``QueueReady``: the process
        itself, which measures the round trip.
        """

    async def reports(self) -> list[bytes]:
        """Return the reports of the processes that are alive."""


class Broker(Protocol):
    """A technology that carries bytes between processes.

    Every coroutine of a broker and its stores may be called from any event loop, one
    that lives for a single call included; ``messages`` belongs to one loop at a time. A
    call waits up to ``publish_timeout`` seconds for a broker that is away.

    Raises (all coroutines):
        LayerUnavailable: when the broker could not be reached in that time, or has
            refused the command, with its error.
    """

    publish_timeout: float
    delivers_earlier: bool
    """Whether messages that were published before a subscription may arrive after it."""

    @property
    def streams(self) -> StreamStore:
        """Streams of publications."""

    @property
    def queues(self) -> QueueStore:
        """Named queues."""

    @property
    def memberships(self) -> MembershipStore:
        """Members of subjects, and processes."""

    @property
    def presence(self) -> PresenceStore:
        """Presence in the groups that this broker serves."""

    async def take_token(self, key: str, rate: Rate) -> float:
        """Take a token from the bucket ``key``; return 0, or the seconds until one is there."""

    async def subscribe(
        self, subjects: Collection[str], queues: Collection[str] = ()
    ) -> None:
        """Subscribe to subjects and queues; return when the broker has confirmed it.

        Unless ``messages`` is being read and connected it returns at once; a
        ``Reconnected`` follows when the subscription is confirmed.
        """

    async def unsubscribe(
        self, subjects: Collection[str], queues: Collection[str] = ()
    ) -> None:
        """Undo ``subscribe``."""

    def messages(
        self,
    ) -> AsyncGenerator[Sequence[StreamMessage | QueueReady | Reconnected], None]:
        """Yield received items in order, in batches, for ever; reconnect when needed."""

    @property
    def is_connected(self) -> bool:
        """Whether ``messages`` is being read and every subscription is confirmed."""

    async def flush(self) -> None:
        """Delete everything under this broker's prefix; for tests."""

    async def close(self) -> None:
        """Close the connections of the running event loop."""

    async def drop_connections(self) -> None:
        """Close the connections of the running event loop as a network failure would."""
