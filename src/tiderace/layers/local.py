"""The channels and groups of one process: mailboxes, memberships, expiry and fan-out."""

from __future__ import annotations

import asyncio
import heapq
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from tiderace import conf, metrics
from tiderace.asgi import printable
from tiderace.delivery.hub import Hub, write_to_idle
from tiderace.delivery.loop_iterations import let_woken_tasks_run
from tiderace.delivery.mailbox import ExpiryQueue, Mailbox
from tiderace.delivery.outbox import PreparedMessage
from tiderace.delivery.stream_hub import StreamHub
from tiderace.layers.messages import ChannelMailbox, Message
from tiderace.layers.names import CLUSTER_GROUP
from tiderace.layers.stats import Pace, ProcessStats

logger = logging.getLogger("tiderace.layers")

# Mailboxes that are filled before control returns to the event loop: with messages, which
# may run handlers, and with broadcasts. Either takes a few milliseconds.
_SLICE = 256
_PREPARED_SLICE = 4096

# The largest groups are looked for among this many, the oldest first: with a group per
# user of a big site, a search among all of them would block the event loop.
_MAX_SEARCHED = 20_000

_STATM_PATH = Path("/proc/self/statm")


class Departure(NamedTuple):
    """A channel that has left a group."""

    group: str
    channel: str
    was_last: bool
    """Whether it was the group's last channel in this process."""


class DropLog:
    """Logs messages dropped by full channels."""

    def mailbox_full(
        self, group: str, mailbox: ChannelMailbox, *, drops: int, members: int
    ) -> None:
        """Log ``drops`` messages to a channel, the last of them sent to ``group``."""
        group = printable(group)
        logger.warning(
            "channel %s is full: messages to it were dropped (unread: %d, dropped: %d), "
            "the last of them sent to group %s; its consumer is too slow, or raise "
            "the layer's capacity",
            mailbox.name,
            mailbox.capacity,
            drops,
            group,
            extra={
                "reason": "channel_full",
                "channel_name": mailbox.name,
                "group": group,
                "dropped": drops,
            },
        )

    def queues_full(self, full: int, queues: int, groups: Collection[str]) -> None:
        """Log that ``full`` of the ``queues`` named channels did not get a message."""
        logger.warning(
            "%d of %d named channels in %s are full and did not get a message; start "
            "more workers, or raise the layer's capacity",
            full,
            queues,
            printable(", ".join(groups)),
            extra={"reason": "channel_full", "dropped": full},
        )


