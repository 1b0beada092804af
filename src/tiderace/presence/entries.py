"""The connections of one process in the groups of a store."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from dataclasses import dataclass

from msgspec.structs import replace

from tiderace import metrics
from tiderace.exceptions import LayerUnavailable
from tiderace.presence.announcer import PresenceAnnouncer
from tiderace.presence.schedule import RETRY_DELAY, PresenceSchedule
from tiderace.presence.store import Member, PresenceStore
from tiderace.runtime.tasks import WorkerPool

logger = logging.getLogger("tiderace.topics")

_ADDED_AT_ONCE = 50
_REMOVED_AT_ONCE = 32
_REMEMBERED_IDS = 20_000  # removed presence ids, which must not be used again


@dataclass(slots=True)
class _Entry:
    """One connection of this process in one group."""

    member: Member  # under its current presence id
    per_user: bool
    grace: float
    adding: bool = True  # until the store has answered


class LocalEntries:
    """Adds the connections of this process to a store, refreshes and removes them.

    While the store cannot be reached, adding fails and removals wait. Entries that the
    store has lost are added again by the next refresh.

    Args:
        store: where the entries are.
        announcer: announces the events that the store returns.
        schedule: records whether the store can be reached.
    """

    def __init__(
        self,
        store: PresenceStore,
        announcer: PresenceAnnouncer,
        schedule: PresenceSchedule,
    ) -> None:
        self._store = store
        self._announcer = announcer
        self._schedule = schedule
        self._entries: dict[tuple[str, str], _Entry] = {}
        # Entries to remove from the store: the grace by group and presence id.
        self._leaving: dict[tuple[str, str], float] = {}
        self.leave_workers = WorkerPool(
            self._remove_queued, _REMOVED_AT_ONCE, logger=logger
        )
        self._used_ids: OrderedDict[tuple[str, str], None] = OrderedDict()
        # When the last refresh that succeeded was begun.
        self._refreshed_at = schedule.now()

    async def add(
        self, group: str, member: Member, *, per_user: bool, grace: float
    ) -> None:
        """Add a connection; without effect when it is there.

        Raises:
            LayerUnavailable: when the store could not be reached in time. The
                connection is not in the group then.
        """
        key = group, member.client
        if key in self._entries:
            return
        if key in self._used_ids:
            member = _with_new_id(member)
        entry = _Entry(member, per_user, grace)
        self._entries[key] = entry
        try:
            await self._add_to_store(key, entry)
        except BaseException:
            if self._entries.get(key) is entry:
                del self._entries[key]
            # The store may have added it in spite of the error.
            self._remove_soon(group, entry)
            raise

    def remove(self, group: str, client: str) -> None:
        """Remove a connection, if it is there; from the store in the background."""
        key = group, client
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._used_ids[key] = None
        if len(self._used_ids) > _REMEMBERED_IDS:
            self._used_ids.popitem(last=False)
        if not entry.adding:  # else _add_to_store() removes it when the store answers
            self._remove_soon(group, entry)

    def remove_all(self) -> None:
        """Remove all connections."""
        for group, client in list(self._entries):
            self.remove(group, client)

    async def refresh(self) -> None:
        """Refresh all entries, and retry removals that failed."""
        clients: dict[str, list[str]] = {}
        sent: dict[tuple[str, str], tuple[tuple[str, str], _Entry]] = {}
        for key, entry in self._entries.items():
            if not entry.adding:
                clients.setdefault(key[0], []).append(entry.member.client)
                sent[key[0], entry.member.client] = key, entry
        begun = self._schedule.now()
        try:
            missing = [sent[each] for each in await self._store.refresh(clients)]
        except LayerUnavailable as error:
            self._schedule.store_lost(error)
            return
        # An entry lasts longer in the store than since then, so it was not reaped.
        stayed = begun - self._refreshed_at < self._store.config.ttl
        self._refreshed_at = begun
        self._schedule.refreshed()
        for leaving in list(self._leaving):
            self.leave_workers.put(leaving)
        # Others may have been removed while the store answered.
        missing = [each for each in missing if self._entries.get(each[0]) is each[1]]
        if missing:
            await self._add_missing(missing, stayed=stayed)

    async def _add_to_store(
        self, key: tuple[str, str], entry: _Entry, *, stayed: bool = False
    ) -> None:
        group = key[0]
        try:
            events = await self._store.add(
                group,
                entry.member,
                per_user=entry.per_user,
                grace=entry.grace,
                stayed=stayed,
            )
        finally:
            entry.adding = False
        self._announcer.put(events)
        if self._entries.get(key) is not entry:
            self._remove_soon(group, entry)

    async def _add_missing(
        self, entries: list[tuple[tuple[str, str], _Entry]], *, stayed: bool
    ) -> None:
        """Add entries again that the store has reaped, or lost if they ``stayed``."""
        metrics.PRESENCE_FORGOTTEN.add(len(entries))
        logger.warning(
            "the presence store had lost connections, which are added again: %d",
            len(entries),
        )
        for start in range(0, len(entries), _ADDED_AT_ONCE):
            some = entries[start : start + _ADDED_AT_ONCE]
            if not all(
                await asyncio.gather(
                    *(self._add_again(*each, stayed=stayed) for each in some)
                )
            ):
                return  # the next refresh finds the others missing again

    async def _add_again(
        self, key: tuple[str, str], entry: _Entry, *, stayed: bool
    ) -> bool:
        if self._entries.get(key) is not entry:
            return True
        if not stayed and not (entry.per_user and entry.member.user):
            # Clients may have got its leave, after which an id is not used again.
            entry.member = _with_new_id(entry.member)
        entry.adding = True
        # Members read in the meantime are incomplete.
        self._schedule.announce_change_in(key[0], RETRY_DELAY)
        try:
            await self._add_to_store(key, entry, stayed=stayed)
        except LayerUnavailable as error:
            self._schedule.store_lost(error)
            if self._entries.get(key) is not entry:
                self._remove_soon(key[0], entry)
            return False
        return True

    def _remove_soon(self, group: str, entry: _Entry) -> None:
        leaving = group, entry.member.client
        self._leaving[leaving] = entry.grace
        if not self._schedule.store_away:  # else the next refresh queues it
            self.leave_workers.put(leaving)

    async def _remove_queued(self, leaving: tuple[str, str]) -> None:
        if leaving not in self._leaving:
            return
        try:
            events = await self._store.remove(*leaving)
        except LayerUnavailable as error:
            self._schedule.store_lost(error)
            return
        grace = self._leaving.pop(leaving, 0.0)
        self._announcer.put(events)
        if grace:
            self._schedule.reap_in(grace)


def _with_new_id(member: Member) -> Member:
    client = member.client.partition("~")[0]
    return replace(member, client=f"{client}~{secrets.token_hex(4)}")
