"""Subscribes to the streams of the groups with a channel or listener in this process."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable

from tiderace.delivery.stream_hub import Listener
from tiderace.exceptions import LayerUnavailable
from tiderace.layers.local import Departure, LocalChannels
from tiderace.layers.messages import ChannelMailbox
from tiderace.layers.pubsub.brokers import Brokers
from tiderace.layers.pubsub.cursors import StreamCursors
from tiderace.layers.pubsub.delivery import GroupDelivery
from tiderace.layers.pubsub.gap_filler import START, StreamCursor
from tiderace.layers.pubsub.memberships import Memberships
from tiderace.layers.pubsub.queues import Queues
from tiderace.runtime.futures import wait_future

# Seconds for which messages sent before a channel left may be on their way.
_ON_THE_WAY = 10.0


class _Abandoned(Exception):
    """The task that was subscribing to a group has been cancelled."""


class GroupSubscriptions:
    """Adds channels and listeners to groups, and subscribes to the groups' streams.

    A stream is subscribed to before the first channel or listener of its group counts
    as joined, and until soon after the last one has left. It may be used in any thread
    and event loop.

    Args:
        brokers: the brokers.
        local: the channels and listeners of this process.
        delivery: takes the messages of groups.
        cursors: how far each stream has been read.
        queues: the named queues with readers here, subscribed to as well.
        memberships: announces joins and leaves.
    """

    def __init__(
        self,
        brokers: Brokers,
        local: LocalChannels,
        *,
        delivery: GroupDelivery,
        cursors: StreamCursors,
        queues: Queues,
        memberships: Memberships,
    ) -> None:
        self._brokers = brokers
        self._local = local
        self.lock = local.lock
        self._delivery = delivery
        self.cursors = cursors
        self.queues = queues
        self.memberships = memberships
        # Groups without a channel or listener at some time, still subscribed to.
        self._released: set[str] = set()
        # The channels that have left a group lately, and when, the oldest first.
        self._left: OrderedDict[tuple[str, str], float] = OrderedDict()
        # When the positions of a broker's streams were last checked.
        self._checked_at: dict[int, float] = {}

    @property
    def released(self) -> int:
        """The number of groups that ``unsubscribe_idle`` has to check."""
        return len(self._released)

    def listeners_alone(self, group: str) -> int:
        """Return how many listeners a group has in this process; 0 if it has a channel."""
        if group in self._local.hub.groups:
            return 0
        return self._local.listeners.size(group)

    # Channels and listeners

    async def join(self, group: str, channel: str) -> None:
        """Put a channel of this process into a group, and wait for the subscription.

        Messages that were sent before do not reach it, even if they are on their way.

        Raises:
            LayerUnavailable: when the broker could not be reached; the channel has not joined.
        """
        is_behind = False

        def add() -> None:
            nonlocal is_behind
            cursor = self.cursors.get(group)
            if cursor is not None and not self._local.is_member(group, channel):
                is_behind = self._is_behind(cursor, channel)
                if is_behind:
                    self._delivery.hold_back(group, channel, None)
                elif cursor.awaits_own:
                    self._delivery.hold_back(group, channel, cursor.published)
            self._local.join(group, channel)
            self.memberships.add_change(group, channel, joined=True)

        try:
            cursor = await self._subscribe(group, add)
            if is_behind:
                end = await cursor.broker.streams.position(group)
                self._delivery.hold_back(group, channel, end or START)
        except BaseException:
            self.leave(group, channel)
            raise

    def _is_behind(self, cursor: StreamCursor, channel: str) -> bool:
        """Return whether a channel that joins must not get messages on their way."""
        is_released = not self._local.has_group(cursor.subject)
        is_back = (cursor.subject, channel) in self._left
        may_wait = cursor.broker.is_connected and (
            is_back or cursor.buffered is not None
        )
        return is_released or may_wait or not self.cursors.is_receiving

    def leave(self, group: str, channel: str) -> None:
        """Take a channel of this process out of a group, if it is in it."""
        with self.lock:
            if self._local.is_member(group, channel):
                self._left[group, channel] = self._local.clock()
                self._left.move_to_end((group, channel))
            self._note(self._local.leave(group, channel))

    def detach(self, mailbox: ChannelMailbox) -> None:
        """Take a consumer's channel out of all groups and remove its mailbox."""
        with self.lock:
            self._note(self._local.detach(mailbox))

    async def add_listener(self, group: str, listener: Listener) -> None:
        """Add a listener to a group, and wait for the subscription.

        Raises:
            LayerUnavailable: when the broker could not be reached; it was not added.
        """
        try:
            await self._subscribe(
                group, lambda: self._local.listeners.add(group, listener)
            )
        except BaseException:
            self.discard_listener(group, listener)
            raise

    def discard_listener(self, group: str, listener: Listener) -> None:
        """Remove a listener from a group, if it is in it."""
        if self._local.listeners.discard(group, listener):
            self._release(group)

    def expire(self) -> None:
        """Drop expired messages and memberships, and listeners of closed loops."""
        with self.lock:
            now = self._local.clock()
            self._note(self._local.expire(now))
            while self._left and now - next(iter(self._left.values())) > _ON_THE_WAY:
                self._left.popitem(last=False)
        for group in self._delivery.take_groups_to_check():
            if self._local.listeners.discard_closed(group):
                self._release(group)

    def clear(self) -> None:
        """Stop reading all streams."""
        with self.lock:
            self.memberships.clear()
            self._left.clear()
            self._released.clear()
            self.cursors.clear()

    def _note(self, departures: Iterable[Departure]) -> None:
        for group, channel, was_last in departures:
            self._delivery.end_hold(group, channel)
            # Always: a join may have been announced before it left and came back.
            self.memberships.add_change(group, channel, joined=False)
            if was_last:
                self._release(group)

    def _release(self, group: str) -> None:
        with self.lock:
            self._released.add(group)

    # At the brokers

    async def _subscribe(self, group: str, add: Callable[[], None]) -> StreamCursor:
        """Call ``add``, wait until the group's stream is subscribed to; return its cursor.

        ``add`` adds a channel or listener. It is called at once, and may be called again.
        """
        while True:
            with self.lock:
                add()
                cursor = self.cursors.get(group)
                is_first = cursor is None
                if cursor is None:
                    cursor = self.cursors.add(
                        group, self._brokers.broker_of(group), self._delivery
                    )
            try:
                if is_first:
                    await self._begin(cursor)
                else:
                    await wait_future(cursor.ready)
                return cursor
            except _Abandoned:
                continue

    async def _begin(self, cursor: StreamCursor) -> None:
        timeout = cursor.broker.publish_timeout
        try:
            try:
                # One limit for both: the first may wait long for its connection.
                async with asyncio.timeout(timeout):
                    await cursor.broker.subscribe([cursor.subject])
                    await self.cursors.fetch_position(cursor)
            except TimeoutError as error:
                raise LayerUnavailable(
                    f"the layer's broker could not be reached within {timeout:g} "
                    f"seconds (to subscribe to {cursor.subject}); check that it runs, "
                    "or raise publish_timeout"
                ) from error
        except BaseException as error:
            # Removed before the waiting callers are woken, since they may try again.
            self.cursors.remove(cursor.subject, cursor)
            cursor.ready.set_exception(
                error if isinstance(error, Exception) else _Abandoned()
            )
            raise
        cursor.ready.set_result(None)

    async def unsubscribe_idle(self, index: int) -> None:
        """Unsubscribe from the groups and queues that are not needed any more.

        Raises:
            LayerUnavailable: when the broker could not be reached; the next call tries
                again.
        """
        broker = self._brokers[index]
        with self.lock:
            released = self._brokers.select(index, self._released)
            self._released.difference_update(released)
            groups = [each for each in released if not self._local.has_group(each)]
            for group in groups:
                self.cursors.remove(group)
            queues = self.queues.take_idle(index)
        if not groups and not queues:
            return
        try:
            await broker.unsubscribe(groups, queues)
        except BaseException:
            with self.lock:
                self._released.update(groups)
            self.queues.keep(queues)
            raise
        finally:
            # Another thread may have joined them meanwhile.
            cursors = [self.cursors.get(group) for group in groups]
            needed = [cursor for cursor in cursors if cursor is not None]
            queues = self.queues.with_readers(queues)
            if needed or queues:
                await broker.subscribe([each.subject for each in needed], queues)
                self.cursors.request_catch_up(needed)

    async def check_positions(self, index: int) -> None:
        """Look for messages that were missed without a disconnect, every quarter of expiry.

        Raises:
            LayerUnavailable: when the broker could not be reached.
        """
        now = self._local.clock()
        if now - self._checked_at.get(index, float("-inf")) >= self._local.expiry / 4:
            self._checked_at[index] = now
            await self.cursors.check_positions(
                self._brokers.select(index, self._local.listeners)
            )
