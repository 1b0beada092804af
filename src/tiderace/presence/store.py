"""Who is present in a group: what a store of that must offer, and its values.

Entries live under leases, so what a killed process leaves behind goes away, and what
is to be told about it is told once. It knows no wire, no topic and no event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

__all__ = [
    "Member",
    "PresenceConfig",
    "PresenceEvent",
    "PresenceStats",
    "PresenceStore",
    "ReapResult",
    "ShardedPresence",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody in a group: a connection, or a user with all of theirs.

    Args:
        client: the presence id. Of a connection what it entered under; of a user one
            that the store made when they came, and that nobody ever has again.
        user: whose it is; empty for somebody who is not logged in.
        info: what to show of them, as JSON text; a user's is their first connection's.
    """

    client: str
    user: str
    info: str | None = None


@dataclass(frozen=True, slots=True)
class PresenceConfig:
    """What all entries have in common; the same in every process of a fleet.

    Args:
        ttl: seconds an entry lasts without being renewed; 60, twice the time between
            two renewals and some.
        lease: seconds in which a claimed notice must be confirmed before somebody
            else gets it; 30.
        pushes: how many join and leave pushes a group may cause each second, over all
            its connections together; 0 for no limit. Beyond, they are gathered into
            one notice at the end of the second (or of as long as that one costs).
    """

    ttl: float = 60.0
    lease: float = 30.0
    pushes: int = 10_000


@dataclass(frozen=True, slots=True)
class PresenceEvent:
    """Something about a group that whoever gets this is to tell; nobody else gets it.

    Args:
        group: where it happened.
        event: what happened.
        member: to whom.
        push: whether the members are to hear of it. False as well for that side of a
            change which is not told in this way of counting.
        changed_in: seconds after which the members are to hear that much has changed,
            in place of this and of all that is not pushed meanwhile; None when
            somebody else has been given that to do, or nobody need.
        claim: given for a user's first connection and last departure, of which the
            application is to know: the notice must be confirmed within the lease,
            else another process gets it. Empty for all others.
    """

    group: str
    event: Literal["join", "leave"]
    member: Member
    push: bool = True
    changed_in: float | None = None
    claim: str = ""


class ReapResult(NamedTuple):
    """What ``reap`` found, and when to look again."""

    notices: list[PresenceEvent]
    again: float | None
    """Seconds until something may be due; None when there is nothing at all."""


class PresenceStats(NamedTuple):
    """How many are present."""

    clients: int
    """Connections."""
    users: int
    """Users; everybody who is not logged in counts as one more."""


class PresenceStore(Protocol):
    """Who is present in which group, for all processes of a fleet.

    A user is present from their first connection until ``grace`` seconds after the
    last one has gone; coming back before that is silent. Guaranteed: the presence id
    of a user is never given again; at most one notice with a claim is out for a user
    of a group, so that their joins and leaves are handled in order wherever that
    happens; a claim that nobody confirms is given to somebody else.

    Raises (all coroutines):
        LayerUnavailable: when what holds the entries could not be reached in time.
    """

    async def enter(
        self,
        group: str,
        member: Member,
        *,
        per_user: bool,
        grace: float,
        rules: PresenceConfig,
    ) -> list[PresenceEvent]:
        """Put a connection into a group; again, it only lasts longer.

        Args:
            group: where.
            member: who. A connection that has entered keeps its user.
            per_user: whether users are announced, or every connection.
            grace: seconds the user stays present after their last connection; none
                for somebody who is not logged in, since they cannot be known again.
            rules: see ``PresenceConfig``.

        Returns:
            The join of this connection or user, when it is one. It holds a claim when
            this is the user's first connection in the group.
        """

    async def leave(
        self, group: str, client: str, *, rules: PresenceConfig
    ) -> list[PresenceEvent]:
        """Take a connection out of a group; nothing when it is not in it.

        Returns:
            The leave of this connection, or, without a grace, of its user; with one,
            ``reap`` hands it out when the grace is over.
        """

    async def renew(
        self, clients: Mapping[str, Collection[str]], *, rules: PresenceConfig
    ) -> list[tuple[str, str]]:
        """Let the connections, by group, last for another ``ttl``.

        Returns:
            Group and connection of those that are not known any more.
        """

    async def members(self, group: str, *, per_user: bool) -> dict[str, Member]:
        """Who is present, by presence id: users, or connections."""

    async def stats(self, group: str) -> PresenceStats:
        """How many are present, without reading who."""

    async def reap(self, limit: int, *, rules: PresenceConfig) -> ReapResult:
        """What is due in any group: entries not renewed, graces over, claims lapsed.

        Cheap when nothing is. ``limit`` is how many entries it deals with at most, for
        each group or somewhat more; when that many were found it is to be called again.
        """

    async def confirm(
        self, notice: PresenceEvent, *, rules: PresenceConfig
    ) -> list[PresenceEvent]:
        """The application knows; what is next to be told about the same user, if any.

        Nothing happens when the claim has lapsed and somebody else has it.
        """


