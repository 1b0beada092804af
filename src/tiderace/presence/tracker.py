"""Who is in a topic: this process's share of it, kept alive, and what is to be told.

It knows the store of a layer and two callbacks, and neither the wire nor a topic class.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import enum
import logging
import random
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from tiderace import metrics
from tiderace.exceptions import LayerUnavailable
from tiderace.presence.lists import PresenceReader
from tiderace.presence.store import (
    Member,
    PresenceConfig,
    PresenceEvent,
    PresenceStats,
    PresenceStore,
)
from tiderace.runtime.tasks import WorkerPool

__all__ = [
    "Announce",
    "Hook",
    "Member",
    "Presence",
    "PresenceConfig",
    "PresenceTracker",
]

logger = logging.getLogger("tiderace.topics")

Announce = Callable[
    [str, Literal["join", "leave", "changed"], Member | None], Awaitable[None]
]
Hook = Callable[[str, Literal["joined", "left"], str], Awaitable[None]]

_LOOK = 10.0  # seconds after which a process looks for what another has left undone
_RETRY = 1.0  # seconds until what a broker could not do is tried again
_REAPED_AT_ONCE = 200
_ENTERING_AT_ONCE = 50
_LEAVING_AT_ONCE = 32
_HOOKS_AT_ONCE = 8
_TELLERS = 8
_DEPARTED = 20_000  # presence ids that are remembered, not to be used again


class Presence(enum.Enum):
    """How those who are in a topic are counted and announced.

    ``OFF``: not at all. ``PER_CONNECTION``: every connection is a member, which joins
    and leaves at once. ``PER_USER``: a user is one member, however many tabs and
    devices they have; they join with the first connection and leave when the last one
    has been gone for a grace period, so that a reload or a tunnel goes unnoticed.
    Somebody who is not logged in counts as a user of their own in each connection, and
    leaves at once.
    """

    OFF = "off"
    PER_CONNECTION = "connection"
    PER_USER = "user"


@dataclass(slots=True)
class _Entry:
    """One connection of this process in one topic."""

    member: Member  # under the presence id it has now
    per_user: bool
    grace: float
    entering: bool = True


class PresenceTracker:
    """The entries of one process in the store of one layer.

    They are renewed in batches while the process lives, and left when it ends in an
    orderly way; those of a process that was killed are found by the others. Not
    guaranteed: that a client hears each join and leave. Some are gathered (see
    ``PresenceConfig.pushes``), and the list itself is what counts.

    It belongs to one event loop.

    Args:
        store: ``layer.presence``.
        announce: is awaited with a group, ``"join"`` or ``"leave"`` and the member, to
            tell the clients; or with ``"changed"`` and None when so much has happened
            that they had better read again how many, or who, there are. Normally once
            for each; a second time when a process died right after it.
        hook: is awaited with a group, ``"joined"`` or ``"left"`` and a user, to tell
            the application. At least once for each: again when a process died, or
            took longer than ``rules.lease``. For one user and group in order, and one
            at a time fleet-wide. What it raises is logged, and it counts as told.
        rules: the same in all processes.
        refresh: seconds between two renewals; 25, so that one may fail.
        clock: seconds that never run backwards; for tests.
        randomness: spreads renewals of many processes over time; for tests.
    """

    def __init__(
        self,
        store: PresenceStore,
        announce: Announce,
        hook: Hook | None = None,
        *,
        rules: PresenceConfig = PresenceConfig(),  # noqa: B008 (immutable)
        refresh: float = 25.0,
        clock: Callable[[], float] = time.monotonic,
        randomness: random.Random | None = None,
    ) -> None:
        self._store = store
        self._announce = announce
        self._hook = hook
        self._rules = rules
        self._refresh = refresh
        self._clock = clock
        self._random = randomness or random.Random()  # noqa: S311 (jitter)
        self._entries: dict[tuple[str, str], _Entry] = {}
        # What is to be taken out of the store, by group and presence id.
        self._leaving: dict[tuple[str, str], float] = {}
        self._departed: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._lists = PresenceReader(store)
        # When to say that much has changed, by group.
        self._changed: dict[str, float] = {}
        self._away = False
        self._running: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._beat_at = self._reap_at = float("-inf")
        self._leavers = WorkerPool(self._take_out, _LEAVING_AT_ONCE, logger=logger)
        # One at a time for a group, so that nobody seems to leave before they join.
        self._tellers = [
            WorkerPool(self._tell, 1, logger=logger) for _ in range(_TELLERS)
        ]
        self._hookers = WorkerPool(self._run_hook, _HOOKS_AT_ONCE, logger=logger)

    # What the connections of this process do

    async def enter(
        self, group: str, member: Member, mode: Presence, *, grace: float = 15.0
    ) -> None:
        """Put a connection of this process into a topic's group; again is as once.

        It is announced right afterwards, not before this returns.

        Args:
            group: of the topic.
            member: who; ``client`` is the id of the connection.
            mode: how they are counted; nothing happens for ``OFF``.
            grace: seconds a user stays after their last connection, ``PER_USER``.

        Raises:
            LayerUnavailable: when the store could not be reached in time. The
                connection is not in the group then.
        """
        at = group, member.client
        if mode is Presence.OFF or at in self._entries:
            return
        self.start()
        if at in self._departed:
            member = self._renamed(member)
        per_user = mode is Presence.PER_USER
        entry = _Entry(member, per_user, grace if per_user else 0.0)
        self._entries[at] = entry
        try:
            await self._put_in(at, entry)
        except BaseException:
            if self._entries.get(at) is entry:
                del self._entries[at]
            # Whether it had got there is unknown.
            self._take_out_soon(group, entry)
            raise

    async def leave(self, group: str, client: str) -> None:
        """Take a connection out of a group, if it is in it.

        It returns at once, and the rest happens by itself: retried when the store is
        away, so that nothing is raised and being cancelled does no harm.
        """
        at = group, client
        entry = self._entries.pop(at, None)
        if entry is None:
            return
        self._departed[at] = None
        if len(self._departed) > _DEPARTED:
            self._departed.popitem(last=False)
        if not entry.entering:  # else the one who enters will find that it has left
            self._take_out_soon(group, entry)

    async def members(self, group: str, mode: Presence) -> Mapping[str, Member]:
        """Who is in a group, by presence id; nobody when presence is off.

        It is read after the call. Those who ask while another list of the group is
        being read get one and the same next one, so that a crowd that arrives at once
        costs a few reads: it is to be looked at, not changed.

        Raises:
            LayerUnavailable: when the store could not be reached in time.
        """
        if mode is Presence.OFF:
            return {}
        return await self._lists.read(group, per_user=mode is Presence.PER_USER)

    async def stats(self, group: str) -> PresenceStats:
        """How many connections and users are in a group; cheap however many.

        Raises:
            LayerUnavailable: when the store could not be reached in time.
        """
        return await self._store.stats(group)

    # Its life

    def start(self) -> None:
        """Renew this process's entries from now on, and look after those of others.

        Entering starts it. Processes in which nobody enters had better start it too, in
        case the last one that has entries is killed.
        """
        if self._running is None or self._running.done():
            self._beat_at = self._clock() + self._pause(self._refresh)
            # What a fleet that has ended altogether left behind is due now.
            self._reap_at = float("-inf")
            # A copy of the context would keep the request or socket that came first.
            self._running = asyncio.get_running_loop().create_task(
                self._run(), context=contextvars.Context()
            )

    async def close(self, *, timeout: float = 5.0) -> None:
        """Leave for all connections of this process, and tell what follows from that.

        What is not done after ``timeout`` seconds is left to the other processes.
        """
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        for group, client in list(self._entries):
            await self.leave(group, client)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.settled()
        for crew in self._crews:
            await crew.stop()
        await self._lists.stop()

    async def settled(self) -> None:
        """Wait until all that is to be done and told at once has been."""
        while any(crew.busy for crew in self._crews):
            for crew in self._crews:
                await crew.finished()

    @property
    def _crews(self) -> list[WorkerPool[Any]]:
        return [self._leavers, *self._tellers, self._hookers]

    async def _run(self) -> None:
        """Do what is due, and sleep until the next thing is."""
        while True:
            try:
                await self._do_what_is_due()
            except Exception:
                logger.exception("keeping presence failed, and goes on in a second")
                self._beat_at = self._reap_at = self._clock() + self._pause(_RETRY)
            times = [self._beat_at, self._reap_at, *self._changed.values()]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(times) - self._clock())):
                    await self._wake.wait()
            self._wake.clear()

    async def _do_what_is_due(self) -> None:
        now = self._clock()
        for group in [name for name, due in self._changed.items() if due <= now]:
            del self._changed[group]
            self._tell_soon(group)
        if self._beat_at <= now:
            await self.beat()
        if self._reap_at <= now:
            await self.reap()

    async def beat(self) -> None:
        """Renew this process's entries, and do again what could not be done before.

        By itself every ``refresh`` seconds; sooner for tests.
        """
        clients: dict[str, list[str]] = {}
        for (group, _), entry in self._entries.items():
            if not entry.entering:
                clients.setdefault(group, []).append(entry.member.client)
        try:
            forgotten = await self._store.renew(clients, rules=self._rules)
            self._back()
        except LayerUnavailable as error:
            self._lost(error)
            return
        self._beat_at = self._clock() + self._pause(self._refresh)
        for due in list(self._leaving):
            self._leavers.put(due)
        if forgotten:
            await self._come_back(set(forgotten))

    async def reap(self) -> None:
        """Deal with what is due in any topic, of whatever process.

        By itself when something is due, as far as is known here; sooner for tests.
        """
        again: float | None = 0.0
        while again is not None and again <= 0:
            try:
                reaped = await self._store.reap(_REAPED_AT_ONCE, rules=self._rules)
            except LayerUnavailable as error:
                self._lost(error)
                self._reap_at = self._clock() + self._pause(_RETRY)
                return
            self._spread(reaped.notices)
            again = reaped.again
        # Not all processes at once: one of them is enough.
        soon = _LOOK if again is None else min(again, _LOOK)
        self._reap_at = self._clock() + soon + self._random.random() * _RETRY

    # Entering and leaving

    async def _put_in(self, at: tuple[str, str], entry: _Entry) -> None:
        group = at[0]
        try:
            notices = await self._store.enter(
                group,
                entry.member,
                per_user=entry.per_user,
                grace=entry.grace,
                rules=self._rules,
            )
        finally:
            entry.entering = False
        self._spread(notices)
        if self._entries.get(at) is not entry:
            self._take_out_soon(group, entry)

    async def _come_back(self, forgotten: set[tuple[str, str]]) -> None:
        """Enter again with what the store has lost, or given up since we were cut off."""
        metrics.PRESENCE_FORGOTTEN.add(len(forgotten))
        logger.warning(
            "the presence of %d connection(s) had been forgotten, and is entered again",
            len(forgotten),
        )
        lost = [
            (at, entry)
            for at, entry in self._entries.items()
            if (at[0], entry.member.client) in forgotten
        ]
        for start in range(0, len(lost), _ENTERING_AT_ONCE):
            some = lost[start : start + _ENTERING_AT_ONCE]
            if not all(await asyncio.gather(*(self._return(*each) for each in some))):
                return  # the next beat will find the others forgotten again

    async def _return(self, at: tuple[str, str], entry: _Entry) -> bool:
        if self._entries.get(at) is not entry:
            return True
        if not (entry.per_user and entry.member.user):
            # The others may have seen it leave, which is for ever.
            entry.member = self._renamed(entry.member)
        entry.entering = True
        # Who was listed before is not told to have left, where the store lost its memory.
        self._change_soon(at[0], _RETRY)
        try:
            await self._put_in(at, entry)
        except LayerUnavailable as error:
            self._lost(error)
            if self._entries.get(at) is not entry:
                self._take_out_soon(at[0], entry)
            return False
        return True

    def _take_out_soon(self, group: str, entry: _Entry) -> None:
        due = group, entry.member.client
        self._leaving[due] = entry.grace
        if not self._away:  # else the next beat that gets through does it
            self._leavers.put(due)

    async def _take_out(self, due: tuple[str, str]) -> None:
        if due not in self._leaving:
            return
        try:
            notices = await self._store.leave(*due, rules=self._rules)
        except LayerUnavailable as error:
            self._lost(error)
            return
        grace = self._leaving.pop(due, 0.0)
        self._spread(notices)
        if grace:
            self._reap_by(self._clock() + grace)

    def _renamed(self, member: Member) -> Member:
        # Nobody who was told that an id has left need ever see it join.
        client = member.client.partition("~")[0]
        return replace(member, client=f"{client}~{secrets.token_hex(4)}")

    # Telling

    def _spread(self, notices: list[PresenceEvent]) -> None:
        for notice in notices:
            self._tell_soon(notice)

    def _tell_soon(self, news: PresenceEvent | str) -> None:
        """Tell what a notice says, or that much has changed in a group."""
        group = news if isinstance(news, str) else news.group
        # By when it must be done, for somebody else gets a claim at its end.
        give_up = self._clock() + self._rules.lease / 2
        self._tellers[hash(group) % _TELLERS].put((news, give_up))

    async def _tell(self, told: tuple[PresenceEvent | str, float]) -> None:
        news, give_up = told
        if isinstance(news, str):
            await self._say(news, "changed", None)
            return
        if news.claim and self._clock() > give_up:
            return
        if news.changed_in is not None:
            metrics.PRESENCE_GATHERED.add()
            self._change_soon(news.group, news.changed_in)
        said = not news.push or await self._say(news.group, news.event, news.member)
        if news.claim and said:
            self._hookers.put((news, give_up))

    async def _say(
        self,
        group: str,
        event: Literal["join", "leave", "changed"],
        member: Member | None,
    ) -> bool:
        try:
            await self._announce(group, event, member)
        except LayerUnavailable as error:
            self._lost(error)
        except Exception:
            logger.exception("telling %s that there is a %s failed", group, event)
        else:
            return True
        # Whoever missed it is to read again.
        self._change_soon(group, _RETRY)
        return False

    async def _run_hook(self, told: tuple[PresenceEvent, float]) -> None:
        notice, give_up = told
        if self._clock() > give_up:
            return
        user = notice.member.user
        if user and self._hook is not None:
            event: Literal["joined", "left"] = (
                "joined" if notice.event == "join" else "left"
            )
            try:
                await self._hook(notice.group, event, user)
            except Exception:
                logger.exception(
                    "the hook for user %s having %s %s failed; it is not tried again",
                    user,
                    event,
                    notice.group,
                )
        try:
            self._spread(await self._store.confirm(notice, rules=self._rules))
        except LayerUnavailable as error:
            self._lost(error)

    # When

    def _change_soon(self, group: str, seconds: float) -> None:
        due = self._clock() + seconds
        self._changed[group] = min(due, self._changed.get(group, due))
        self._wake.set()

    def _reap_by(self, time_: float) -> None:
        if time_ < self._reap_at:
            self._reap_at = time_
            self._wake.set()

    def _pause(self, seconds: float) -> float:
        """About so long, and not the same in every process."""
        return seconds * (0.8 + 0.2 * self._random.random())

    def _lost(self, error: LayerUnavailable) -> None:
        if not self._away:
            self._away = True
            logger.warning("presence waits for its store: %s", error)
        self._beat_at = self._clock() + self._pause(_RETRY)
        self._wake.set()

    def _back(self) -> None:
        if self._away:
            self._away = False
            logger.info("presence has its store again")
