"""Who is in which group in this process, as its brokers have been told.

It knows the brokers' verbs for that and the hub's groups, and no message.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from tiderace.delivery.hub import Hub
from tiderace.layers.broker import Broker
from tiderace.layers.local import Box
from tiderace.runtime.futures import wait_future

__all__ = ["Memberships"]


class Memberships:
    """Tells each broker who joined and left here, and that it is still so.

    May be used in any thread and event loop.

    Args:
        process: under which name.
        brokers: who are told.
        index_of: which of them serves a group.
        hub: who is in which group.
        lease: seconds after which what was told no longer counts.
        clock: seconds that never run backwards.
        lock: held by whoever changes a membership, and for the changes here.
    """

    def __init__(
        self,
        process: str,
        brokers: Sequence[Broker],
        *,
        index_of: Callable[[str], int],
        hub: Hub[Box],
        lease: float,
        clock: Callable[[], float],
        lock: threading.RLock,
    ) -> None:
        self._process = process
        self._brokers = brokers
        self._index_of = index_of
        self._hub = hub
        self._lease = lease
        self._clock = clock
        self._lock = lock
        # Who joined or left since it was last announced, and who is announcing, by broker.
        self._changes: dict[tuple[str, str], bool] = {}
        self._announcing: dict[int, Future[None]] = {}
        # When each broker was last told that this process lives.
        self._renewed: dict[int, float] = {}

    @property
    def pending(self) -> int:
        """How many changes have not been announced yet."""
        return len(self._changes)

    def note(self, group: str, channel: str, *, joined: bool) -> None:
        """A channel has joined or left; to be announced."""
        self._changes[group, channel] = joined

    def clear(self) -> None:
        """Forget what was to be announced."""
        self._changes.clear()

    def doubt(self, index: int) -> None:
        """That broker may be another server now, or one that has forgotten us."""
        self._renewed[index] = float("-inf")

    async def make(self, index: int) -> None:
        """Tell a broker who joined and left here since the last time.

        Raises:
            LayerUnavailable: when it could not be told; it still is to be.
        """
        while True:
            with self._lock:
                busy = self._announcing.get(index)
                if busy is None:
                    changes = {
                        key: joined
                        for key, joined in self._changes.items()
                        if self._index_of(key[0]) == index
                    }
                    if not changes:
                        return
                    for key in changes:
                        del self._changes[key]
                    done = self._announcing[index] = Future()
                    break
            # One after the other, for a leave must not overtake its join.
            await wait_future(busy)
        try:
            await self._brokers[index].memberships.announce(
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

    async def renew(self, index: int) -> None:
        """Keep what was announced, when a third of its lease is over.

        What the broker has forgotten is to be announced anew.

        Raises:
            LayerUnavailable: when it could not be told; the next call tries again.
        """
        now = self._clock()
        if now - self._renewed.setdefault(index, now) < self._lease / 3:
            return
        self._renewed[index] = now
        try:
            lost = await self._brokers[index].memberships.refresh(
                self._process, self._groups_of(index), lease=self._lease
            )
        except BaseException:
            self.doubt(index)
            raise
        with self._lock:
            for group in lost:
                for box in self._hub.members(group):
                    self._changes.setdefault((group, box.name), True)

    async def withdraw(self, index: int) -> None:
        """Let nobody count as being in a group here any more.

        Raises:
            LayerUnavailable: when the broker could not be told.
        """
        await self._brokers[index].memberships.remove_process(
            self._process, self._groups_of(index)
        )

    def _groups_of(self, index: int) -> list[str]:
        return [
            each for each in list(self._hub.groups) if self._index_of(each) == index
        ]
