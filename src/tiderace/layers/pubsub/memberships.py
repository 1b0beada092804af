"""Announces the group memberships of this process to the brokers."""

from __future__ import annotations

from concurrent.futures import Future

from tiderace.layers.local import LocalChannels
from tiderace.layers.pubsub.brokers import Brokers
from tiderace.runtime.futures import wait_future


class Memberships:
    """Announces joins and leaves of channels to each broker, and renews them.

    May be used in any thread and event loop.

    Args:
        brokers: the brokers.
        local: the groups of this process; its lock is held for every change.
        lease: seconds after which an announcement expires.
    """

    def __init__(self, brokers: Brokers, local: LocalChannels, *, lease: float) -> None:
        self._brokers = brokers
        self._process = local.process
        self._hub = local.hub
        self._lock = local.lock
        self._clock = local.clock
        self._lease = lease
        # Joins and leaves that are not announced yet, by group and channel.
        self._changes: dict[tuple[str, str], bool] = {}
        # The announcements that are being made, by broker.
        self._announcing: dict[int, Future[None]] = {}
        # When this process was last renewed, by broker.
        self._renewed_at: dict[int, float] = {}

    @property
    def pending(self) -> int:
        """The number of changes that have not been announced yet."""
        return len(self._changes)

    def add_change(self, group: str, channel: str, *, joined: bool) -> None:
        """Announce later that a channel has joined or left."""
        self._changes[group, channel] = joined

    def clear(self) -> None:
        """Drop the changes that are not announced yet."""
        self._changes.clear()

    def renew_soon(self, index: int) -> None:
        """Renew with the next ``renew``: the broker may have lost its data."""
        self._renewed_at[index] = float("-inf")

    async def announce(self, index: int) -> None:
        """Announce the changes since the last time to a broker.

        Raises:
            LayerUnavailable: when the broker could not be reached; the changes are
                announced the next time.
        """
        while True:
            with self._lock:
                running = self._announcing.get(index)
                if running is None:
                    changes = {
                        key: joined
                        for key, joined in self._changes.items()
                        if self._brokers.index_of(key[0]) == index
                    }
                    if not changes:
                        return
                    for key in changes:
                        del self._changes[key]
                    done = self._announcing[index] = Future()
                    break
            # One at a time: a leave must not overtake its join.
            await wait_future(running)
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
        """Renew the announcements when a third of their lease is over.

        Memberships that the broker has lost are announced again.

        Raises:
            LayerUnavailable: when the broker could not be reached; the next call tries
                again.
        """
        now = self._clock()
        if now - self._renewed_at.setdefault(index, now) < self._lease / 3:
            return
        self._renewed_at[index] = now
        try:
            lost = await self._brokers[index].memberships.refresh(
                self._process, self._groups_of(index), lease=self._lease
            )
        except BaseException:
            self.renew_soon(index)
            raise
        with self._lock:
            for group in lost:
                for mailbox in self._hub.members(group):
                    self._changes.setdefault((group, mailbox.name), True)

    async def withdraw(self, index: int) -> None:
        """Withdraw everything that was announced to a broker.

        Raises:
            LayerUnavailable: when the broker could not be reached.
        """
        await self._brokers[index].memberships.remove_process(
            self._process, self._groups_of(index)
        )

    def _groups_of(self, index: int) -> list[str]:
        return self._brokers.select(index, list(self._hub.groups))
