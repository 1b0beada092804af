"""The contract of a channel layer, as Channels and layers of third parties use it."""

from __future__ import annotations

import fnmatch
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from tiderace.delivery.mailbox import Mailbox
from tiderace.delivery.stream_hub import Listener
from tiderace.history import Position, Publication
from tiderace.layers.broker import KEY_TTL, Retention
from tiderace.layers.messages import Message
from tiderace.layers.names import MAX_NAME_LENGTH
from tiderace.layers.stats import LayerStats
from tiderace.ratelimit import Rate
from tiderace.runtime.sync_bridge import SyncCalls

_COLLECTIONS = (list, tuple, set, frozenset)
Capacities = list[tuple["re.Pattern[str]", int]]

SENDING_METHODS = (
    "group_broadcast",
    "group_send",
    "send",
    "stream_delete",
    "stream_find_published",
    "stream_publish",
    "stream_read",
    "take_token",
)
"""Methods that layers of ours run without an event loop when sync code calls them."""


class BaseChannelLayer:
    """The methods of every channel layer.

    Guaranteed by Tiderace's layers: messages that one sender sends to one channel or
    group arrive in that order; a message is delivered at most once to a channel, and
    not after ``expiry`` seconds; a message to a full channel is refused
    (``send``), or dropped for that channel alone, counted and logged (``group_send``).
    All members of a group in a process share the message they get: read it, do not
    change it. Not guaranteed: that a message reaches a channel that is not read.

    Args:
        expiry: seconds a message waits for its reader; 60, long enough for a
            reconnect and short enough that messages are not out of date.
        capacity: messages a channel holds that are not read yet.
        channel_capacity: other capacities for channels whose full name matches: a
            mapping of glob patterns, or compiled ones, to numbers, first match wins.
    """

    MAX_NAME_LENGTH: ClassVar[int] = MAX_NAME_LENGTH

    channel_name_regex: ClassVar[re.Pattern[str]] = re.compile(
        r"^[a-zA-Z\d\-_.]+(\![\d\w\-_.]*)?$", re.ASCII
    )
    group_name_regex: ClassVar[re.Pattern[str]] = re.compile(
        r"^[a-zA-Z\d\-_.]+$", re.ASCII
    )
    # Existing test suites format this text and compare, hence its wording and one field.
    invalid_name_error = (
        "{} name must be a valid unicode string "
        "with length < " + str(MAX_NAME_LENGTH) + " containing only ASCII "
        "alphanumerics, hyphens, underscores, or periods."
    )

    _direct_calls: ClassVar[Collection[str]] = ()

    expiry: float
    capacity: int
    channel_capacity: Any

    def __init__(
        self,
        expiry: float = 60,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
    ) -> None:
        self.expiry = expiry
        self.capacity = capacity
        # The patterns are not compiled here: subclasses of other projects do it themselves.
        self.channel_capacity = channel_capacity or {}

    @property
    def sync(self) -> SyncCalls:
        """The layer for sync code: ``layer.sync.group_send("room", message)``.

        From views, signals, threads, Celery workers, commands and the shell; a process
        keeps one event loop and one connection for all of them, and sending needs no
        loop. Outside a transaction's ``on_commit`` a message is sent at once, also when
        the transaction is rolled back later.

        Raises (its methods):
            RuntimeError: where an event loop runs in this thread; await the layer's
                own method there.
        """
        return SyncCalls(self, direct=self._direct_calls)

    @property
    def ready(self) -> bool:
        """Whether this process receives what other processes send; for health checks.

        Always True for a layer without a broker, and while nothing in this process
        receives. False while a connection to a broker is being opened, at first or
        again: groups with members here miss nothing then, but wait.
        """
        return True

    # Capacities

    def compile_capacities(self, channel_capacity: Mapping[Any, int]) -> Capacities:
        """Turn ``{glob or pattern: capacity}`` into pairs of pattern and capacity."""
        return [
            (
                pattern
                if hasattr(pattern, "match")
                else re.compile(fnmatch.translate(pattern)),
                value,
            )
            for pattern, value in channel_capacity.items()
        ]

    def get_capacity(self, channel: str) -> int:
        """Return how many unread messages ``channel`` holds: first match, or default."""
        capacities = self.channel_capacity
        if isinstance(capacities, Mapping):
            capacities = self.compile_capacities(capacities)
        for pattern, capacity in capacities:
            if pattern.match(channel):
                return int(capacity)
        return self.capacity

    # Names

    def match_type_and_length(self, name: object) -> bool:
        """Return whether ``name`` is a string shorter than ``MAX_NAME_LENGTH``."""
        return isinstance(name, str) and len(name) < self.MAX_NAME_LENGTH

    def require_valid_channel_name(self, name: object, receive: bool = False) -> bool:
        """Return True for a legal channel name.

        Raises:
            TypeError: for any other; with ``receive`` also for a process-local name
                that does not end at its ``!``.
        """
        if (
            not self.match_type_and_length(name)
            or not isinstance(name, str)
            or not self.channel_name_regex.fullmatch(name)
        ):
            raise self._name_error("Channel", name)
        if receive and "!" in name and not name.endswith("!"):
            raise TypeError("Specific channel names in receive() must end at the !")
        return True

    def require_valid_group_name(self, name: object) -> bool:
        """Return True for a legal group name.

        Raises:
            TypeError: for any other.
        """
        if (
            not self.match_type_and_length(name)
            or not isinstance(name, str)
            or not self.group_name_regex.fullmatch(name)
        ):
            raise self._name_error("Group", name)
        return True

    def _name_error(self, kind: str, name: object) -> TypeError:
        error = TypeError(self.invalid_name_error.format(kind))
        # A note, since existing test suites compare the text of the error itself.
        error.add_note(
            f"the name was {name!r}; "
            "tiderace.layers.group_name(...) makes a legal one of any values"
        )
        return error

    def valid_channel_names(self, names: list[str], receive: bool = False) -> bool:
        """Return True when all ``names`` are legal; see ``require_valid_channel_name``."""
        if not isinstance(names, list) or not names:
            raise AssertionError(f"names must be a non-empty list, not {names!r}")
        return all(self.require_valid_channel_name(name, receive) for name in names)

    def non_local_name(self, name: str) -> str:
        """Return a channel name up to and including its ``!``, or all of it."""
        head, mark, _ = name.partition("!")
        return head + mark

    def _single_channel(self, channel: object) -> str:
        """Return a legal channel name that is given as such or in a list of one.

        Raises:
            TypeError: for anything else.
        """
        if isinstance(channel, list | tuple):
            if len(channel) != 1:
                raise TypeError(
                    f"receive() takes one channel name, not {len(channel)}; "
                    "read several channels with one task each"
                )
            channel = channel[0]
        self.require_valid_channel_name(channel)
        return str(channel)

    def _channel_names(self, names: Collection[str]) -> set[str]:
        """Return names that are given as a collection or as a single string."""
        return {names} if isinstance(names, str) else set(names)

    def _group_names(self, group: object) -> list[str]:
        """Return the legal group names, without doubles, of one name or a collection.

        Raises:
            TypeError: for anything else.
        """
        if not isinstance(group, _COLLECTIONS):
            self.require_valid_group_name(group)
            return [str(group)]
        groups = list(dict.fromkeys(group))
        for name in groups:
            self.require_valid_group_name(name)
        return groups

    def valid_channel_name(self, channel_name: str, receive: bool = False) -> bool:
        """Deprecated name of ``require_valid_channel_name``."""
        warnings.warn(
            "valid_channel_name is deprecated, use require_valid_channel_name instead",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.require_valid_channel_name(channel_name)

    def valid_group_name(self, group_name: str) -> bool:
        """Deprecated name of ``require_valid_group_name``."""
        warnings.warn(
            "valid_group_name is deprecated, use require_valid_group_name instead",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.require_valid_group_name(group_name)

    # Channels and groups

    async def send(self, channel: str, message: Message) -> None:
        """Put ``message`` into ``channel``.

        Raises:
            TypeError: for an illegal name or a message that cannot be encoded.
            ChannelFull: when the channel is at its capacity.
        """
        raise NotImplementedError("send() should be implemented in a channel layer")

    async def receive(self, channel: str) -> Message:
        """Wait for the next message of ``channel``, without a limit.

        Each message goes to one of several readers.
        """
        raise NotImplementedError("receive() should be implemented in a channel layer")

    async def new_channel(self) -> str:
        """Return a new channel name: ``specific.<process>!<random>``."""
        raise NotImplementedError(
            "new_channel() should be implemented in a channel layer"
        )

    async def flush(self) -> None:
        """Remove all messages and groups; for tests."""
        raise NotImplementedError("flush() not implemented (flush extension)")

    async def group_add(self, group: str, channel: str) -> None:
        """Put ``channel`` into ``group``, if it is not in it.

        A message sent after this has returned reaches the channel; one that this
        process has sent before does not.
        """
        raise NotImplementedError("group_add() not implemented (groups extension)")

    async def group_discard(self, group: str, channel: str) -> None:
        """Take ``channel`` out of ``group``, if it is in it."""
        raise NotImplementedError("group_discard() not implemented (groups extension)")

    async def group_send(self, group: str, message: Message) -> None:
        """Put ``message`` into every channel of ``group`` that has room for it.

        Tiderace's layers also take several groups, a channel in more than one of them
        getting the message once, and ``exclude=``, names of channels that do not get
        it. A channel at its capacity does not get the message: counted in
        ``metrics.MESSAGES_DROPPED_FULL`` and logged once a minute per channel.
        """
        raise NotImplementedError("group_send() not implemented (groups extension)")

    async def group_broadcast(
        self,
        group: str | Collection[str],
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        *,
        exclude: Collection[str] = (),
    ) -> None:
        """Send one WebSocket message to every client of ``group``, encoded once.

        The message does not pass through the consumers' handlers. It reaches the
        sockets of consumers with ``accepts_broadcasts = True``, in order with their
        other messages, and no named channels. On ``tiderace.server`` the frame is
        built once per process.

        Args:
            group: one group or several; a client in more than one gets it once.
            text_data: text to send; wins over ``bytes_data``.
            bytes_data: bytes to send.
            exclude: names of channels that do not get it.

        Raises:
            ValueError: when neither text nor bytes are given.
            TypeError: for an illegal name.
        """
        raise NotImplementedError("group_broadcast() is not offered by this layer")

    async def stats(self, *, fleet: bool = False, top: int = 10) -> LayerStats:
        """Return connections, groups, rates, drops, lag and memory.

        By default those of this process, read from counters: cheap enough for a call
        every second. ``layer.sync.stats()`` is the same for sync code.

        Args:
            fleet: return those of every process that receives, from the reports that
                each has sent to the broker in the last seconds; one call of the broker.
                A process that was killed stays until its lease ends, its ``age``
                growing. Processes that only send are not included. Without a broker it
                is this process.
            top: how many groups are returned with their size; the largest.

        Raises:
            LayerUnavailable: when ``fleet`` is asked of a broker that is away.
        """
        raise NotImplementedError("stats() is not offered by this layer")

    # Streams: groups with a history (the extension "streams")

    async def stream_publish(
        self,
        group: str,
        record: Mapping[str, Any],
        *,
        keep: Retention,
        key: str = "",
        key_ttl: float = KEY_TTL,
        limit: tuple[str, Rate] | None = None,
    ) -> Position:
        """Append a publication to the group's stream and deliver it to the listeners.

        The group's channels get it as a message of the type ``topic.publication``, see
        ``Publication.as_event``. What ``group_send`` and ``group_broadcast`` send to
        the group is part of the stream as well, and kept as long.

        Args:
            group: the group; its stream begins with the first publication.
            record: ``data``, JSON text or bytes; and optionally ``info``, JSON text about the
                publisher, ``tags``, strings by name, ``topic``, the public name of the
                topic, and ``time``, seconds since the epoch.
            keep: what the stream keeps from now on; a size of 0 for nothing.
            key: idempotency key; while the key of an earlier publication is kept,
                nothing is published under it.
            key_ttl: seconds for which the key is kept; five minutes.
            limit: arguments of ``take_token``, to take a token before anything else; over
                most brokers the same request does both.

        Returns:
            The position of the publication, or of the first one with its key.

        Raises:
            RateExceeded: when the bucket of ``limit`` has no token.
            TypeError: for an illegal name, or a record that cannot be encoded.
            LayerUnavailable: when a broker could not be reached in time.
        """
        raise _not_implemented("stream_publish")

    async def stream_find_published(self, group: str, key: str) -> Position | None:
        """Return the position of the publication made with ``key``, or None.

        Keys are kept for five minutes, or the ``key_ttl`` of the publication.

        Raises:
            TypeError: for an illegal name.
            LayerUnavailable: when a broker could not be reached in time.
        """
        raise _not_implemented("stream_find_published")

    async def stream_expire_keys(self, group: str, keys: Sequence[str]) -> None:
        """Let idempotency keys with a longer ``key_ttl`` end in five minutes.

        For a caller that has recorded elsewhere that it has published under them. Keys
        that are not kept are left out.

        Raises:
            TypeError: for an illegal name.
            LayerUnavailable: when a broker could not be reached in time.
        """
        raise _not_implemented("stream_expire_keys")

    async def stream_read(
        self,
        group: str,
        *,
        keep: Retention,
        since: Position | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> tuple[Position, list[Publication]]:
        """Return the end of the group's stream, and the publications it keeps.

        Never more than the last ``keep.size`` publications, none older than
        ``keep.seconds``, even if the layer has more.

        Args:
            group: the group; a stream begins for it if it has none.
            keep: as it is given to ``stream_publish``.
            since: only publications after it; in reverse, before it. An empty epoch
                stands for any; for a position of another epoch there are none.
            limit: how many at most, counted from the beginning, or from the end in
                reverse; None for all of them.
            reverse: whether the newest come first.

        Raises:
            TypeError: for an illegal name.
            LayerUnavailable: when a broker could not be reached in time.
        """
        raise _not_implemented("stream_read")

    async def stream_delete(self, group: str) -> None:
        """Delete the publications of the group's stream; its offsets count on.

        A reader or listener that has not got a deleted publication yet misses it, also
        when it was on its way.

        Raises:
            TypeError: for an illegal name.
            LayerUnavailable: when a broker could not be reached in time.
        """
        raise _not_implemented("stream_delete")

    async def stream_subscribe(self, group: str, listener: Listener) -> None:
        """Deliver the group's stream to ``listener``, in the running event loop.

        Every publication made after this has returned is delivered, in order.

        Raises:
            TypeError: for an illegal name.
            LayerUnavailable: when a broker could not be reached in time.
        """
        raise _not_implemented("stream_subscribe")

    def stream_unsubscribe(self, group: str, listener: Listener) -> None:
        """Undo ``stream_subscribe``; do nothing when ``listener`` is not subscribed.

        In the listener's event loop it is not called any more after this has returned.
        """
        raise _not_implemented("stream_unsubscribe")

    async def take_token(self, key: str, rate: Rate) -> float:
        """Take a token from a bucket that all processes share; for rate limits.

        Args:
            key: what is limited, and for which user: any text.
            rate: how many tokens the bucket holds, and how long it takes to fill.

        Returns:
            0 when a token was taken; else the seconds until there will be one.

        Raises:
            LayerUnavailable: when a broker could not be reached in time.
        """
        raise _not_implemented("take_token")


def _not_implemented(method: str) -> NotImplementedError:
    return NotImplementedError(f"{method}() not implemented (streams extension)")


class LocalDelivery(ABC):
    """A layer that puts messages straight into the mailboxes of its process.

    A consumer takes its mailbox once instead of calling ``receive`` for each message.
    """

    @abstractmethod
    def attach(self, channel: str) -> Mailbox[Any]:
        """Return the mailbox of ``channel``, which belongs to the caller from now on.

        It holds the messages that were sent before. While it is attached, the
        channel's memberships do not expire.
        """

    @abstractmethod
    async def detach(self, mailbox: Mailbox[Any]) -> None:
        """Give ``mailbox`` back: its channel leaves all groups and is removed."""
