"""The layer between processes, written once over a broker and the process's own hub.

Each process hears the groups that have a member in it. A publication carries its
offset, so a process knows when it has missed some and fetches them before it goes on.
It knows no technology, only the broker's verbs, and no consumer.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from tiderace import metrics
from tiderace.delivery.outbox import Ready
from tiderace.exceptions import ChannelFull, LayerUnavailable
from tiderace.layers.base import Message
from tiderace.layers.broker import (
    Broker,
    Entry,
    Interrupted,
    Keep,
    Live,
    Position,
    Taken,
    Wake,
)
from tiderace.layers.local import ENVELOPE, TO, Box, LocalChannelLayer

__all__ = ["PubSubLayer"]

logger = logging.getLogger("tiderace.layers")

_NOTHING = Position("", 0)

_TICK = 0.25  # seconds between two looks at what is to be announced
_POLL = 5.0  # seconds a reader of a queue waits before it looks by itself
_TAKE_LEASE = 10.0  # seconds in which a taken message must be confirmed
_COUNTABLE = 1 << 20  # missed messages; more are a broker's leap
_YIELD_EVERY = 32  # messages, after which the consumers get their turn


class _Place(NamedTuple):
    """Where a specific channel lives."""

    process: str
    ours: bool


class _Stream:
    """How far this process has read one subject."""

    __slots__ = ("filling", "heard_at", "position", "ready")

    def __init__(self, position: Position | None = None) -> None:
        # None until it is known; then the last publication that was delivered.
        self.position = position
        # What has arrived while missing ones are being fetched, in order.
        self.filling: list[Live] | None = None
        self.heard_at = float("-inf")
        # Done when it is subscribed and its position known.
        self.ready: Future[None] = Future()


class PubSubLayer(LocalChannelLayer):
    """A channel layer between processes; see also ``LocalChannelLayer``.

    Guaranteed, besides ``BaseChannelLayer``: all members of a group, wherever they
    are, get its messages in one order; what was sent while a process was cut off from
    the broker, for less than ``expiry`` seconds and ``group_capacity`` messages, is
    delivered when it is back; what could not be delivered is told to the members by
    ``{"type": "layer.gap", "group": ...}``, which a consumer may handle. A named queue
    keeps a message until a reader has it or it expires: at least once, when a reader
    dies between taking and confirming it.

    Args:
        brokers: one or more; groups and queues are spread over them by name.
        expiry, group_expiry, capacity, channel_capacity: see ``LocalChannelLayer``.
        group_capacity: messages of a group kept for processes that are cut off.
        lease: seconds after which a process that died no longer counts.
        clock: seconds that never run backwards; for tests.
    """

    def __init__(
        self,
        brokers: Sequence[Broker],
        *,
        expiry: float,
        group_expiry: float,
        capacity: int,
        channel_capacity: Mapping[Any, int] | None,
        group_capacity: int = 10_000,
        lease: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            expiry=expiry,
            group_expiry=group_expiry,
            capacity=capacity,
            channel_capacity=channel_capacity,
            clock=clock,
        )
        self._brokers = brokers
        self._keep = Keep(group_capacity, expiry)
        self._lease = lease
        self._pid = os.getpid()
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._streams: dict[str, _Stream] = {}
        # Groups without a member any more, still heard until the next tick.
        self._vacated: set[str] = set()
        # Who joined or left since it was last announced.
        self._changes: dict[tuple[str, str], bool] = {}
        # Readers of named queues, to be woken in their loops.
        self._takers: dict[
            str, set[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
        ] = {}
        # The loop that hears the brokers, its tasks for that, and other small work.
        self._home: asyncio.AbstractEventLoop | None = None
        self._service: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    # To be answered by the layer for a technology

    def _index(self, name: str) -> int:
        """Which of the brokers serves the group, queue or process ``name``."""
        return 0

    def serialize(self, message: Any) -> bytes:
        """``message`` as bytes; may be overridden together with ``deserialize``."""
        raise NotImplementedError

    def deserialize(self, message: bytes) -> Any:
        """The inverse of ``serialize``."""
        raise NotImplementedError

    # Channels

    async def new_channel(self, prefix: str = "specific") -> str:
        """A channel name that nobody else has: ``specific.<process>!<socket>``."""
        self._check_fork()
        return await super().new_channel(prefix)

    async def send(self, channel: str, message: Message) -> None:
        """Put ``message`` into ``channel``.

        Raises:
            TypeError: for an illegal name or a message that cannot be encoded.
            ChannelFull: when a named queue, or a channel of this process, is at its
                capacity. A channel of another process that is full drops the message
                there, counted and logged.
            LayerUnavailable: when the broker could not be reached in time.
        """
        self._require_sendable(message)
        self.require_valid_channel_name(channel)
        self._check_fork()
        metrics.MESSAGES_SENT.add()
        place = self._place(channel)
        if place is None:
            await self._push(channel, self.serialize(message))
        elif place.ours:
            # Through bytes all the same: no sender keeps a hand on what was sent.
            copy = self.deserialize(self.serialize(message))
            self._expire(self._clock())
            if not self._put(channel, copy):
                raise ChannelFull(channel)
        else:
            await self._to_process(place.process, {**message, TO: channel})

    async def receive(self, channel: str | list[str]) -> Message:
        """The next message of ``channel``; waits for one, without a limit.

        Raises:
            AssertionError: for a channel of another process or layer object.
        """
        name = self._one_channel(channel)
        self._check_fork()
        place = self._place(name)
        if place is None:
            return await self._take(name)
        if not place.ours:
            raise AssertionError(
                f"Wrong client prefix: channel {name} belongs to another process or "
                "layer; read channels where new_channel() made them"
            )
        self._ensure_running()
        return await self._read(name)

    def attach(self, channel: str) -> Box:
        """The mailbox of ``channel``; see ``LocalDelivery.attach``."""
        self._check_fork()
        self._ensure_running()
        return super().attach(channel)

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Put ``channel`` into ``group``; again is the same as once.

        A message sent to the group after this has returned reaches the channel.

        Raises:
            LayerUnavailable: when the broker could not be reached in time.
        """
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        self._check_fork()
        place = self._place(channel)
        if place is None:
            await self._broker(group).join(group, channel, seconds=self.group_expiry)
        elif place.ours:
            await self._join_here(group, channel)
        else:
            await self._to_process(
                place.process, {ENVELOPE: "join", "group": group, TO: channel}
            )

    async def group_discard(self, group: str, channel: str) -> None:
        """Take ``channel`` out of ``group``, if it is in it."""
        self.require_valid_channel_name(channel)
        self.require_valid_group_name(group)
        self._check_fork()
        place = self._place(channel)
        if place is None:
            await self._broker(group).leave(group, channel)
        elif place.ours:
            self._leave(group, channel)
        else:
            await self._to_process(
                place.process, {ENVELOPE: "leave", "group": group, TO: channel}
            )

    async def group_send(
        self,
        group: str | Collection[str],
        message: Message,
        *,
        exclude: Collection[str] = (),
    ) -> None:
        """Put ``message`` into every channel of ``group``; see ``BaseChannelLayer``.

        It returns when the broker has the message, not when the members do.

        Raises:
            TypeError: for an illegal name or a message that cannot be encoded.
            LayerUnavailable: when the broker could not be reached in time.
        """
        self._require_sendable(message)
        groups = self._groups(group)
        excluded = self._names(exclude)
        if excluded or len(groups) > 1:
            data = self.serialize(
                {**message, ENVELOPE: {"groups": groups, "exclude": list(excluded)}}
            )
        else:
            data = self.serialize(message)
        queues = await self._publish(groups, data)
        if queues:
            await self._send_to_queues(
                [queue for queue in queues if queue not in excluded], groups, message
            )

    async def group_broadcast(
        self,
        group: str | Collection[str],
        text_data: str | None = None,
        bytes_data: bytes | None = None,
        *,
        exclude: Collection[str] = (),
    ) -> None:
        """See ``BaseChannelLayer.group_broadcast``; it returns like ``group_send``.

        Raises:
            LayerUnavailable: when the broker could not be reached in time.
        """
        groups = self._groups(group)
        ready = Ready(text_data, bytes_data).event
        envelope = {
            "groups": groups,
            "exclude": list(self._names(exclude)),
            "ready": True,
        }
        await self._publish(groups, self.serialize({**ready, ENVELOPE: envelope}))

    async def _publish(self, groups: Collection[str], data: bytes) -> Collection[str]:
        """Publish to every one of ``groups``; the named queues that are in them."""
        self._check_fork()
        metrics.MESSAGES_SENT.add()
        queues: dict[str, None] = {}
        for name in groups:
            published = await self._broker(name).publish(
                name, data, keep=self._keep, members_age=self.group_expiry
            )
            queues.update(dict.fromkeys(published.members))
        return queues

    async def group_channels(self, group: str) -> list[str]:
        """The channels in ``group``, of all processes, in no order.

        Those that joined in the last quarter of a second in other processes may be
        missing, and those of a process that was killed stay until its lease ends.
        """
        self.require_valid_group_name(group)
        await self._announce()
        return await self._broker(group).present(group)

    async def group_count(self, group: str) -> int:
        """How many channels are in ``group``; as exact as ``group_channels``."""
        self.require_valid_group_name(group)
        await self._announce()
        return await self._broker(group).count(group)

    async def flush(self) -> None:
        """Forget all messages and groups; for tests. Closes the connections."""
        self._check_fork()
        self._forget_everything()
        self._changes.clear()
        for broker in self._brokers:
            await broker.flush()
        await self.close()
        self._streams.clear()
        self._vacated.clear()

    async def close(self) -> None:
        """Withdraw this process's memberships and close the running loop's connections.

        The layer may be used again afterwards.
        """
        home = self._home
        if home is asyncio.get_running_loop():
            service, self._service = self._service, []
            self._home = None
            for task in service:
                task.cancel()
            await asyncio.gather(*service, *self._tasks, return_exceptions=True)
        with contextlib.suppress(LayerUnavailable):
            for index, broker in enumerate(self._brokers):
                await broker.retire(self._process, self._subjects_of(index))
        for broker in self._brokers:
            await broker.close()

    # Names

    def _place(self, channel: str) -> _Place | None:
        """Where a channel lives; None for a named queue, which lives in the broker."""
        head, mark, _ = channel.partition("!")
        if not mark:
            return None
        process = head.rpartition(".")[2]
        return _Place(process, process == self._process)

    def _broker(self, name: str) -> Broker:
        return self._brokers[self._index(name)]

    def _inbox(self, process: str) -> str:
        return f"process!{process}"

    # Sending

    async def _to_process(self, process: str, message: Message) -> None:
        inbox = self._inbox(process)
        await self._broker(inbox).publish(
            inbox, self.serialize(message), keep=self._keep, members_age=0
        )

    async def _push(self, queue: str, data: bytes) -> None:
        if not await self._broker(queue).push(
            queue, data, size=self.get_capacity(queue), seconds=self.expiry
        ):
            raise ChannelFull(queue)

    async def _send_to_queues(
        self, queues: Collection[str], groups: Collection[str], message: Message
    ) -> None:
        data = self.serialize(message)
        full = 0
        for queue in queues:
            try:
                await self._push(queue, data)
            except ChannelFull:
                full += 1
        if full:
            metrics.MESSAGES_DROPPED_FULL.add(full)
            self._log_full_queues(full, len(queues), groups)

    def _log_full_queues(self, full: int, of: int, groups: Collection[str]) -> None:
        logger.warning(
            "%d of %d named channels in %s are full and did not get a message; start "
            "more workers, or raise the layer's capacity",
            full,
            of,
            ", ".join(groups),
        )

    # Named queues

    async def _take(self, queue: str) -> Message:
        broker = self._broker(queue)
        taken = await self._take_once(broker, queue)
        if taken is None:
            self._ensure_running()
            taker = (asyncio.get_running_loop(), asyncio.Event())
            takers = self._takers.setdefault(queue, set())
            takers.add(taker)
            try:
                await broker.subscribe((), [queue])
                while (taken := await self._take_once(broker, queue)) is None:
                    # By itself, too: for a message whose taker died.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_POLL):
                            await taker[1].wait()
                    taker[1].clear()
            finally:
                takers.discard(taker)
                if not takers and self._takers.get(queue) is takers:
                    del self._takers[queue]
                    self._vacate_queue(broker, queue)
        message: Message = self.deserialize(taken.data)
        return message

    async def _take_once(self, broker: Broker, queue: str) -> Taken | None:
        """Take and confirm one message; a cancelled reader leaves it to the next."""
        taking = asyncio.ensure_future(broker.take(queue, lease=_TAKE_LEASE))
        try:
            taken = await asyncio.shield(taking)
        except asyncio.CancelledError:
            self._keep_running(self._undo(broker, taking))
            raise
        if taken is None:
            return None
        confirming = asyncio.ensure_future(broker.confirm(taken))
        try:
            await asyncio.shield(confirming)
        except asyncio.CancelledError:
            self._keep_running(self._redo(broker, taken, confirming))
            raise
        return taken

    async def _undo(self, broker: Broker, taking: asyncio.Future[Taken | None]) -> None:
        taken = await taking
        if taken is not None:
            await broker.give_back(taken)

    async def _redo(
        self, broker: Broker, taken: Taken, confirming: asyncio.Future[None]
    ) -> None:
        await confirming
        await broker.push(
            taken.queue,
            taken.data,
            size=self.get_capacity(taken.queue) + 1,
            seconds=self.expiry,
        )

    def _vacate_queue(self, broker: Broker, queue: str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closing
            self._keep_running(broker.unsubscribe((), [queue]))

    def _keep_running(self, work: Coroutine[Any, Any, None]) -> None:
        """Let a small piece of work end by itself; what it raises is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task of the layer failed", exc_info=error)

    # Memberships of this process

    async def _join_here(self, group: str, channel: str) -> None:
        self._join(group, channel)
        self._changes[group, channel] = True
        stream = self._streams.get(group)
        if stream is not None:
            await asyncio.wrap_future(stream.ready)
            return
        stream = self._streams[group] = _Stream()
        try:
            await self._listen(group, stream)
        except BaseException as error:
            self._streams.pop(group, None)
            self._leave(group, channel)
            if not stream.ready.done():
                stream.ready.set_exception(
                    error
                    if isinstance(error, Exception)
                    else LayerUnavailable("joining was cancelled; join again")
                )
            raise

    async def _listen(self, subject: str, stream: _Stream) -> None:
        broker = self._broker(subject)
        await broker.subscribe([subject])
        position = await broker.position(subject)
        # What was heard meanwhile is later than, or part of, what stands there.
        if stream.position is None:
            stream.position = position or _NOTHING
        if not stream.ready.done():
            stream.ready.set_result(None)

    def _left(self, group: str, channel: str, last: bool) -> None:
        key = (group, channel)
        # Never announced, then nothing to withdraw.
        if self._changes.pop(key, False) is not True:
            self._changes[key] = False
        if last:
            self._vacated.add(group)

    async def _announce(self) -> None:
        """Tell the brokers who joined and left here since the last time."""
        changes, self._changes = self._changes, {}
        if not changes:
            return
        try:
            for index, broker in enumerate(self._brokers):
                mine = [key for key in changes if self._index(key[0]) == index]
                if mine:
                    await broker.announce(
                        self._process,
                        [key for key in mine if changes[key]],
                        [key for key in mine if not changes[key]],
                        lease=self._lease,
                    )
        except BaseException:
            self._changes = {**changes, **self._changes}
            raise

    def _subjects_of(self, index: int) -> list[str]:
        return [group for group in list(self.groups) if self._index(group) == index]

    # The process's own tasks

    def _ensure_running(self) -> None:
        """Have one loop of this process hear the brokers; this one, if there is none."""
        home = self._home
        if home is not None and not home.is_closed():
            here = asyncio.get_running_loop()
            alive = not any(task.done() for task in self._service)
            if (home is here or home.is_running()) and self._service and alive:
                return
        home = self._home = asyncio.get_running_loop()
        inbox = self._inbox(self._process)
        if inbox not in self._streams:
            # From its beginning: all of it is for this process.
            stream = self._streams[inbox] = _Stream(_NOTHING)
            stream.ready.set_result(None)
        # A copy of the context would keep the request or socket that came first.
        context = contextvars.Context()
        self._service = [
            home.create_task(work, context=context)
            for index, broker in enumerate(self._brokers)
            for work in (
                self._pump(broker, home),
                self._keep_house(index, broker, home),
            )
        ]
        for task in self._service:
            task.add_done_callback(self._finished)

    async def _pump(self, broker: Broker, home: asyncio.AbstractEventLoop) -> None:
        """Hear one broker, and hand what arrives to the mailboxes of this process."""
        inbox = self._inbox(self._process)
        if self._broker(inbox) is broker:
            await broker.subscribe([inbox])
        handled = 0
        # Cancelled while it waits, the generator ends by itself and closes its link.
        batches = broker.messages()
        async for batch in batches:
            if self._home is not home:
                await batches.aclose()
                return  # another loop has taken over
            for item in batch:
                if isinstance(item, Live):
                    await self._heard(broker, item)
                elif isinstance(item, Wake):
                    self._wake_takers(item.queue)
                else:
                    await self._catch_up(broker, item)
                handled += 1
                if handled % _YIELD_EVERY == 0:
                    # A burst must not fill mailboxes whose readers are ready.
                    await asyncio.sleep(0)

    async def _keep_house(
        self, index: int, broker: Broker, home: asyncio.AbstractEventLoop
    ) -> None:
        """Announce, renew and tidy up for one broker, for as long as it is heard."""
        renewed = self._clock()
        while self._home is home:
            await asyncio.sleep(_TICK)
            try:
                if index == 0:
                    self._expire(self._clock())
                    await self._announce()
                await self._stop_hearing(index, broker)
                if self._clock() - renewed >= self._lease / 3:
                    renewed = self._clock()
                    await broker.renew(
                        self._process, self._subjects_of(index), lease=self._lease
                    )
            except LayerUnavailable as error:
                logger.warning("memberships could not be announced: %s", error)

    async def _stop_hearing(self, index: int, broker: Broker) -> None:
        """Unsubscribe from the groups that have no member here any more."""
        empty = [
            group
            for group in list(self._vacated)
            if self._index(group) == index and group not in self.groups
        ]
        self._vacated.difference_update(
            [group for group in list(self._vacated) if self._index(group) == index]
        )
        for group in empty:
            self._streams.pop(group, None)
        if empty:
            # No await since the look at the groups: who joins now subscribes later.
            await broker.unsubscribe(empty)

    def _wake_takers(self, queue: str) -> None:
        here = asyncio.get_running_loop()
        for loop, event in list(self._takers.get(queue, ())):
            if loop is here:
                event.set()
            else:
                with contextlib.suppress(RuntimeError):  # that loop is closed
                    loop.call_soon_threadsafe(event.set)

    # What arrives

    async def _heard(self, broker: Broker, item: Live) -> None:
        stream = self._streams.get(item.subject)
        if stream is None:
            return
        stream.heard_at = self._clock()
        if stream.filling is not None:
            stream.filling.append(item)
            return
        position = stream.position
        if position is not None:
            if item.epoch == position.epoch and item.offset <= position.offset:
                return
            follows = (
                item.epoch == position.epoch and item.offset == position.offset + 1
            ) or (position is _NOTHING and item.offset == 1)
            if not follows:
                stream.filling = [item]
                self._keep_running(self._fill(broker, item.subject, stream))
                return
        stream.position = Position(item.epoch, item.offset)
        await self._deliver(item.subject, item.data, 0.0)

    async def _catch_up(self, broker: Broker, interrupted: Interrupted) -> None:
        """After an interruption: fetch what was missed on every subject."""
        for subject, stream in list(self._streams.items()):
            if self._broker(subject) is not broker or stream.position is None:
                continue
            if stream.filling is None:
                stream.filling = []
                await self._fill(broker, subject, stream)

    async def _fill(self, broker: Broker, subject: str, stream: _Stream) -> None:
        """Fetch what was missed on a subject, then go on with what has come since."""
        try:
            while True:
                await self._fetch(broker, subject, stream)
                if not await self._go_on(subject, stream):
                    return
        except LayerUnavailable as error:
            logger.warning(
                "missed messages of %s cannot be fetched: %s", subject, error
            )
            # The connection will be opened anew, and then this is tried again.
        finally:
            stream.filling = None

    async def _fetch(self, broker: Broker, subject: str, stream: _Stream) -> None:
        position = stream.position or _NOTHING
        end, entries = await broker.since(subject, position.offset)
        if end is None:
            # Forgotten for want of use, unless it was used not long ago.
            recent = self._clock() - stream.heard_at < self.expiry * 5
            if position is not _NOTHING and recent:
                self._report_gap(subject, None)
            stream.position = _NOTHING
            return
        if end.epoch != position.epoch:
            if position.offset:
                end, entries = await broker.since(subject, 0)
            if position.epoch:
                self._report_gap(subject, None)
            if end is None:
                stream.position = _NOTHING
                return
            position = Position(end.epoch, 0)
        await self._deliver_missed(subject, stream, position, end, entries)

    async def _deliver_missed(
        self,
        subject: str,
        stream: _Stream,
        position: Position,
        end: Position,
        entries: Sequence[Entry],
    ) -> None:
        living = [entry for entry in entries if entry.age < self.expiry]
        # After a leap that is not how many, but that there are some is sure all the same.
        missing = (living[0].before if living else end.offset) - position.offset
        if missing > 0 and position.epoch:
            self._report_gap(subject, missing if missing < _COUNTABLE else None)
        for number, entry in enumerate(living):
            stream.position = Position(end.epoch, entry.offset)
            metrics.GAPS_FILLED.add()
            await self._deliver(subject, entry.data, entry.age)
            if number % _YIELD_EVERY == _YIELD_EVERY - 1:
                await asyncio.sleep(0)
        stream.position = end if not living else Position(end.epoch, living[-1].offset)

    async def _go_on(self, subject: str, stream: _Stream) -> bool:
        """Deliver what arrived while filling; True when there is a gap again."""
        while stream.filling:
            item = stream.filling[0]
            position = stream.position or _NOTHING
            if item.epoch == position.epoch and item.offset <= position.offset:
                stream.filling.pop(0)
                continue
            if item.epoch != position.epoch or item.offset != position.offset + 1:
                return True
            stream.filling.pop(0)
            stream.position = Position(item.epoch, item.offset)
            await self._deliver(subject, item.data, 0.0)
        return False

    async def _deliver(self, subject: str, data: bytes, age: float) -> None:
        try:
            message = self.deserialize(data)
            if subject.startswith("process!"):
                self._deliver_to_channel(message)
            else:
                await self._deliver_to_group(subject, message, age)
        except Exception:
            # Whatever one sender sent, the others' messages must go on arriving.
            logger.exception("a message to %s cannot be read and is dropped", subject)

    async def _deliver_to_group(self, group: str, message: Any, age: float) -> None:
        deadline = self._clock() + self.expiry - age
        envelope = message.pop(ENVELOPE, None) if isinstance(message, dict) else None
        excluded: set[str] = set()
        if envelope is not None:
            excluded.update(envelope["exclude"])
            # Who is in several of the groups gets it through the first of them.
            for each in envelope["groups"]:
                if each == group:
                    break
                excluded.update(box.name for box in self._hub.members(each))
            if envelope.get("ready"):
                message = Ready(message.get("text"), message.get("bytes"))
        await self._fan_out(group, message, deadline, excluded)

    def _deliver_to_channel(self, message: Message) -> None:
        channel = message.pop(TO)
        request = message.pop(ENVELOPE, None)
        if request == "join":
            if channel in self._mailboxes:
                self._keep_running(self._join_here(message["group"], channel))
        elif request == "leave":
            self._leave(message["group"], channel)
        elif not self._put(channel, message):
            self._report_drop("(sent to the channel itself)", self._box(channel))

    def _report_gap(self, subject: str, missed: int | None) -> None:
        metrics.GAPS_LOST.add()
        logger.error(
            "messages to %s were lost: %s; the broker was away for longer than the "
            "layer's expiry, or has lost its memory",
            subject,
            "an unknown number" if missed is None else missed,
        )
        if not subject.startswith("process!"):
            message = {"type": "layer.gap", "group": subject, "missed": missed}
            deadline = self._clock() + self.expiry
            for box in self._hub.members(subject):
                # Who reads with receive() waits for what the application sends.
                if box.attached:
                    box.push(message, deadline)

    def _check_fork(self) -> None:
        if os.getpid() == self._pid:
            return
        # A child of a fork is another process: nothing it inherited is its own.
        self._pid = os.getpid()
        self._become_a_process()
        self._start_afresh()
