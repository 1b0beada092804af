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
from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from tiderace import metrics
from tiderace.delivery.outbox import Ready
from tiderace.exceptions import ChannelFull, LayerUnavailable
from tiderace.history import Position, Publication
from tiderace.layers import publications
from tiderace.layers.base import Message
from tiderace.layers.broker import Broker, Keep, Live, Taken, Wake
from tiderace.layers.listeners import Listener
from tiderace.layers.local import ENVELOPE, TO, Box, LocalChannelLayer
from tiderace.layers.presence import PresenceStore, ShardedPresence
from tiderace.layers.stats import LayerStats, ProcessStats
from tiderace.layers.streams import Stream, Streams
from tiderace.ratelimit import Rate

__all__ = ["PubSubLayer"]

logger = logging.getLogger("tiderace.layers")


_TICK = 0.25  # seconds between two looks at what is to be announced
_POLL = 5.0  # seconds a reader of a queue waits before it looks by itself
_TAKE_LEASE = 10.0  # seconds in which a taken message must be confirmed
_YIELD_EVERY = 32  # messages, after which the consumers get their turn
_RETRY = 1.0  # seconds until what a broker has refused is tried again
_UNTIDY = 100  # things left behind, in a process that hears no broker
_REPORT = 2.0  # seconds between two reports of a process about itself
_REPORT_SHARE = 200  # times as long as making a report took, at least, lie between two
_TOP = 20  # groups whose members are in a report


class _Place(NamedTuple):
    """Where a specific channel lives."""

    process: str
    ours: bool


