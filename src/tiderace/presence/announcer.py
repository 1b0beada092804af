"""Announces joins and leaves to the clients and to the application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal

from tiderace import metrics
from tiderace.exceptions import LayerUnavailable
from tiderace.presence.schedule import RETRY_DELAY, PresenceSchedule
from tiderace.presence.store import Member, PresenceEvent, PresenceStore
from tiderace.runtime.tasks import WorkerPool

logger = logging.getLogger("tiderace.topics")

Announce = Callable[
    [str, Literal["join", "leave", "changed"], Member | None], Awaitable[None]
]
Hook = Callable[[str, Literal["joined", "left"], str], Awaitable[None]]

_ANNOUNCE_WORKERS = 8
_HOOKS_AT_ONCE = 8


class PresenceAnnouncer:
    """Handles the events of a store: pushes each to clients, then calls the hook.

    An event that is not handled within half of its lease is dropped: another process
    gets it when the lease ends, and a hook that goes on for the whole lease is cancelled.
    The arguments are those of ``PresenceTracker``.
    """

    def __init__(
        self,
        store: PresenceStore,
        announce: Announce,
        hook: Hook | None,
        schedule: PresenceSchedule,
    ) -> None:
        self._store = store
        self._announce = announce
        self._hook = hook
        self._schedule = schedule
        # A group has one worker, so that no leave overtakes its join.
        self._announce_workers = [
            WorkerPool(self._announce_queued, 1, logger=logger)
            for _ in range(_ANNOUNCE_WORKERS)
        ]
        self._hook_workers = WorkerPool(self._run_hook, _HOOKS_AT_ONCE, logger=logger)

    @property
    def workers(self) -> list[WorkerPool[Any]]:
        """The worker pools."""
        return [*self._announce_workers, self._hook_workers]

    def put(self, events: Iterable[PresenceEvent]) -> None:
        """Queue events of the store."""
        for event in events:
            self._put(event.group, event)

    def put_changes(self, groups: Iterable[str]) -> None:
        """Queue a "changed" notice for each group."""
        for group in groups:
            self._put(group, None)

    def _put(self, group: str, event: PresenceEvent | None) -> None:
        give_up_at = self._schedule.now() + self._store.config.lease / 2
        worker = self._announce_workers[hash(group) % _ANNOUNCE_WORKERS]
        worker.put((group, event, give_up_at))

    async def _announce_queued(
        self, queued: tuple[str, PresenceEvent | None, float]
    ) -> None:
        group, event, give_up_at = queued
        if event is None:
            await self._announce_to_clients(group, "changed", None)
            return
        if event.claim and self._schedule.now() > give_up_at:
            return
        if event.changed_in is not None:
            metrics.PRESENCE_GATHERED.add()
            self._schedule.announce_change_in(group, event.changed_in)
        announced = not event.push or await self._announce_to_clients(
            group, event.kind, event.member
        )
        if event.claim and announced:
            self._hook_workers.put((event, give_up_at))

    async def _announce_to_clients(
        self,
        group: str,
        kind: Literal["join", "leave", "changed"],
        member: Member | None,
    ) -> bool:
        try:
            await self._announce(group, kind, member)
        except LayerUnavailable as error:
            self._schedule.store_lost(error)
        except Exception:
            logger.exception("telling %r that there is a %s failed", group, kind)
        else:
            return True
        # Clients that missed the event read the members again.
        self._schedule.announce_change_in(group, RETRY_DELAY)
        return False

    async def _run_hook(self, queued: tuple[PresenceEvent, float]) -> None:
        event, give_up_at = queued
        if self._schedule.now() > give_up_at:
            return
        user = event.member.user
        if user and self._hook is not None:
            kind: Literal["joined", "left"] = (
                "joined" if event.kind == "join" else "left"
            )
            lease = self._store.config.lease
            in_time = asyncio.timeout(lease)
            try:
                async with in_time:
                    await self._hook(event.group, kind, user)
            except Exception:
                if in_time.expired():
                    logger.warning(
                        "the hook for user %r having %s %r goes on after %g s, and is "
                        "cancelled and called again; shorten it, or raise "
                        "TIDERACE['PRESENCE_LEASE']",
                        user,
                        kind,
                        event.group,
                        lease,
                    )
                    return
                logger.exception(
                    "the hook for user %r having %s %r failed; it is not tried again",
                    user,
                    kind,
                    event.group,
                )
        try:
            self.put(await self._store.confirm(event))
        except LayerUnavailable as error:
            self._schedule.store_lost(error)
