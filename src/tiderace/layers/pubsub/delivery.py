"""Delivers group messages to the mailboxes and listeners of this process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from typing import Any

from tiderace import conf, metrics
from tiderace.asgi import printable
from tiderace.history import Position
from tiderace.layers.broker import StreamMessage
from tiderace.layers.local import LocalChannels
from tiderace.layers.pubsub import envelope

logger = logging.getLogger("tiderace.layers")


class LossLog:
    """Logs lost and unreadable messages: one in an interval, the others by their number.

    A server that comes back empty causes a gap in every group, and a key that was
    removed too early makes every message of a history unreadable.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._logged_at = float("-inf")
        self._not_logged = 0
        self._unreadable_at = float("-inf")
        self._unreadable = 0

    def unreadable(self, subject: str, error: Exception) -> None:
        """Log why a message cannot be read, at most once in an interval."""
        self._unreadable += 1
        now = self._clock()
        if now - self._unreadable_at < conf.current().drop_log_interval:
            return
        self._unreadable_at = now
        count, self._unreadable = self._unreadable, 0
        subject = printable(subject)
        logger.error(
            "a message to %s cannot be read and is dropped (%d since the last such "
            "record); compare the serializers and encryption keys of all processes",
            subject,
            count,
            exc_info=error,
            extra={"reason": "message_unreadable", "group": subject, "dropped": count},
        )

    def lost(self, subject: str, missed: int | None) -> None:
        """Count and log lost messages of a stream: how many, or None when unknown."""
        metrics.GAPS_LOST.add()
        now = self._clock()
        if now - self._logged_at < 1.0:
            self._not_logged += 1
            return
        self._logged_at = now
        subject = printable(subject)
        logger.error(
            "messages to %s were lost: %s; the broker was away for longer than the "
            "layer's expiry, or has lost its memory",
            subject,
            "an unknown number" if missed is None else missed,
            extra={"reason": "messages_lost", "group": subject, "missed": missed},
        )

    def log_rest(self) -> None:
        """Log the number of streams that were not logged one by one."""
        count, self._not_logged = self._not_logged, 0
        if count:
            logger.error("messages to %d more groups or processes were lost", count)


class GroupDelivery:
    """The sink of group streams: decodes their messages and fans them out.

    Args:
        local: the mailboxes and listeners of this process.
        deserialize: turns the bytes of a message into the message.
        loss_log: logs lost messages.
    """

    def __init__(
        self,
        local: LocalChannels,
        *,
        deserialize: Callable[[bytes], Any],
        loss_log: LossLog,
    ) -> None:
        self._local = local
        self._deserialize = deserialize
        self._loss_log = loss_log
        # Groups with listeners in closed event loops.
        self._groups_to_check: set[str] = set()
        # The channels of a group that joined after messages that are still on their way,
        # each with the position of the last of these; None while it is not known.
        self._held_back: dict[str, dict[str, Position | None]] = {}

    def hold_back(self, group: str, channel: str, until: Position | None) -> None:
        """Withhold the messages up to ``until`` from a member; all of them with None."""
        with self._local.lock:
            self._held_back.setdefault(group, {})[channel] = until

    def end_hold(self, group: str, channel: str) -> None:
        """Undo ``hold_back``."""
        with self._local.lock:
            channels = self._held_back.get(group, {})
            channels.pop(channel, None)
            if not channels:
                self._held_back.pop(group, None)

    def _take_held_back(self, group: str, position: Position) -> set[str]:
        """Return the members that do not get this message; end the hold of the others."""
        with self._local.lock:
            channels = list(self._held_back.get(group, {}).items())
            held = {
                channel
                for channel, until in channels
                if until is None
                or (until.epoch == position.epoch and position.offset <= until.offset)
            }
            for channel, until in channels:
                if channel not in held or until == position:
                    self.end_hold(group, channel)
        return held

    async def deliver(self, item: StreamMessage) -> None:
        """Deliver a message; log one that cannot be decoded."""
        subject = item.subject
        try:
            message = self._deserialize(item.data)
            is_record = envelope.is_record(message)
            publication = None
            if is_record or subject in self._local.listeners:
                publication = envelope.publication_from(item, message)
                delivery = self._local.listeners.put(subject, publication)
                if not await delivery.finish():
                    self._groups_to_check.add(subject)
            if subject in self._local.hub.groups:
                deadline = self._local.clock() + self._local.expiry - item.age
                if publication is not None and is_record:
                    message = publication.as_event()
                excluded = (
                    self._take_held_back(subject, item.position)
                    if subject in self._held_back
                    else set()
                )
                message, groups, exclude = envelope.unwrap(message)
                if groups:
                    excluded.update(exclude, self._earlier_members(subject, groups))
                await self._local.fan_out(subject, message, deadline, excluded)
        except Exception as error:
            # The messages of other senders must still arrive.
            self._loss_log.unreadable(subject, error)
            self._local.listeners.put(subject, None).start()

    def _earlier_members(self, group: str, groups: Collection[str]) -> Iterator[str]:
        """Yield the channels that get a message to ``groups`` through one before ``group``."""
        for each in groups:
            if each == group:
                break
            for mailbox in self._local.hub.members(each):
                yield mailbox.name

    def report_gap(self, subject: str, missed: int | None) -> None:
        """Report lost messages to listeners and consumers of the group."""
        self._loss_log.lost(subject, missed)
        self._local.listeners.put(subject, None).start()
        self._local.put_gap(subject, missed)

    def take_groups_to_check(self) -> set[str]:
        """Remove and return the groups with listeners in closed event loops."""
        groups, self._groups_to_check = self._groups_to_check, set()
        return groups
