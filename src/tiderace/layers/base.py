"""The contract of a channel layer, as Channels and its third-party layers know it.

It knows how names, capacities and messages must look, and no way of moving them.
"""

from __future__ import annotations

import fnmatch
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from tiderace.delivery.mailbox import Mailbox
from tiderace.delivery.stream_hub import Listener
from tiderace.history import Position, Publication
from tiderace.layers.broker import Retention
from tiderace.layers.names import MAX_NAME_LENGTH
from tiderace.layers.stats import LayerStats
from tiderace.ratelimit import Rate
from tiderace.runtime.sync_bridge import SyncCalls

__all__ = ["BaseChannelLayer", "LocalDelivery", "Message"]

Message = dict[str, Any]

Capacities = list[tuple["re.Pattern[str]", int]]


class BaseChannelLayer:
    """What every channel layer offers.

    Guaranteed by every layer of ours: messages that one sender sends to one channel
    or group arrive in that order; a message is delivered at most once to a channel,
    and not after ``expiry`` seconds; one that finds a channel full is refused
    (``send``) or dropped for that channel alone, counted and logged (``group_send``).
    All members of a group in a process share the message they get: it is to be read,
    not changed. Not guaranteed: that a message reaches a channel that nobody reads.

    Args:
        expiry: seconds a message waits for its reader; 60, long enough for a
            reconnect and short enough for nobody to be surprised by old news.
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
    # Existing suites format this text and compare, hence its wording and one field.
    invalid_name_error = (
        "{} name must be a valid unicode string "
        "with length < " + str(MAX_NAME_LENGTH) + " containing only ASCII "
        "alphanumerics, hyphens, underscores, or periods."
    )

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
        # Not compiled here: subclasses of other projects do that themselves.
        self.channel_capacity = channel_capacity or {}

    @property
    def sync(self) -> SyncCalls:
        """The layer for sync code: ``layer.sync.group_send("room", message)``.

        From views, signals, threads, Celery workers, commands and the shell; a process
        keeps one event loop and one connection for all of them. Outside a transaction's
        ``on_commit`` a message goes out at once, also when the transaction is rolled
        back later.

        Raises (its methods):
            RuntimeError: where an event loop runs in this thread; await the layer's
                own method there.
        """
        return SyncCalls(self)

    @property
    def ready(self) -> bool:
        """Whether this process hears what others send, or need not; for health checks.

        Always True for a layer without a broker. False while a connection to a broker
        is being opened, at first or again: groups with members here miss nothing then,
        but wait.
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
        """How many unread messages ``channel`` holds: the first match, else the default."""
        capacities = self.channel_capacity
        if isinstance(capacities, Mapping):
            capacities = self.compile_capacities(capacities)
        for pattern, capacity in capacities:
            if pattern.match(channel):
                return int(capacity)
        return self.capacity

    # Names

    def match_type_and_length(self, name: object) -> bool:
        """Whether ``name`` is a string of fewer than ``MAX_NAME_LENGTH`` characters."""
        return isinstance(name, str) and len(name) < self.MAX_NAME_LENGTH

    def require_valid_channel_name(self, name: object, receive: bool = False) -> bool:
        """True for a legal channel name.

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
        """True for a legal group name.

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
        # A note, since existing suites compare the text of the error itself.
        error.add_note(
            f"the name was {name!r}; "
            "tiderace.layers.group_name(...) makes a legal one of any values"
        )
        return error

    def valid_channel_names(self, names: list[str], receive: bool = False) -> bool:
        """True when every one of ``names`` is legal; see ``require_valid_channel_name``."""
        if not isinstance(names, list) or not names:
            raise AssertionError(f"names must be a non-empty list, not {names!r}")
        return all(self.require_valid_channel_name(name, receive) for name in names)

    def non_local_name(self, name: str) -> str:
        """The part of a channel name up to and including its ``!``, else all of it."""
        head, mark, _ = name.partition("!")
        return head + mark

    def _one_channel(self, channel: object) -> str:
        """A legal channel name, given as such or as the only one of a list.

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

    def _names(self, exclude: Collection[str]) -> set[str]:
        """Names of channels to leave out; one name may stand for a list of one."""
        return {exclude} if isinstance(exclude, str) else set(exclude)

    def _groups(self, group: object) -> list[str]:
        """Legal group names, without doubles: given as one name or as several.

        Raises:
            TypeError: for anything else.
        """
        if isinstance(group, list | tuple | set | frozenset):
            groups = list(dict.fromkeys(group))
        else:
            groups = [group]
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

    # What a layer must do

    async def send(self, channel: str, message: Message) -> None:
        """Put ``message`` into ``channel``.

        Raises:
            TypeError: for an illegal name or a message that cannot be encoded.
            ChannelFull: when the channel is at its capacity.
        """
        raise NotImplementedError("send() should be implemented in a channel layer")

    async def receive(self, channel: str) -> Message:
        """The next message of ``channel``; waits for one, without a limit.

        Of several readers each message goes to one.
        """
        raise NotImplementedError("receive() should be implemented in a channel layer")

    async def new_channel(self) -> str:
        """A channel name that nobody else has."""
        raise NotImplementedError(
            "new_channel() should be implemented in a channel layer"
        )

    async def flush(self) -> None:
        """Forget all messages and groups; for tests."""
        raise NotImplementedError("flush() not implemented (flush extension)")

    async def group_add(self, group: str, channel: str) -> None:
        """Put ``channel`` into ``group``; again is the same as once."""
        raise NotImplementedError("group_add() not implemented (groups extension)")

    async def group_discard(self, group: str, channel: str) -> None:
        """Take ``channel`` out of ``group``, if it is in it."""
        raise NotImplementedError("group_discard() not implemented (groups extension)")

    async def group_send(self, group: str, message: Message) -> None:
        """Put ``message`` into every channel of ``group`` that has room for it.

        The layers of ours also take several groups, a channel in more than one of
        them getting the message once, and ``exclude=``, names of channels that get
        none. A channel at its capacity does not get the message: counted in
        ``metrics.MESSAGES_DROPPED_FULL`` and logged once a minute per channel.
        """
        raise NotImplementedError("group_send() not implemented (groups extension)")

    async def stats(self, *, fleet: bool = False, top: int = 10) -> LayerStats:
        """What the layer is doing: connections, groups, rates, drops, lag, memory.

        Of this process by default: read from counters that are kept anyway, so it may
        be called every second. ``layer.sync.stats()`` is the same for sync code.

        Args:
            fleet: of every process that listens, from what each has told the broker
                in the last seconds; one call of the broker. A process that was killed
                stays until its lease ends, its ``age`` growing. Processes that only
                send are not among them. Without a broker it is this process.
            top: the groups whose members are told; the largest.

        Raises:
            LayerUnavailable: when ``fleet`` is asked of a broker that is away.
        """
        raise NotImplementedError("stats() is not offered by this layer")

    async def group_broadcast(
        self,
        group: str | Collection[str],
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        *,
        exclude: Collection[str] = (),
    ) -> None:
        """Send one WebSocket message to every client of ``group``, encoded once.

        It passes the consumers' handlers by: right for what all members may see as it
        stands. It reaches the sockets of consumers that say ``accepts_broadcasts =
        True``, in order with their other messages, and no named channels. On
        ``tiderace.server`` the frame is built once per process.

        Args:
            group: one group or several; a client in more than one gets it once.
            text_data: text to send; wins over ``bytes_data``.
            bytes_data: bytes to send.
            exclude: names of channels that get none.

        Raises:
            ValueError: when neither text nor bytes are given.
            TypeError: for an illegal name.
        """
        raise NotImplementedError("group_broadcast() is not offered by this layer")

    # Streams: groups with a memory (the extension "streams")

    async def stream_publish(
        self, group: str, record: Mapping[str, Any], *, keep: Retention, key: str = ""
    ) -> Position:
        """Append a publication to the group's stream and tell all who listen.

        The group's channels get it as a message of the type ``topic.publication``, see
        ``Publication.as_event``. What ``group_send`` and ``group_broadcast`` send to
        the group is part of the stream as well, and kept as long.

        Args:
            group: the group; its stream begins with the first publication.
            record: ``data``, JSON text; and optionally ``info``, JSON text about the
                publisher, ``tags``, strings by name, ``topic``, the name it is known
                by, and ``time``, seconds since the epoch.
            keep: what the stream keeps from now on; a size of 0 for nothing.
            key: one that was published under to the group in the last five minutes
                publishes nothing again.

        Returns:
            Where the publication stands, or the first one under its key.

        Raises:
            TypeError: for an illegal name, or a record that cannot be encoded.
            LayerUnavailable: when a broker could not be reached in time.
        """
        raise NotImplementedError(
            "stream_publish() not implemented (streams extension)"
        )

    async def stream_find_published(self, group: str, key: str) -> Position | None:
        """Where what was published under ``key`` in the last five minutes stands.

        So that work which comes before a publication need not be done again.

        Raises:
            TypeError: for an illegal name.
            LayerUnavailable: when a broker could not be reached in time.
        """
        raise NotImplementedError(
            "stream_find_published() not implemented (streams extension)"
        )

    async def stream_read(
        self,
        group: str,
        *,
        keep: Retention,
        since: Position | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> tuple[Position, list[Publication]]:
        """The end of the group's stream, and what it still has.

        Never more than the last ``keep.size`` offsets, and nothing older than
        ``keep.seconds``, whatever else the layer happens to have.

        Args:
            group: the group; a stream begins for it if it has none.
            keep: as it is given to ``stream_publish``.
            since: only what comes after it; in reverse, what comes before it. An empty
                epoch stands for any; there is nothing since a position of another.
            limit: how many at most, counted from the beginning, or from the end in
                reverse; None for all of them.
            reverse: whether the newest come first.

        Raises:
            TypeError: for an illegal name.
            LayerUnavailable: when a broker could not be reached in time.
        """
        raise NotImplementedError("stream_read() not implemented (streams extension)")

    async def stream_delete(self, group: str) -> None:
        """Let the group's stream have nothing any more; its positions count on.

        Whoever has not heard yet what is forgotten has missed something, be it that
        they were away or that it was on its way to them.

        Raises:
            TypeError: for an illegal name.
            LayerUnavailable: when a broker could not be reached in time.
        """
        raise NotImplementedError("stream_delete() not implemented (streams extension)")

    async def take_token(self, key: str, rate: Rate) -> float:
        """Take one from a bucket that all processes share, to limit what somebody does.

        Args:
            key: what is limited, and whose: any text.
            rate: how much the bucket holds, and how long it takes to fill.

        Returns:
            0 when it was taken; else in how many seconds it would be there.

        Raises:
            LayerUnavailable: when a broker could not be reached in time.
        """
        raise NotImplementedError("take_token() not implemented (streams extension)")

    async def stream_subscribe(self, group: str, listener: Listener) -> None:
        """Let ``listener`` hear the group's stream, in the running event loop.

        When this has returned every later publication is heard, in order.

        Raises:
            TypeError: for an illegal name.
            LayerUnavailable: when a broker could not be reached in time.
        """
        raise NotImplementedError(
            "stream_subscribe() not implemented (streams extension)"
        )

    def stream_unsubscribe(self, group: str, listener: Listener) -> None:
        """Let it hear no more; nothing when it does not listen.

        In the loop in which it listens it hears nothing after this has returned.
        """
        raise NotImplementedError(
            "stream_unsubscribe() not implemented (streams extension)"
        )


class LocalDelivery(ABC):
    """A layer that puts messages straight into the mailboxes of its process.

    A consumer takes its mailbox once instead of calling ``receive`` per message, and
    gives it back when it ends, however that comes about.
    """

    @abstractmethod
    def attach(self, channel: str) -> Mailbox[Any]:
        """The mailbox of ``channel``, which from now on belongs to the caller.

        Messages that were sent before stay in it. While attached, the channel's
        memberships do not expire.
        """

    @abstractmethod
    async def detach(self, mailbox: Mailbox[Any]) -> None:
        """Give ``mailbox`` back: its channel leaves every group and is forgotten."""