class ShardedPresence:
    """Several stores as one, each with its share of the groups.

    Args:
        stores: in the order of the brokers.
        index: which of them a group belongs to.
    """

    def __init__(
        self, stores: Sequence[PresenceStore], index: Callable[[str], int]
    ) -> None:
        self._stores = stores
        self._index = index

    def _of(self, group: str) -> PresenceStore:
        return self._stores[self._index(group)]

    async def enter(
        self,
        group: str,
        member: Member,
        *,
        per_user: bool,
        grace: float,
        rules: PresenceConfig,
    ) -> list[PresenceEvent]:
        """See ``PresenceStore.enter``."""
        return await self._of(group).enter(
            group, member, per_user=per_user, grace=grace, rules=rules
        )

    async def leave(
        self, group: str, client: str, *, rules: PresenceConfig
    ) -> list[PresenceEvent]:
        """See ``PresenceStore.leave``."""
        return await self._of(group).leave(group, client, rules=rules)

    async def renew(
        self, clients: Mapping[str, Collection[str]], *, rules: PresenceConfig
    ) -> list[tuple[str, str]]:
        """See ``PresenceStore.renew``; all that can be reached are renewed."""
        shares: dict[int, dict[str, Collection[str]]] = {}
        for group, some in clients.items():
            shares.setdefault(self._index(group), {})[group] = some
        done, failures = await _all(
            self._stores[index].renew(share, rules=rules)
            for index, share in shares.items()
        )
        if failures:
            # Who was found forgotten still is the next time.
            raise failures[0]
        return [each for forgotten in done for each in forgotten]

    async def members(self, group: str, *, per_user: bool) -> dict[str, Member]:
        """See ``PresenceStore.members``."""
        return await self._of(group).members(group, per_user=per_user)

    async def stats(self, group: str) -> PresenceStats:
        """See ``PresenceStore.stats``."""
        return await self._of(group).stats(group)

    async def reap(self, limit: int, *, rules: PresenceConfig) -> ReapResult:
        """See ``PresenceStore.reap``; of all stores that can be reached."""
        done, failures = await _all(
            store.reap(limit, rules=rules) for store in self._stores
        )
        notices = [notice for reaped in done for notice in reaped.notices]
        if failures and not notices:
            raise failures[0]
        if failures:
            # What was handed out must be told; the next call says what is wrong.
            return ReapResult(notices, 0.0)
        times = [reaped.again for reaped in done if reaped.again is not None]
        return ReapResult(notices, min(times, default=None))

    async def confirm(
        self, notice: PresenceEvent, *, rules: PresenceConfig
    ) -> list[PresenceEvent]:
        """See ``PresenceStore.confirm``."""
        return await self._of(notice.group).confirm(notice, rules=rules)


async def _all(
    calls: Iterable[Coroutine[Any, Any, T]],
) -> tuple[list[T], list[BaseException]]:
    """What the calls returned, and what they raised; none hinders another."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    return (
        [each for each in results if not isinstance(each, BaseException)],
        [each for each in results if isinstance(each, BaseException)],
    )
