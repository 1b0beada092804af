"""Lists of who is present, read so that a crowd that asks at once costs a few reads.

It knows a store, and nothing of what changes the lists.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Mapping

from tiderace.presence.store import Member, PresenceStore

__all__ = ["PresenceReader"]


class PresenceReader:
    """Reads one list of a group after the other, for all who have asked meanwhile.

    It belongs to one event loop.

    Args:
        store: where the lists are.
    """

    def __init__(self, store: PresenceStore) -> None:
        self._store = store
        # Being read, and to be read once that is done; by group and way of counting.
        self._reading: dict[tuple[str, bool], asyncio.Task[Mapping[str, Member]]] = {}
        self._asked: dict[tuple[str, bool], asyncio.Task[Mapping[str, Member]]] = {}

    async def read(self, group: str, *, per_user: bool) -> Mapping[str, Member]:
        """Who is in a group, as of some time after the call; shared, not to be changed.

        Raises:
            LayerUnavailable: when the store could not be reached in time.
        """
        which = group, per_user
        asked = self._asked.get(which)
        if asked is None:
            # A copy of the context would keep the request or socket that came first.
            asked = self._asked[which] = asyncio.get_running_loop().create_task(
                self._read(which), context=contextvars.Context()
            )
            # All who wait for it may be cancelled.
            asked.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(asked)

    async def _read(self, which: tuple[str, bool]) -> Mapping[str, Member]:
        mine = self._asked[which]
        if (before := self._reading.get(which)) is not None:
            await asyncio.wait([before])
        # Whoever asks from now on has to see what happens from now on.
        del self._asked[which]
        self._reading[which] = mine
        try:
            return await self._store.members(which[0], per_user=which[1])
        finally:
            if self._reading.get(which) is mine:
                del self._reading[which]

    async def stop(self) -> None:
        """Give up what is being read, and whoever waits for it."""
        tasks = [*self._asked.values(), *self._reading.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._asked.clear()