class LocalChannels:
    """The channels of this process and the groups they are in.

    May be used from several threads and event loops at once: a reader is woken in the
    loop in which it waits.

    A channel without a consumer behind it (one that is read with ``receive``) loses a
    membership ``group_expiry`` seconds after it joined. A consumer's channel stays in
    its groups until it leaves them or is detached.

    Args:
        expiry: seconds a message waits for its reader.
        group_expiry: seconds a membership without a consumer lasts.
        capacity_of: returns how many unread messages a channel holds.
        clock: seconds that never run backwards.
        drop_log: logs messages to full channels.
        leave_when_unread: whether a channel without a consumer leaves its groups when
            a message in it has expired.
    """

    def __init__(
        self,
        *,
        expiry: float,
        group_expiry: float,
        capacity_of: Callable[[str], int],
        clock: Callable[[], float],
        drop_log: DropLog,
        leave_when_unread: bool = False,
    ) -> None:
        self.expiry = expiry
        self.hub = Hub()
        self.listeners = StreamHub()
        self.mailboxes: dict[str, ChannelMailbox] = {}
        self.expiry_queue = ExpiryQueue()
        self.lock = threading.RLock()
        """Held while a mailbox or membership changes."""
        self.process = secrets.token_hex(16)
        """The process part of channel names; unique to this process."""
        self._group_expiry = group_expiry
        self._capacity_of = capacity_of
        self.clock = clock
        self._drop_log = drop_log
        self._leave_when_unread = leave_when_unread
        # When channels without a consumer joined a group, the earliest first.
        self._joined_at: dict[tuple[str, str], float] = {}
        self._started = time.time()
        self._pace = Pace(clock)

    # Channels

    def new_name(self, prefix: str) -> str:
        """Return a channel name that is not in use: ``<prefix>.<process>!<random>``."""
        return f"{prefix.rstrip('.')}.{self.process}!{secrets.token_hex(8)}"

    @property
    def channels(self) -> dict[str, ChannelMailbox]:
        """The channels with unread messages, a waiting reader or a consumer, by name."""
        return {
            name: mailbox
            for name, mailbox in list(self.mailboxes.items())
            if mailbox.attached or mailbox.readers or not mailbox.empty()
        }

    def is_unused(self) -> bool:
        """Return whether this process has neither a channel nor a listener."""
        return not self.mailboxes and not self.listeners

    def attach(self, channel: str) -> ChannelMailbox:
        """Return the mailbox of ``channel``, which belongs to a consumer from now on."""
        with self.lock:
            mailbox = self._mailbox(channel)
            mailbox.attached = True
            mailbox.expiry_queue = None
            for group in mailbox.groups:
                self._joined_at.pop((group, channel), None)
            return mailbox

    def detach(self, mailbox: ChannelMailbox) -> list[Departure]:
        """Take a consumer's channel out of all groups and remove its mailbox."""
        with self.lock:
            groups = list(mailbox.groups)
            vacated = self.hub.drop(mailbox)
            mailbox.attached = False
            mailbox.clear()
            if self.mailboxes.get(mailbox.name) is mailbox:
                del self.mailboxes[mailbox.name]
            return [Departure(each, mailbox.name, each in vacated) for each in groups]

    def put(self, channel: str, message: Message, *, age: float = 0.0) -> bool:
        """Put a message, sent ``age`` seconds ago, into a channel; False when it is full."""
        with self.lock:  # so that no other thread removes the mailbox meanwhile
            mailbox = self._mailbox(channel)
            mailbox.readers += 1
        try:
            # The lock is not held: this may run a consumer's handler, which may wait
            # for a thread that needs the lock.
            if not mailbox.push(message, self.clock() + self.expiry - age):
                return False
        finally:
            with self.lock:
                mailbox.readers -= 1
                self._remove_if_idle(mailbox)
        metrics.MESSAGES_DELIVERED.add()
        return True

    def put_or_drop(self, channel: str, message: Message, *, age: float) -> None:
        """Put a message into a channel; count and log it as dropped when it is full."""
        if not self.put(channel, message, age=age):
            self._report_drop(None, self._mailbox(channel))

    def put_gap(self, group: str | None, missed: int | None) -> None:
        """Report a loss to the consumers in ``group``, or with None to all consumers.

        ``missed`` is the number of lost messages, None when it is unknown.
        """
        message = {"type": "layer.gap", "group": group, "missed": missed}
        deadline = self.clock() + self.expiry
        mailboxes = (
            list(self.mailboxes.values()) if group is None else self.hub.members(group)
        )
        for mailbox in mailboxes:
            # A reader with receive() expects the application's messages alone.
            if mailbox.attached and not mailbox.push(message, deadline):
                self._report_drop(group, mailbox)

    async def read(self, channel: str) -> Message:
        """Wait for the next message of a channel."""
        with self.lock:  # so that no other reader removes the mailbox meanwhile
            mailbox = self._mailbox(channel)
            mailbox.readers += 1
        try:
            message = await mailbox.get()
        finally:
            with self.lock:
                mailbox.readers -= 1
                self._remove_if_idle(mailbox)
        if isinstance(message, PreparedMessage):
            return message.event
        # The outermost dict belongs to the reader: readers written for Channels pop the
        # type, and the other members of the group share the message.
        return dict(message) if isinstance(message, dict) else message

    # Groups

    def join(self, group: str, channel: str) -> None:
        """Put a channel into a group."""
        with self.lock:
            mailbox = self._mailbox(channel)
            self.hub.add(group, mailbox)
            if not mailbox.attached:
                self._joined_at.pop((group, channel), None)
                self._joined_at[group, channel] = self.clock()

    def leave(self, group: str, channel: str) -> list[Departure]:
        """Take a channel out of a group; the list is empty when it was not in it."""
        with self.lock:
            self._joined_at.pop((group, channel), None)
            mailbox = self.mailboxes.get(channel)
            if mailbox is None or group not in mailbox.groups:
                return []
            was_last = self.hub.discard(group, mailbox)
            self._remove_if_idle(mailbox)
            return [Departure(group, channel, was_last)]

    def is_member(self, group: str, channel: str) -> bool:
        """Return whether a channel of this process is in ``group``."""
        return channel in self.hub.groups.get(group, ())

    def has_group(self, group: str) -> bool:
        """Return whether a channel or listener of this process is in ``group``."""
        return group in self.hub.groups or group in self.listeners

    async def fan_out(
        self,
        group: str,
        message: Message | PreparedMessage,
        deadline: float,
        excluded: Collection[str] = (),
    ) -> None:
        """Put one message into the mailboxes of a group's channels.

        A large group is served in slices, so that pings, accepts and other groups do
        not wait until it is done.
        """
        receivers = self.hub.members(group)
        if excluded:
            receivers = [each for each in receivers if each.name not in excluded]
        begun = time.perf_counter()
        size = _PREPARED_SLICE if isinstance(message, PreparedMessage) else _SLICE
        for start in range(0, len(receivers), size):
            if start:
                await _yield_to_loop()
            some = receivers[start : start + size]
            rest = some
            if isinstance(message, PreparedMessage):
                rest = write_to_idle(some, message)
            refused = self.hub.deliver(rest, message, deadline)
            metrics.MESSAGES_DELIVERED.add(len(some) - len(refused))
            for mailbox in refused:
                self._report_drop(group, mailbox)
        await let_woken_tasks_run()
        metrics.FAN_OUT_DURATION.observe(time.perf_counter() - begun)

    def clear(self) -> None:
        """Remove all messages, groups and listeners; consumers keep their channels."""
        self.listeners.clear()
        with self.lock:
            for group, members in list(self.hub.groups.items()):
                for channel in list(members):
                    self.leave(group, channel)
            self.expiry_queue.clear()
            self._joined_at.clear()
            for mailbox in list(self.mailboxes.values()):
                mailbox.clear()
                self._remove_if_idle(mailbox)

    # Expiry

    def expire(self, now: float) -> list[Departure]:
        """Drop the messages and memberships without a consumer that have expired."""
        departures: list[Departure] = []
        while (mailbox := self.expiry_queue.pop(now)) is not None:
            departures += self._expire_messages(mailbox)
        if self._joined_at:
            with self.lock:
                while self._joined_at:
                    (group, channel), joined_at = next(iter(self._joined_at.items()))
                    if joined_at + self._group_expiry > now:
                        break
                    departures += self.leave(group, channel)
        return departures

    def _expire_messages(self, mailbox: ChannelMailbox) -> list[Departure]:
        departures: list[Departure] = []
        if (
            mailbox.drop_and_reschedule()
            and self._leave_when_unread
            and not mailbox.attached
        ):
            for group in list(mailbox.groups):
                departures += self.leave(group, mailbox.name)
        self._remove_if_idle(mailbox)
        return departures

    # Statistics

    def stats(
        self,
        *,
        ready: bool = True,
        top: int,
        lag: float | None = None,
        round_trip: float | None = None,
    ) -> ProcessStats:
        """Return the numbers of this process, with the sizes of its ``top`` groups."""
        listeners, with_listeners = self.listeners, list(self.listeners)
        # Copied in one step: other threads join and leave meanwhile.
        joined = list(self.hub.groups.items())
        sizes = {name: len(some) for name, some in joined[:_MAX_SEARCHED]}
        for name in with_listeners[:_MAX_SEARCHED]:
            sizes[name] = sizes.get(name, 0) + listeners.count(name)
        only_listeners = sum(name not in self.hub.groups for name in with_listeners)
        sent_per_second, delivered_per_second = self._pace.per_second()
        return ProcessStats(
            process=self.process,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=self._started,
            at=time.time(),
            ready=ready,
            connections=metrics.CONNECTIONS_OPEN.value,
            channels=len(self.mailboxes),
            groups=len(joined) + only_listeners,
            members=dict(heapq.nlargest(top, sizes.items(), key=itemgetter(1))),
            sent=metrics.MESSAGES_SENT.value,
            delivered=metrics.MESSAGES_DELIVERED.value,
            sent_per_second=round(sent_per_second, 3),
            delivered_per_second=round(delivered_per_second, 3),
            dropped={
                "full": metrics.MESSAGES_DROPPED_FULL.value,
                "expired": metrics.MESSAGES_DROPPED_EXPIRED.value,
                "unhandled": metrics.MESSAGES_DROPPED_UNHANDLED.value,
                "lost": metrics.GAPS_LOST.value,
            },
            slow_clients=metrics.SLOW_CLIENTS.value,
            errors=metrics.CONSUMER_ERRORS.value,
            lag=lag,
            round_trip=round_trip,
            memory=_resident_bytes(),
            topic_clients=metrics.TOPIC_CONNECTIONS.value,
            in_cluster=listeners.count(CLUSTER_GROUP) > 0,
        )

    # Mailboxes

    def _mailbox(self, channel: str) -> ChannelMailbox:
        mailbox = self.mailboxes.get(channel)
        if mailbox is None:
            with self.lock:
                mailbox = self.mailboxes.get(channel)
                if mailbox is None:
                    mailbox = self.mailboxes[channel] = Mailbox(
                        channel,
                        self._capacity_of(channel),
                        expiry_queue=self.expiry_queue,
                        clock=self.clock,
                    )
        return mailbox

    def _remove_if_idle(self, mailbox: ChannelMailbox) -> None:
        with self.lock:
            # A mailbox in the expiry queue stays until it is due: removed and made anew
            # for every message, a busy queue would be in there as many times.
            used = (
                mailbox.attached
                or mailbox.readers
                or mailbox.groups
                or mailbox.scheduled
            )
            if not used and mailbox.empty():
                self.mailboxes.pop(mailbox.name, None)

    def _report_drop(self, group: str | None, mailbox: ChannelMailbox) -> None:
        """Count and log a message to ``group``, or with None to the channel itself."""
        metrics.MESSAGES_DROPPED_FULL.add()
        drops = mailbox.count_drop(conf.current().drop_log_interval)
        if drops:
            members = 1 if group is None else len(self.hub.members(group))
            name = group or "(sent to the channel itself)"
            self._drop_log.mailbox_full(name, mailbox, drops=drops, members=members)


async def _yield_to_loop() -> None:
    """Let the event loop do something else, if one is running."""
    if asyncio._get_running_loop() is not None:  # noqa: SLF001
        await asyncio.sleep(0)


def _resident_bytes() -> int | None:
    """Return the memory of this process; None on systems without /proc."""
    try:
        pages = _STATM_PATH.read_text("ascii").split()[1]
    except (OSError, ValueError, IndexError):
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
