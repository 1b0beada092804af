"""The part of a layer that is in this process: its mailboxes, groups and bounds.

Every layer of ours stands on it: the in-memory one is little more, the others add what
carries messages between processes. It knows no broker and no consumer.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from tiderace import conf, metrics
from tiderace.delivery.hub import Hub
from tiderace.delivery.mailbox import ExpiryQueue, Mailbox
from tiderace.delivery.outbox import PreparedMessage, write_to_idle
from tiderace.delivery.stream_hub import Listener, PendingDelivery, StreamHub
from tiderace.layers.base import BaseChannelLayer, LocalDelivery, Message
from tiderace.layers.stats import LayerStats, Pace, ProcessStats, process_stats
from tiderace.runtime.sync_bridge import SyncCalls

__all__ = ["ENVELOPE", "TO", "Box", "LocalChannelLayer"]

logger = logging.getLogger("tiderace.layers")

Box = Mailbox[Message | PreparedMessage]

# Keys with which layers address a message; taken off on arrival.
TO = "__asgi_channel__"
ENVELOPE = "__tiderace__"

# Sockets served before the loop may do something else: a few milliseconds of handlers,
# and as long for what passes them by.
_SLICE = 256
_READY_SLICE = 4096


class LocalChannelLayer(BaseChannelLayer, LocalDelivery):
    """Mailboxes and groups of one process.

    It may be used from several threads and event loops at once: a reader is woken in
    the loop it waits in.

    Channels without a consumer of ours behind them (named queues, and names that
    somebody reads with ``receive``) lose their memberships ``group_expiry`` seconds
    after they joined. A consumer's channel stays in its groups until it leaves them or
    ends.
    """

    extensions = ["groups", "flush", "streams"]

    def __init__(
        self,
        *,
        expiry: float,
        group_expiry: float,
        capacity: int,
        channel_capacity: Mapping[Any, int] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(expiry, capacity)
        self.channel_capacity = self.compile_capacities(channel_capacity or {})
        self.group_expiry = group_expiry
        self._clock = clock
        self._become_a_process()

    def _become_a_process(self) -> None:
        """Begin without channels and groups, under a name no other process has."""
        self._hub: Hub[Box] = Hub()
        self._listeners = StreamHub()
        self._mailboxes: dict[str, Box] = {}
        self._deadlines = ExpiryQueue()
        # When channels without a consumer joined a group, the earliest first.
        self._joined: dict[tuple[str, str], float] = {}
        self._lock = threading.RLock()
        self._process = secrets.token_hex(16)
        self._started = time.time()
        self._pace = Pace(self._clock)
        # Over a broker: how long a message takes to be heard here, and to be accepted.
        self._lag: float | None = None
        self._round_trip: float | None = None

    @property
    def channels(self) -> dict[str, Box]:
        """The channels with unread messages, a waiting reader or a consumer, by name."""
        return {
            name: box
            for name, box in list(self._mailboxes.items())
            if box.attached or box.readers or not box.empty()
        }

    @property
    def groups(self) -> dict[str, dict[str, Box]]:
        """The groups with a member in this process: name to members by channel name."""
        return self._hub.groups

    @property
    def sync(self) -> SyncCalls:
        """The layer for sync code; see ``BaseChannelLayer.sync``.

        Sending needs no event loop here, and makes none.
        """
        return SyncCalls(
            self,
            direct=(
                "group_broadcast",
                "group_send",
                "send",
                "stream_delete",
                "take_token",
                "stream_publish",
                "stream_find_published",
                "stream_read",
            ),
        )

    async def stats(self, *, fleet: bool = False, top: int = 10) -> LayerStats:
        """See ``BaseChannelLayer.stats``."""
        return LayerStats((self.stats_here(top),))

    def stats_here(self, top: int = 10) -> ProcessStats:
        """What ``stats`` tells of this process, for code that cannot await."""
        return process_stats(
            process=self._process,
            started=self._started,
            ready=self.ready,
            channels=len(self._mailboxes),
            members=self.groups,
            listeners=self._listeners,
            pace=self._pace,
            top=top,
            lag=self._lag,
            round_trip=self._round_trip,
        )

    async def new_channel(self, prefix: str = "specific.") -> str:
        """A channel name that nobody else has: ``specific.<process>!<socket>``."""
        return f"{prefix.rstrip('.')}.{self._process}!{secrets.token_hex(8)}"

    def attach(self, channel: str) -> Box:
        """The mailbox of ``channel``; see ``LocalDelivery.attach``."""
        with self._lock:
            box = self._box(channel)
            box.attached = True
            box.deadlines = None
            for group in box.groups:
                self._joined.pop((group, channel), None)
            return box

    async def detach(self, mailbox: Box) -> None:
        """Give ``mailbox`` back; see ``LocalDelivery.detach``."""
        with self._lock:
            groups = list(mailbox.groups)
            vacated = self._hub.drop(mailbox)
            for group in groups:
                self._left(group, mailbox.name, group in vacated)
            mailbox.attached = False
            mailbox.clear()
            if self._mailboxes.get(mailbox.name) is mailbox:
                del self._mailboxes[mailbox.name]

    def stream_unsubscribe(self, group: str, listener: Listener) -> None:
        """See ``BaseChannelLayer.stream_unsubscribe``."""
        if self._listeners.discard(group, listener):
            self._unheard(group)

    # For the layers that stand on this one

    def _unheard(self, group: str) -> None:
        """Called after the group's last listener here has gone, in any thread."""

    async def _tell(self, group: str, delivery: PendingDelivery) -> None:
        """Tell listeners what was put in for them; see ``StreamHub.put``."""
        if not await delivery.finish() and self._listeners.discard_closed(group):
            self._unheard(group)

    def _left(self, group: str, channel: str, last: bool) -> None:
        """Called after a channel left a group, with whether it was the last one here.

        May be called in any thread; nothing is sent from here.
        """

    def _unread(self, box: Box) -> None:
        """Called after messages expired that nobody has read, and no consumer is to."""

    def _join(self, group: str, channel: str) -> bool:
        """Put a channel of this process into a group; whether it is the first here."""
        with self._lock:
            box = self._box(channel)
            first = self._hub.add(group, box)
            if not box.attached:
                self._joined.pop((group, channel), None)
                self._joined[group, channel] = self._clock()
            return first

    def _leave(self, group: str, channel: str) -> None:
        """Take a channel of this process out of a group."""
        with self._lock:
            self._joined.pop((group, channel), None)
            box = self._mailboxes.get(channel)
            if box is not None and group in box.groups:
                last = self._hub.discard(group, box)
                self._forget_if_idle(box)
                self._left(group, channel, last)

    def _put(self, channel: str, message: Message) -> bool:
        """Put a message into a channel of this process; False when it is full."""
        with self._lock:  # so that no other thread forgets the box meanwhile
            box = self._box(channel)
            box.readers += 1
        try:
            # Not under the lock: a consumer's handler may run in here, and wait for
            # a thread that wants it.
            if not box.push(message, self._clock() + self.expiry):
                return False
        finally:
            with self._lock:
                box.readers -= 1
                self._forget_if_idle(box)
        metrics.MESSAGES_DELIVERED.add()
        return True

    async def _fan_out(
        self,
        group: str,
        message: Message | PreparedMessage,
        deadline: float,
        excluded: Collection[str] = (),
    ) -> None:
        """Put one message into the mailboxes of a group's members in this process.

        A crowd is served in slices, so that pings, accepts and other groups get their
        turn while it lasts.
        """
        receivers = self._hub.members(group)
        if excluded:
            receivers = [each for each in receivers if each.name not in excluded]
        begun = time.perf_counter()
        size = _READY_SLICE if isinstance(message, PreparedMessage) else _SLICE
        for start in range(0, len(receivers), size):
            if start:
                await _breathe()
            some = receivers[start : start + size]
            rest = some
            if isinstance(message, PreparedMessage):
                rest = write_to_idle(some, message)
            refused = self._hub.deliver(rest, message, deadline)
            metrics.MESSAGES_DELIVERED.add(len(some) - len(refused))
            for box in refused:
                self._report_drop(group, box)
        metrics.FAN_OUT_DURATION.observe(time.perf_counter() - begun)

    async def _read(self, channel: str) -> Message:
        """The next message in a mailbox of this process."""
        self._expire(self._clock())
        with self._lock:  # so that no other reader forgets the box meanwhile
            box = self._box(channel)
            box.readers += 1
        try:
            message = await box.get()
        finally:
            with self._lock:
                box.readers -= 1
                self._forget_if_idle(box)
        if isinstance(message, PreparedMessage):
            # It is for clients; who reads it here sees the event it would become.
            return message.event
        # The outermost dict is the reader's own, as it is a handler's: readers written
        # for Channels pop the type, and the group's other members hold the same object.
        return dict(message) if isinstance(message, dict) else message

    def _forget_everything(self) -> None:
        self._listeners.clear()
        with self._lock:
            for group, members in list(self._hub.groups.items()):
                for channel in list(members):
                    self._leave(group, channel)
            self._deadlines.clear()
            self._joined.clear()
            for box in list(self._mailboxes.values()):
                box.clear()
                self._forget_if_idle(box)

    def _expire(self, now: float) -> None:
        """Do what is due for channels without a consumer; nothing when nothing is."""
        while (box := self._deadlines.pop(now)) is not None:
            self._expire_messages(box)
        if self._joined:
            with self._lock:
                while self._joined:
                    (group, channel), joined = next(iter(self._joined.items()))
                    if joined + self.group_expiry > now:
                        return
                    self._leave(group, channel)
                    self._joined.pop((group, channel), None)

    def _require_message(self, message: object) -> None:
        if not isinstance(message, dict):
            raise AssertionError(
                f"message is not a dict but a {type(message).__qualname__}; "
                'send a dict with a "type", such as {"type": "chat.message"}'
            )

    def _require_sendable(self, message: object) -> None:
        self._require_message(message)
        # Clients choose the keys where an application passes on what they sent.
        for key in (TO, ENVELOPE):
            if isinstance(message, dict) and key in message:
                raise AssertionError(
                    f"a message may not hold the key {key!r}, which layers use "
                    "themselves; leave it out"
                )

    def _box(self, channel: str) -> Box:
        box = self._mailboxes.get(channel)
        if box is None:
            with self._lock:
                box = self._mailboxes.get(channel)
                if box is None:
                    box = self._mailboxes[channel] = Mailbox(
                        channel,
                        self.get_capacity(channel),
                        deadlines=self._deadlines,
                        clock=self._clock,
                    )
        return box

    def _forget_if_idle(self, box: Box) -> None:
        with self._lock:
            # One that is noted in the deadlines stays until then: forgotten and made
            # anew for every message, a busy queue would be noted as many times.
            used = box.attached or box.readers or box.groups or box.scheduled
            if not used and box.empty():
                self._mailboxes.pop(box.name, None)

    def _expire_messages(self, box: Box) -> None:
        if box.look_again() and not box.attached:
            self._unread(box)
        self._forget_if_idle(box)

    def _report_drop(self, group: str, box: Box) -> None:
        metrics.MESSAGES_DROPPED_FULL.add()
        drops = box.note_drop(conf.current().drop_log_interval)
        if drops:
            self._log_drops(group, box, drops)

    def _log_drops(self, group: str, box: Box, drops: int) -> None:
        logger.warning(
            "channel %s is full (%d unread messages), so %d message(s) to it were "
            "dropped, the last of them sent to group %s; its consumer is too "
            "slow, or raise the layer's capacity",
            box.name,
            box.capacity,
            drops,
            group,
            extra={
                "reason": "channel_full",
                "channel_name": box.name,
                "group": group,
                "dropped": drops,
            },
        )


async def _breathe() -> None:
    """Let the event loop do something else; without one nobody is waiting."""
    if asyncio._get_running_loop() is not None:  # noqa: SLF001
        await asyncio.sleep(0)


def refuse_unknown(
    layer: str, unknown: Mapping[str, Any], known: tuple[str, ...]
) -> None:
    """Raise for options that a layer does not have, with the nearest known one.

    Raises:
        TypeError: when there are any.
    """
    for name in unknown:
        raise TypeError(
            f"{layer} has no option {name!r}{conf.nearest(name, known)} "
            f"(known: {', '.join(known)})"
        )
