"""The presence of one process's connections: added, refreshed, removed and announced."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from tiderace.exceptions import LayerUnavailable
from tiderace.presence.announcer import Announce, Hook, PresenceAnnouncer
from tiderace.presence.entries import LocalEntries
from tiderace.presence.member_reader import MemberReader
from tiderace.presence.schedule import PresenceSchedule
from tiderace.presence.store import Member, PresenceStats, PresenceStore
from tiderace.runtime.futures import call_soon
from tiderace.runtime.tasks import TaskGroup, WorkerPool

logger = logging.getLogger("tiderace.topics")

_REAP_LIMIT = 200


class Presence(enum.Enum):
    """How the members of a topic are counted and announced.

    ``OFF``: not at all. ``PER_CONNECTION``: every connection is a member, which joins
    and leaves at once. ``PER_USER``: a user is one member, with any number of tabs and
    devices; they join with the first connection and leave when the last one has been
    gone for a grace period, so that a reload or a short loss of the network causes no
    event. An anonymous
    connection counts as a user of its own, and leaves at once.
    """

    OFF = "off"
    PER_CONNECTION = "connection"
    PER_USER = "user"


class PresenceTracker:
    """The entries of one process in the store of one layer.

    They are refreshed in batches while the process runs, and removed on a graceful
    shutdown; those of a killed process are reaped by the others. Not guaranteed:
    that a client gets each join and leave. Beyond ``PresenceConfig.pushes`` they are
    coalesced; the member list is authoritative.

    It belongs to one event loop.

    Args:
        store: ``layer.presence``.
        announce: awaited with a group, ``"join"`` or ``"leave"`` and the member, to
            push the event to clients; or with ``"changed"`` and None when clients
            should read the members or their number again. Normally once for each
            event; a second time when a process died right after it.
        hook: awaited with a group, ``"joined"`` or ``"left"`` and a user id, to call
            the application. At least once for each event: again when a process died,
            or took longer than the store's lease. In order and one at a time for one
            user and group, across processes. What it raises is logged, and the event
            counts as handled.
        refresh: seconds between two refreshes; 25, so that one may fail.
        clock: seconds that never run backwards; for tests.
        randomness: spreads the refreshes of many processes over time; for tests.
    """

    def __init__(
        self,
        store: PresenceStore,
        announce: Announce,
        hook: Hook | None = None,
        *,
        refresh: float = 25.0,
        clock: Callable[[], float] = time.monotonic,
        randomness: random.Random | None = None,
    ) -> None:
        self._store = store
        self._schedule = PresenceSchedule(
            refresh,
            clock,
            randomness or random.Random(),  # noqa: S311 (jitter)
        )
        self._announcer = PresenceAnnouncer(store, announce, hook, self._schedule)
        self._reader = MemberReader(store)
        self._entries = LocalEntries(store, self._announcer, self._schedule)
        self._tasks = TaskGroup(logger)
        self._loop: asyncio.AbstractEventLoop | None = None

    # The connections of this process

    async def add(
        self, group: str, member: Member, mode: Presence, *, grace: float = 15.0
    ) -> None:
        """Add a connection of this process to a group; without effect when it is there.

        The join is announced soon after this returns.

        Args:
            group: the topic's.
            member: the connection; ``client`` is its id.
            mode: how it is counted; nothing happens for ``OFF``.
            grace: seconds a user stays present after their last connection; for
                ``PER_USER``.

        Raises:
            LayerUnavailable: when the store could not be reached in time. The
                connection is not in the group then.
        """
        if mode is Presence.OFF:
            return
        self.start()
        per_user = mode is Presence.PER_USER
        await self._entries.add(
            group, member, per_user=per_user, grace=grace if per_user else 0.0
        )

    def remove(self, group: str, client: str) -> None:
        """Remove a connection from a group, if it is there.

        The store is called in the background, again while it cannot be reached.
        """
        self._entries.remove(group, client)

    async def members(self, group: str, mode: Presence) -> Mapping[str, Member]:
        """Return the members of a group by presence id; empty for ``OFF``.

        They are read after the call. Callers may share the mapping: do not change it.

        Raises:
            LayerUnavailable: when the store could not be reached in time.
        """
        if mode is Presence.OFF:
            return {}
        return await self._reader.read(group, per_user=mode is Presence.PER_USER)

    async def stats(self, group: str) -> PresenceStats:
        """Return the number of connections and users; cheap for any number.

        Raises:
            LayerUnavailable: when the store could not be reached in time.
        """
        return await self._store.stats(group)

    # Lifetime

    def start(self) -> None:
        """Begin to refresh this process's entries and to reap those of others.

        ``add`` calls it. Processes without entries should call it too, in case the
        last process that has some is killed.
        """
        if not self._tasks:
            self._loop = asyncio.get_running_loop()
            self._schedule.start()
            self._tasks.spawn(self._run())

    def refresh_soon(self) -> None:
        """Refresh in about a second: the store may have lost its data.

        May be called in any thread.
        """
        call_soon(self._loop, self._schedule.retry_refresh)

    async def close(self, *, timeout: float = 5.0) -> None:
        """Remove all connections of this process, and announce the leaves.

        Work that is not done after ``timeout`` seconds is left to other processes.
        """
        await self._tasks.cancel()
        self._entries.remove_all()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.wait_idle()
        for pool in self._workers:
            await pool.stop()
        await self._reader.stop()

    async def wait_idle(self) -> None:
        """Wait until all queued work is done."""
        while any(pool.busy for pool in self._workers):
            for pool in self._workers:
                await pool.finished()

    @property
    def _workers(self) -> list[WorkerPool[Any]]:
        return [self._entries.leave_workers, *self._announcer.workers]

    async def _run(self) -> None:
        while True:
            try:
                await self.run_due()
            except Exception:
                logger.exception("updating presence failed; trying again in a second")
                self._schedule.retry_refresh()
                self._schedule.retry_reap()
            await self._schedule.wait()

    async def run_due(self) -> None:
        """Announce, refresh and reap what is due now."""
        now = self._schedule.now()
        self._announcer.put_changes(self._schedule.pop_changes())
        if self._schedule.refresh_at <= now:
            await self.refresh_all()
        if self._schedule.reap_at <= now:
            await self.reap()

    async def refresh_all(self) -> None:
        """Refresh this process's entries, and retry removals that failed."""
        await self._entries.refresh()

    async def reap(self) -> None:
        """Announce the events that are due in any group, of all processes."""
        due_in: float | None = 0.0
        while due_in is not None and due_in <= 0:
            try:
                events, due_in = await self._store.reap(_REAP_LIMIT)
            except LayerUnavailable as error:
                self._schedule.store_lost(error)
                self._schedule.retry_reap()
                return
            self._announcer.put(events)
        self._schedule.reaped(due_in)
