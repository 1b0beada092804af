"""The layer for one process: mailboxes and groups in memory, no broker.

The default for development and tests, and right for a site that runs as one process.
It takes exactly the messages that the layers between processes take. It knows no
consumer; other processes cannot see it.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from tiderace import conf, metrics
from tiderace.delivery.hub import Hub
from tiderace.delivery.mailbox import Deadlines, Mailbox
from tiderace.exceptions import ChannelFull
from tiderace.layers import serializers
from tiderace.layers.base import BaseChannelLayer, LocalDelivery, Message

__all__ = ["InMemoryChannelLayer"]

logger = logging.getLogger("tiderace.layers")

Box = Mailbox[Message]


class InMemoryChannelLayer(BaseChannelLayer, LocalDelivery):
    """A channel layer inside this process.

    It may be used from several threads and event loops at once: a reader is woken in
    the loop it waits in. A group message is encoded and decoded once and handed to
    all members as the same object.

    Channels without a consumer of ours behind them (named queues, and names that
    tests read with ``receive``) lose their memberships when a message has waited in
    them for ``expiry`` seconds, since nobody seems to read them, or ``group_expiry``
    seconds after they joined. A consumer's channel stays in its groups until it
    leaves them or ends.

    Args:
        expiry: seconds a message waits for its reader.
        group_expiry: seconds a membership without a consumer lasts; one day.
        capacity: unread messages per channel.
        channel_capacity: capacities by glob pattern of the full channel name.
        clock: seconds that never run backwards; for tests.
    """

    extensions = ("groups", "flush")

    def __init__(
        self,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[Any, int] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        **unknown: Any,
    ) -> None:
        if unknown:
            known = ("expiry", "group_expiry", "capacity", "channel_capacity")
            name = next(iter(unknown))
            raise TypeError(
                f"InMemoryChannelLayer has no option {name!r}"
                f"{conf.nearest(name, known)} (known: {', '.join(known)})"
            )
        super().__init__(expiry, capacity)
        self.channel_capacity = self.compile_capacities(channel_capacity or {})
        self.group_expiry = group_expiry
        self._clock = clock
        self._hub: Hub[Box] = Hub()
        self._mailboxes: dict[str, Box] = {}
        self._deadlines = Deadlines()
        # When channels without a consumer joined a group, the earliest first.
        self._joined: dict[tuple[str, str], float] = {}
        self._lock = threading.RLock()
        self._name = secrets.token_hex(6)

    @property
    def channels(self) -> dict[str, Box]:
        """The channels with unread messages, a waiting reader or a consumer, by name."""
        return {
            name: box
            for name, box in list(self._mailboxes.items())
            if box.attached or box.awaited or not box.empty()
        }

    @property
    def groups(self) -> dict[str, dict[str, Box]]:
        """The groups with at least one member: name to members by channel name."""
        return self._hub.groups

    # Channels

    async def new_channel(self, prefix: str = "specific.") -> str:
        """A channel name that nobody else has: ``specific.<process>!<socket>``."""
        return f"{prefix.rstrip('.')}.{self._name}!{secrets.token_hex(8)}"

    async def send(self, channel: str, message: Message) -> None:
        """Put ``message`` into ``channel``; see ``BaseChannelLayer.send``."""
        self._require_message(message)
        self.require_valid_channel_name(channel)
        if "__asgi_channel__" in message:
            raise AssertionError(
                "a message may not hold the key '__asgi_channel__', which layers use "
                "themselves; leave it out"
            )
        copy = serializers.decode(serializers.encode(message))
        now = self._clock()
        self._expire(now)
        metrics.MESSAGES_SENT.add()
        with self._lock:  # so that no other thread forgets the box meanwhile
            if not self._box(channel).push(copy, now + self.expiry):
                raise ChannelFull(channel)
        metrics.MESSAGES_DELIVERED.add()

    async def receive(self, channel: str | list[str]) -> Message:
        """The next message of ``channel``; waits for one, without a limit.

        A list that holds one name is taken as that name.
        """
        if isinstance(channel, list | tuple):
            if len(channel) != 1:
                raise TypeError(
                    f"receive() takes one channel name, not {len(channel)}; "
                    "read several channels with one task each"
                )
            channel = channel[0]
        self.require_valid_channel_name(channel)
        self._expire(self._clock())
        box = self._box(channel)
        try:
            return await box.get()
        finally:
            self._forget_if_idle(box)

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
            self._hub.drop(mailbox)
            mailbox.attached = False
            mailbox.clear()
            if self._mailboxes.get(mailbox.name) is mailbox:
                del self._mailboxes[mailbox.name]

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Put ``channel`` into ``group``; again is the same as once."""
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        with self._lock:
            box = self._box(channel)
            self._hub.add(group, box)
            if not box.attached:
                self._joined.pop((group, channel), None)
                self._joined[group, channel] = self._clock()

    async def group_discard(self, group: str, channel: str) -> None:
        """Take ``channel`` out of ``group``, if it is in it."""
        self.require_valid_channel_name(channel)
        self.require_valid_group_name(group)
        self._leave(group, channel)

    async def group_send(self, group: str, message: Message) -> None:
        """Put ``message`` into every channel of ``group`` that has room for it.

        A channel at its capacity does not get it: counted in
        ``metrics.MESSAGES_DROPPED_FULL`` and logged once a minute per channel.
        """
        self._require_message(message)
        self.require_valid_group_name(group)
        # Encoded even when nobody listens: a message that cannot be sent must not
        # pass in the test where the room happens to be empty.
        data = serializers.encode(message)
        now = self._clock()
        self._expire(now)
        metrics.MESSAGES_SENT.add()
        if group not in self._hub.groups:
            return
        delivered, refused = self._hub.deliver(
            group, serializers.decode(data), now + self.expiry
        )
        metrics.MESSAGES_DELIVERED.add(delivered)
        for box in refused:
            self._report_drop(group, box)

    async def flush(self) -> None:
        """Forget all messages and groups; consumers keep their channels."""
        with self._lock:
            self._hub.clear()
            self._deadlines.clear()
            self._joined.clear()
            for box in list(self._mailboxes.values()):
                box.clear()
                self._forget_if_idle(box)

    async def close(self) -> None:
        """Nothing to close: there is no connection."""

    def _require_message(self, message: object) -> None:
        if not isinstance(message, dict):
            raise AssertionError(
                f"message is not a dict but a {type(message).__qualname__}; "
                'send a dict with a "type", such as {"type": "chat.message"}'
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
            if not (box.attached or box.awaited or box.groups) and box.empty():
                self._mailboxes.pop(box.name, None)

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

    def _expire_messages(self, box: Box) -> None:
        if box.look_again() and not box.attached:
            # Unread for so long: whoever read it is gone.
            for group in list(box.groups):
                self._leave(group, box.name)
        self._forget_if_idle(box)

    def _leave(self, group: str, channel: str) -> None:
        with self._lock:
            self._joined.pop((group, channel), None)
            box = self._mailboxes.get(channel)
            if box is not None:
                self._hub.discard(group, box)
                self._forget_if_idle(box)

    def _report_drop(self, group: str, box: Box) -> None:
        metrics.MESSAGES_DROPPED_FULL.add()
        drops = box.note_drop(conf.current().drop_log_interval)
        if drops:
            logger.warning(
                "channel %s is full (%d unread messages), so %d message(s) to it were "
                "dropped, the last of them sent to group %s; its consumer is too "
                "slow, or raise the layer's capacity",
                box.name,
                box.capacity,
                drops,
                group,
            )