class _Abandoned(Exception):
    """Whoever was to make a group heard here has given up, since it was cancelled."""


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
        self._inbox_here = self._inbox(self._process)
        self._streams = Streams(
            expiry=self.expiry,
            at_most=self._keep.size,
            clock=self._clock,
            deliver=self._deliver,
            report_gap=self._report_gap,
            start=lambda work: self._keep_running(work, self._fills),
            at_home=self._at_home,
        )
        # Groups without a member any more, still heard until the next tick.
        self._vacated: set[str] = set()
        # Who joined or left since it was last announced, and who is announcing, by broker.
        self._changes: dict[tuple[str, str], bool] = {}
        self._announcing: dict[int, Future[None]] = {}
        # Readers of named queues, to be woken in their loops; and the queues heard.
        self._takers: dict[
            str, set[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
        ] = {}
        self._heard_queues: set[str] = set()
        # The loop that hears the brokers, its tasks for that, those that fetch what was
        # missed, and other small work that is begun and ends.
        self._home: asyncio.AbstractEventLoop | None = None
        self._service: list[asyncio.Task[None]] = []
        self._fills: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        # When each broker was last told that this process lives.
        self._renewed: dict[int, float] = {}
        # When it was last looked whether listeners to a broker's streams miss anything.
        self._checked: dict[int, float] = {}
        self._gap_logged_at = float("-inf")
        self._gaps_not_logged = 0
        # When this process last told about itself, and when it may again.
        self._reported = float("-inf")
        self._report_due = float("-inf")

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
            if len(self._vacated) + len(self._changes) > _UNTIDY and not self._serving:
                await self._tidy_up()
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
            begun = time.perf_counter()
            published = await self._broker(name).publish(
                name, data, keep=self._keep, members_age=self.group_expiry
            )
            self._published_in(time.perf_counter() - begun)
            queues.update(dict.fromkeys(published.members))
        return queues

    def _published_in(self, seconds: float) -> None:
        self._round_trip = seconds
        metrics.PUBLISH_DURATION.observe(seconds)

    async def group_channels(self, group: str) -> list[str]:
        """The channels in ``group``, of all processes, in no order.

        Those that joined in the last quarter of a second in other processes may be
        missing, and those of a process that was killed stay until its lease ends.
        """
        self.require_valid_group_name(group)
        self._check_fork()
        await self._announce(self._index(group))
        return await self._broker(group).present(group)

    async def group_count(self, group: str) -> int:
        """How many channels are in ``group``; as exact as ``group_channels``."""
        self.require_valid_group_name(group)
        self._check_fork()
        await self._announce(self._index(group))
        return await self._broker(group).count(group)

    # Streams

    async def stream_publish(
        self, group: str, record: Mapping[str, Any], *, keep: Keep, key: str = ""
    ) -> Position:
        """See ``BaseChannelLayer.stream_publish``; it returns like ``group_send``."""
        self.require_valid_group_name(group)
        data = self.serialize(publications.stored(record))
        self._check_fork()
        metrics.MESSAGES_SENT.add()
        begun = time.perf_counter()
        published = await self._broker(group).publish(
            group,
            data,
            keep=self._keep,
            members_age=self.group_expiry,
            history=keep,
            key=key,
        )
        self._published_in(time.perf_counter() - begun)
        if published.members:
            publication = Publication.of_record(published.position, record)
            await self._send_to_queues(
                published.members, [group], publication.as_event()
            )
        return published.position

    async def stream_published(self, group: str, key: str) -> Position | None:
        """See ``BaseChannelLayer.stream_published``."""
        self.require_valid_group_name(group)
        self._check_fork()
        return await self._broker(group).published(group, key)

    async def spend(self, key: str, rate: Rate) -> float:
        """See ``BaseChannelLayer.spend``."""
        self._check_fork()
        return await self._broker(key).spend(key, rate)

    async def stream_read(
        self,
        group: str,
        *,
        keep: Keep,
        since: Position | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> tuple[Position, list[Publication]]:
        """See ``BaseChannelLayer.stream_read``."""
        self.require_valid_group_name(group)
        self._check_fork()
        top, entries = await self._broker(group).read(
            group,
            history=keep,
            keep=self._keep,
            since=since,
            limit=limit,
            reverse=reverse,
        )
        found = []
        now = time.time()
        for entry in entries:
            position = Position(top.epoch, entry.offset)
            try:
                found.append(
                    publications.of_stored(
                        position, self.deserialize(entry.data), time=now - entry.age
                    )
                )
            except Exception:
                # Who asked what was missed sees that this one is.
                logger.exception("a message to %s cannot be read", group)
        return top, found

    async def stream_forget(self, group: str) -> None:
        """See ``BaseChannelLayer.stream_forget``."""
        self.require_valid_group_name(group)
        self._check_fork()
        await self._broker(group).forget(group)

    async def listen(self, group: str, listener: Listener) -> None:
        """See ``BaseChannelLayer.listen``."""
        self.require_valid_group_name(group)
        self._check_fork()
        self._ensure_running()
        while True:
            with self._lock:
                self._listeners.add(group, listener)
                stream, first = self._stream(group)
            try:
                await self._hear_stream(stream, first)
                return
            except _Abandoned:
                continue
            except BaseException:
                self.unlisten(group, listener)
                raise

    def unlisten(self, group: str, listener: Listener) -> None:
        """See ``BaseChannelLayer.unlisten``."""
        self._check_fork()
        super().unlisten(group, listener)

    def _unheard(self, group: str) -> None:
        with self._lock:
            self._vacated.add(group)

    async def flush(self) -> None:
        """Forget all messages, groups and streams; for tests.

        Consumers keep their channels. Nobody listens to anything any more.
        """
        self._check_fork()
        self._forget_everything()
        heard = list(self._streams)
        for index, broker in enumerate(self._brokers):
            await broker.flush()
            await broker.unsubscribe([s for s in heard if self._index(s) == index])
        await self.close()
        with self._lock:
            self._changes.clear()
            self._vacated.clear()
            self._streams.clear()
        if any(box.attached for box in list(self._mailboxes.values())):
            self._ensure_running()

    async def close(self) -> None:
        """Withdraw this process's memberships and close the running loop's connections.

        When another loop of this process hears the brokers, that goes on, and only the
        connections are closed. The layer may be used again afterwards.
        """
        self._check_fork()
        here = asyncio.get_running_loop()
        with self._lock:
            elsewhere = self._serving and self._home is not here
            service = [] if elsewhere else self._service
            if not elsewhere:
                self._home, self._service = None, []
        mine = [task for task in (*service, *self._fills) if task.get_loop() is here]
        for task in mine:
            task.cancel()
        small = [task for task in self._tasks if task.get_loop() is here]
        await asyncio.gather(*mine, *small, return_exceptions=True)
        for index, broker in enumerate(self._brokers):
            if not elsewhere:
                with contextlib.suppress(LayerUnavailable):
                    await broker.retire(self._process, self._subjects_of(index))
            await broker.close()

    async def interrupt(self) -> None:
        """Break the running loop's connections, as a network would; for drills.

        Everything goes on by itself, and what is sent meanwhile is fetched.
        """
        for broker in self._brokers:
            await broker.cut()

    @property
    def ready(self) -> bool:
        """Whether this process hears its brokers; see ``BaseChannelLayer.ready``.

        True as well while nothing in this process listens.
        """
        self._check_fork()
        return not self._serving or all(broker.hearing for broker in self._brokers)

    # What is happening

    async def stats(self, *, fleet: bool = False, top: int = 10) -> LayerStats:
        """See ``BaseChannelLayer.stats``."""
        self._check_fork()
        here = self.stats_here(top)
        if not fleet:
            return LayerStats((here,))
        processes = {}
        for broker in self._brokers:
            for data in await broker.reports():
                with contextlib.suppress(msgspec.DecodeError):  # of another release
                    report = msgspec.json.decode(data, type=ProcessStats)
                    processes[report.process] = report
        if self._serving:
            # What it knows of itself is newer than what it has told.
            processes[self._process] = here
        order = sorted(processes.values(), key=lambda each: (each.host, each.started))
        return LayerStats(tuple(order))

    async def _report(self, broker: Broker) -> None:
        """Tell the broker how this process is."""
        begun = time.perf_counter()
        report = msgspec.json.encode(self.stats_here(_TOP))
        took = time.perf_counter() - begun
        self._reported = self._clock()
        self._report_due = self._reported + max(_REPORT, took * _REPORT_SHARE)
        await broker.report(self._process, report, lease=self._lease)
        self._round_trip = self._clock() - self._reported

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

    @cached_property
    def presence(self) -> PresenceStore:
        """Who is present in which group, fleet-wide."""
        return ShardedPresence(
            [broker.presence for broker in self._brokers], self._index
        )

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
            extra={"reason": "channel_full", "dropped": full},
        )

    # Named queues

    async def _take(self, queue: str) -> Message:
        away = False
        while True:
            try:
                message: Message = self.deserialize((await self._taken(queue)).data)
            except LayerUnavailable as error:
                # Who waits for a message waits for the broker, too.
                if not away:
                    away = True
                    logger.warning("nothing can be taken from %s: %s", queue, error)
                await asyncio.sleep(_RETRY)
            else:
                return message

    async def _taken(self, queue: str) -> Taken:
        broker = self._broker(queue)
        taken = await self._take_once(broker, queue)
        if taken is not None:
            return taken
        self._ensure_running()
        taker = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._takers.setdefault(queue, set()).add(taker)
            self._heard_queues.add(queue)
        try:
            await broker.subscribe((), [queue])
            while (taken := await self._take_once(broker, queue)) is None:
                # By itself, too: for a message whose taker died.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_POLL):
                        await taker[1].wait()
                taker[1].clear()
            return taken
        finally:
            with self._lock:
                takers = self._takers[queue]
                takers.discard(taker)
                if not takers:
                    del self._takers[queue]

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
        # When the broker is away the message comes back at the end of its lease.
        with contextlib.suppress(LayerUnavailable):
            if (taken := await taking) is not None:
                await broker.give_back(taken)

    async def _redo(
        self, broker: Broker, taken: Taken, confirming: asyncio.Future[None]
    ) -> None:
        with contextlib.suppress(LayerUnavailable):
            await confirming
            await broker.give_back(taken, confirmed=True)

    def _keep_running(
        self,
        work: Coroutine[Any, Any, None],
        among: set[asyncio.Task[None]] | None = None,
    ) -> None:
        """Let a small piece of work end by itself; what it raises is logged."""
        # A copy of the context would keep the request or socket that came first.
        task = asyncio.get_running_loop().create_task(
            work, context=contextvars.Context()
        )
        among = self._tasks if among is None else among
        among.add(task)
        task.add_done_callback(among.discard)
        task.add_done_callback(_log_failure)

    # Memberships of this process

    async def _join_here(self, group: str, channel: str) -> None:
        while True:
            with self._lock:
                self._join(group, channel)
                self._changes[group, channel] = True
                stream, first = self._stream(group)
            try:
                await self._hear_stream(stream, first)
                return
            except _Abandoned:
                continue
            except BaseException:
                self._leave(group, channel)
                raise

    def _stream(self, group: str) -> tuple[Stream, bool]:
        """The group's stream as it is heard here, and whether that begins now."""
        stream = self._streams.get(group)
        if stream is not None:
            return stream, False
        return self._streams.add(group, self._broker(group)), True

    async def _hear_stream(self, stream: Stream, first: bool) -> None:
        """Wait until a stream is heard; whoever is the first sees to that."""
        if not first:
            await _settled(stream.ready)
            return
        try:
            await stream.broker.subscribe([stream.subject])
            await self._streams.locate(stream)
        except BaseException as error:
            # Only then tell the others: they may try anew.
            self._streams.remove(stream.subject, stream)
            stream.ready.set_exception(
                error if isinstance(error, Exception) else _Abandoned()
            )
            raise
        stream.ready.set_result(None)

    def _left(self, group: str, channel: str, last: bool) -> None:
        # Said in any case: it may have been announced before it left and came back.
        self._changes[group, channel] = False
        if last:
            self._vacated.add(group)

    async def _announce(self, index: int) -> None:
        """Tell a broker who joined and left here since the last time."""
        while True:
            with self._lock:
                busy = self._announcing.get(index)
                if busy is None:
                    changes = {
                        key: joined
                        for key, joined in self._changes.items()
                        if self._index(key[0]) == index
                    }
                    if not changes:
                        return
                    for key in changes:
                        del self._changes[key]
                    done = self._announcing[index] = Future()
                    break
            # One after the other, for a leave must not overtake its join.
            await _settled(busy)
        try:
            await self._brokers[index].announce(
                self._process,
                [key for key, joined in changes.items() if joined],
                [key for key, joined in changes.items() if not joined],
                lease=self._lease,
            )
        except BaseException:
            with self._lock:
                self._changes = {**changes, **self._changes}
            raise
        finally:
            with self._lock:
                del self._announcing[index]
            done.set_result(None)

    async def _renew(self, index: int, broker: Broker) -> None:
        """Keep what was announced, and announce anew what the broker has forgotten."""
        self._renewed[index] = self._clock()
        try:
            lost = await broker.renew(
                self._process, self._subjects_of(index), lease=self._lease
            )
        except BaseException:
            self._renewed[index] = float("-inf")
            raise
        with self._lock:
            for group in lost:
                for box in self._hub.members(group):
                    self._changes.setdefault((group, box.name), True)

    def _subjects_of(self, index: int) -> list[str]:
        return [group for group in list(self.groups) if self._index(group) == index]

    # The process's own tasks

    @property
    def _serving(self) -> bool:
        """Whether a loop of this process hears the brokers."""
        home = self._home
        return (
            home is not None
            and home.is_running()
            and bool(self._service)
            and not any(task.done() for task in self._service)
        )

    def _ensure_running(self) -> None:
        """Have one loop of this process hear the brokers; this one, if there is none."""
        if self._serving:
            return
        with self._lock:
            if self._serving:
                return
            home = self._home = asyncio.get_running_loop()
            for task in self._service:
                # Those of a loop that has stopped end by themselves if it goes on.
                if task.get_loop() is home:
                    task.cancel()
            self._streams.reset()
            if self._inbox_here not in self._streams:
                self._streams.add(
                    self._inbox_here,
                    self._broker(self._inbox_here),
                    from_the_beginning=True,
                )
            # A copy of the context would keep the request or socket that came first.
            context = contextvars.Context()
            self._service = [
                home.create_task(work, context=context)
                for index, broker in enumerate(self._brokers)
                for work in (
                    self._pump(index, broker, home),
                    self._keep_house(index, broker, home),
                )
            ]
        for task in self._service:
            task.add_done_callback(_log_failure)

    def _at_home(self, do: Callable[[], None]) -> None:
        home = self._home
        if home is not None:
            with contextlib.suppress(RuntimeError):  # that loop is closed
                home.call_soon_threadsafe(do)

    async def _pump(
        self, index: int, broker: Broker, home: asyncio.AbstractEventLoop
    ) -> None:
        """Hear one broker for as long as this is the loop that does."""
        while self._home is home:
            try:
                await self._hear(index, broker, home)
            except Exception:
                logger.exception("hearing a broker failed and is begun anew")
                await asyncio.sleep(_RETRY)

    async def _hear(
        self, index: int, broker: Broker, home: asyncio.AbstractEventLoop
    ) -> None:
        """Hand what arrives to the mailboxes of this process."""
        if self._index(self._inbox_here) == index:
            await broker.subscribe([self._inbox_here], [self._process])
        handled = 0
        async with contextlib.aclosing(broker.messages()) as batches:
            async for batch in batches:
                if self._home is not home:
                    return  # another loop has taken over
                for item in batch:
                    if isinstance(item, Live):
                        await self._streams.heard(item)
                    elif isinstance(item, Wake):
                        if item.queue == self._process:
                            self._lag = self._clock() - self._reported
                        else:
                            self._wake_takers(item.queue)
                    else:
                        self._interrupted(index, broker)
                    handled += 1
                    if handled % _YIELD_EVERY == 0:
                        # A burst must not fill mailboxes whose readers are ready.
                        await asyncio.sleep(0)

    def _interrupted(self, index: int, broker: Broker) -> None:
        self._streams.interrupted(broker)
        # It may be another server, or one that has forgotten us.
        self._renewed[index] = float("-inf")
        for queue in list(self._takers):
            self._wake_takers(queue)

    async def _keep_house(
        self, index: int, broker: Broker, home: asyncio.AbstractEventLoop
    ) -> None:
        """Announce, renew and tidy up for one broker, for as long as it is heard."""
        failing = False
        self._renewed.setdefault(index, self._clock())
        while self._home is home:
            await asyncio.sleep(_TICK)
            try:
                if index == 0:
                    self._expire(self._clock())
                    self._log_more_gaps()
                await self._announce(index)
                await self._stop_hearing(index, broker)
                await self._check_idle(index)
                if self._clock() - self._renewed[index] >= self._lease / 3:
                    await self._renew(index, broker)
                if (
                    self._index(self._inbox_here) == index
                    and self._clock() >= self._report_due
                ):
                    await self._report(broker)
                failing = False
            except Exception as error:
                if not failing:
                    failing = True
                    logger.warning(
                        "memberships cannot be announced for the time being: %s",
                        error,
                        exc_info=not isinstance(error, LayerUnavailable),
                    )
                await asyncio.sleep(_RETRY)

    async def _check_idle(self, index: int) -> None:
        """Look whether what listeners here have heard is all there is, now and then."""
        now = self._clock()
        if now - self._checked.get(index, float("-inf")) >= self.expiry / 4:
            self._checked[index] = now
            await self._streams.check(
                each for each in self._listeners if self._index(each) == index
            )

    async def _tidy_up(self) -> None:
        """What ``_keep_house`` does, in a process that hears no broker."""
        for index, broker in enumerate(self._brokers):
            await self._announce(index)
            await self._stop_hearing(index, broker)

    async def _stop_hearing(self, index: int, broker: Broker) -> None:
        """Unsubscribe from what nobody here is in, or waits for, any more."""
        with self._lock:
            vacated = [each for each in self._vacated if self._index(each) == index]
            self._vacated.difference_update(vacated)
            empty = [
                group
                for group in vacated
                if group not in self.groups and group not in self._listeners
            ]
            for group in empty:
                self._streams.remove(group)
            idle = [
                queue
                for queue in self._heard_queues
                if queue not in self._takers and self._index(queue) == index
            ]
            self._heard_queues.difference_update(idle)
        if not empty and not idle:
            return
        try:
            await broker.unsubscribe(empty, idle)
        except BaseException:
            with self._lock:
                self._vacated.update(empty)
                self._heard_queues.update(idle)
            raise
        finally:
            # Another thread may have come in between the look and the word.
            groups = [each for each in empty if each in self._streams]
            queues = [each for each in idle if each in self._takers]
            if groups or queues:
                await broker.subscribe(groups, queues)
                streams = (self._streams.get(each) for each in groups)
                self._streams.behind(each for each in streams if each is not None)

    def _wake_takers(self, queue: str) -> None:
        here = asyncio.get_running_loop()
        for loop, event in list(self._takers.get(queue, ())):
            if loop is here:
                event.set()
            else:
                with contextlib.suppress(RuntimeError):  # that loop is closed
                    loop.call_soon_threadsafe(event.set)

    # What arrives

    async def _deliver(
        self, subject: str, data: bytes, age: float, position: Position
    ) -> None:
        try:
            message = self.deserialize(data)
            if subject == self._inbox_here:
                self._deliver_to_channel(message)
                return
            publication = None
            if subject in self._listeners or publications.is_record(message):
                publication = publications.of_stored(
                    position, message, time=time.time() - age
                )
                await self._tell(subject, self._listeners.put(subject, publication))
            if subject in self.groups:
                await self._deliver_to_group(subject, message, age, publication)
        except Exception:
            # Whatever one sender sent, the others' messages must go on arriving.
            logger.exception("a message to %s cannot be read and is dropped", subject)
            self._listeners.put(subject, None).tell()

    async def _deliver_to_group(
        self, group: str, message: Any, age: float, publication: Publication | None
    ) -> None:
        deadline = self._clock() + self.expiry - age
        envelope = message.pop(ENVELOPE, None) if isinstance(message, dict) else None
        excluded: set[str] = set()
        if publication is not None and publications.RECORD in (envelope or ()):
            message = publication.as_event()
        elif envelope is not None:
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
        now = self._clock()
        if now - self._gap_logged_at < 1.0:
            # A server that comes back empty is a gap in every group.
            self._gaps_not_logged += 1
        else:
            self._gap_logged_at = now
            logger.error(
                "messages to %s were lost: %s; the broker was away for longer than the "
                "layer's expiry, or has lost its memory",
                subject,
                "an unknown number" if missed is None else missed,
                extra={"reason": "messages_lost", "group": subject, "missed": missed},
            )
        self._listeners.put(subject, None).tell()
        if subject != self._inbox_here:
            message = {"type": "layer.gap", "group": subject, "missed": missed}
            deadline = self._clock() + self.expiry
            for box in self._hub.members(subject):
                # Who reads with receive() waits for what the application sends.
                if box.attached:
                    box.push(message, deadline)

    def _log_more_gaps(self) -> None:
        more, self._gaps_not_logged = self._gaps_not_logged, 0
        if more:
            logger.error("messages to %d more groups or processes were lost", more)

    def _check_fork(self) -> None:
        if os.getpid() == self._pid:
            return
        # A child of a fork is another process: nothing it inherited is its own, and
        # nothing of it may be finalized here; see ``redis_broker``.
        _inherited.append((self._home, self._service, self._fills, self._tasks))
        self._pid = os.getpid()
        self._become_a_process()
        self._start_afresh()


_inherited: list[object] = []


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("a task of the layer failed", exc_info=error)


async def _settled(future: Future[None]) -> None:
    """Wait for what another task, perhaps of another loop, does; cancel it never."""
    if not future.done():
        loop = asyncio.get_running_loop()
        woken = loop.create_future()

        def wake(_: Future[None]) -> None:
            with contextlib.suppress(RuntimeError):  # this loop is closed
                loop.call_soon_threadsafe(_set, woken)

        future.add_done_callback(wake)
        await woken
    future.result()


def _set(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
