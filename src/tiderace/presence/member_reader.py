"""Reads the members of groups, one read for all callers that wait."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Mapping

from tiderace.presence.store import Member, PresenceStore


class MemberReader:
    """Reads the members of groups, one read of a group at a time.

    All calls during a read share the next one, so a thousand clients that connect at
    once cost a few reads. A reader belongs to one event loop.

    Args:
        store: where the members are.
    """

    def __init__(self, store: PresenceStore) -> None:
        self._store = store
        # The read that is running and the one after it; by group and ``per_user``.
        self._running: dict[tuple[str, bool], asyncio.Task[Mapping[str, Member]]] = {}
        self._next: dict[tuple[str, bool], asyncio.Task[Mapping[str, Member]]] = {}

    async def read(self, group: str, *, per_user: bool) -> Mapping[str, Member]:
        """Return the members, read after this call; shared, not to be changed.

        Raises:
            LayerUnavailable: when the store could not be reached in time.
        """
        key = group, per_user
        task = self._next.get(key)
        if task is None:
            # A copy of the context would keep the first caller's request alive.
            task = self._next[key] = asyncio.get_running_loop().create_task(
                self._read(key), context=contextvars.Context()
            )
            # All callers may be cancelled; asyncio would then log the error.
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(task)

    async def _read(self, key: tuple[str, bool]) -> Mapping[str, Member]:
        mine = self._next[key]
        if (before := self._running.get(key)) is not None:
            await asyncio.wait([before])
        # Later calls need a later read.
        del self._next[key]
        self._running[key] = mine
        try:
            return await self._store.members(key[0], per_user=key[1])
        finally:
            if self._running.get(key) is mine:
                del self._running[key]

    async def stop(self) -> None:
        """Cancel all reads, and the calls that wait for them."""
        tasks = [*self._next.values(), *self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._next.clear()
