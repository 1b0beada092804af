"""The contract of a presence store, its values, and several stores as one.

Entries expire unless they are refreshed, so those of a killed process are removed. Each
event is returned to one process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import msgspec

from tiderace import conf

T = TypeVar("T")


class Member(msgspec.Struct, frozen=True):
    """A member of a group: a connection, or a user with all their connections.

    Args:
        client: the presence id. A connection is added under its own; for a user the
            store makes one at their join, which is never used again.
        user: id of the user; empty for an anonymous connection.
        info: what other members see, as JSON text; a user's is that of their first
            connection.
    """

    client: str
    user: str
    info: str | None = None


class PresenceConfig(msgspec.Struct, frozen=True):
    """Times and limits of a store; the same in all processes of a fleet.

    Args:
        ttl: seconds an entry lasts without a refresh; 60, more than twice the interval
            between two refreshes.
        lease: seconds in which a claimed event must be confirmed before another
            process gets it; 30.
        pushes: join and leave pushes that a group may cause each second, over all its
            connections together; 0 for no limit. Further ones are coalesced into one
            notice at the end of the second (or later, if that notice itself costs
            more than a second's pushes).
    """

    ttl: float = 60.0
    lease: float = 30.0
    pushes: int = 10_000

    @classmethod
    def from_settings(cls) -> PresenceConfig:
        """Return the configuration in ``settings.TIDERACE``."""
        now = conf.current()
        return cls(now.presence_ttl, now.presence_lease, now.presence_pushes)


class PresenceEvent(msgspec.Struct, frozen=True):
    """A join or leave, returned to the one process that announces it.

    Args:
        group: where it happened.
        kind: ``"join"`` or ``"leave"``.
        member: the user or connection.
        push: whether to push the event to the members. False beyond
            ``PresenceConfig.pushes``, and for users where connections are announced.
        changed_in: seconds after which to push one "changed" notice, in place of this
            event and of all others that are not pushed until then; None when there is
            no such notice to send, or another process has it to send.
        claim: set for the first connection and the last departure of a user, for which
            the application's hook is called: the event must be confirmed within the
            lease, or another process gets it. Empty for all others.
    """

    group: str
    kind: Literal["join", "leave"]
    member: Member
    push: bool = True
    changed_in: float | None = None
    claim: str = ""


class ReapResult(NamedTuple):
    """The result of ``reap``: the events, and when to call it again."""

    events: list[PresenceEvent]
    due_in: float | None
    """Seconds until something may be due; None when nothing is scheduled."""


class PresenceStats(NamedTuple):
    """The number of members of a group."""

    clients: int
    """Connections."""
    users: int
    """Users; each anonymous connection counts as one more."""


class PresenceStore(Protocol):
    """The members of all groups, for all processes of a fleet.

    A user is present from their first connection until ``grace`` seconds after the
    last one was removed; a return before that causes no event. Guaranteed: the presence
    id of a user is never used again; at most one event of a user in a group is claimed
    at a time, so their joins and leaves are handled in order across processes; an
    event whose claim is not confirmed is returned to another process.

    Raises (all coroutines):
        LayerUnavailable: when the storage could not be reached in time.
    """

    config: PresenceConfig

    async def add(
        self,
        group: str,
        member: Member,
        *,
        per_user: bool,
        grace: float,
        stayed: bool = False,
    ) -> list[PresenceEvent]:
        """Add a connection to a group, or refresh it when it is there.

        Args:
            group: its name.
            member: the connection. While it is in the group it keeps its user.
            per_user: whether users are announced, or every connection.
            grace: seconds the user stays present after their last connection; 0 is
                used for an anonymous one, which cannot be recognised when it returns.
            stayed: whether it was there all the time, and the store has lost it: it
                causes no join.

        Returns:
            The join of this connection or user, if it is one. It has a claim when this
            is the user's first connection in the group.
        """

    async def remove(self, group: str, client: str) -> list[PresenceEvent]:
        """Remove a connection from a group; without effect when it is not there.

        Returns:
            The leave of this connection, or, without a grace, of its user; with a
            grace, ``reap`` returns it when the grace is over.
        """

    async def refresh(
        self, clients: Mapping[str, Collection[str]]
    ) -> list[tuple[str, str]]:
        """Let the connections, by group, last for another ``ttl``.

        Returns:
            Group and connection of those that are not in the store.
        """

    async def members(self, group: str, *, per_user: bool) -> dict[str, Member]:
        """Return the members by presence id: users, or connections."""

    async def stats(self, group: str) -> PresenceStats:
        """Return the number of members, without reading them."""

    async def reap(self, limit: int) -> ReapResult:
        """Return what is due in any group: expired entries, graces and claims.

        Cheap when nothing is due. ``limit`` is about how many entries are handled for
        each group; when more are due, ``due_in`` is 0.
        """

    async def confirm(self, event: PresenceEvent) -> list[PresenceEvent]:
        """Confirm that the application's hook has run; return the user's next event.

        Without effect when the claim has lapsed and another process has it.
        """


class ShardedPresence:
    """Several stores as one, each with its share of the groups.

    Args:
        stores: in the order of the brokers, at least one.
        index: returns the index of a group's store.
    """

    def __init__(
        self, stores: Sequence[PresenceStore], index: Callable[[str], int]
    ) -> None:
        self._stores = stores
        self._index = index
        self.config = stores[0].config

    def _of(self, group: str) -> PresenceStore:
        return self._stores[self._index(group)]

    async def add(
        self, group: str, member: Member, **options: Any
    ) -> list[PresenceEvent]:
        return await self._of(group).add(group, member, **options)

    async def remove(self, group: str, client: str) -> list[PresenceEvent]:
        return await self._of(group).remove(group, client)

    async def refresh(
        self, clients: Mapping[str, Collection[str]]
    ) -> list[tuple[str, str]]:
        """Refresh in all stores that can be reached, then raise for the others."""
        shares: dict[int, dict[str, Collection[str]]] = {}
        for group, some in clients.items():
            shares.setdefault(self._index(group), {})[group] = some
        done, failures = await _gather(
            self._stores[index].refresh(share) for index, share in shares.items()
        )
        if failures:
            # The next refresh finds the same connections missing.
            raise failures[0]
        return [each for missing in done for each in missing]

    async def members(self, group: str, *, per_user: bool) -> dict[str, Member]:
        return await self._of(group).members(group, per_user=per_user)

    async def stats(self, group: str) -> PresenceStats:
        return await self._of(group).stats(group)

    async def reap(self, limit: int) -> ReapResult:
        """Reap in all stores that can be reached."""
        done, failures = await _gather(store.reap(limit) for store in self._stores)
        events = [event for result in done for event in result.events]
        if failures and not events:
            raise failures[0]
        if failures:
            # These events are returned only once; the next call raises the error.
            return ReapResult(events, 0.0)
        times = [result.due_in for result in done if result.due_in is not None]
        return ReapResult(events, min(times, default=None))

    async def confirm(self, event: PresenceEvent) -> list[PresenceEvent]:
        return await self._of(event.group).confirm(event)


async def _gather(
    calls: Iterable[Coroutine[Any, Any, T]],
) -> tuple[list[T], list[BaseException]]:
    """Run all calls to their end; return the results and the errors."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    return (
        [each for each in results if not isinstance(each, BaseException)],
        [each for each in results if isinstance(each, BaseException)],
    )
