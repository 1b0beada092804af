"""A presence store in the memory of one process.

The reference implementation of ``PresenceStore``: the scripts for Redis follow the same
rules, in the same terms.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from msgspec.structs import replace

from tiderace.presence.store import (
    Member,
    PresenceConfig,
    PresenceEvent,
    PresenceStats,
    ReapResult,
)


@dataclass(slots=True)
class _Connection:
    """A connection in a group."""

    identity: str
    member: Member
    per_user: bool
    grace: float
    expires_at: float


@dataclass(slots=True)
class _User:
    """A user who is present, or whose leave has not been returned yet."""

    member: Member
    per_user: bool
    connections: int = 0
    gone_at: float = 0.0  # the end of the grace, when there is no connection
    confirmed: bool = False  # whether their join has been confirmed


@dataclass(slots=True)
class _Claim:
    """An event about a user that has been returned and not confirmed yet."""

    kind: Literal["join", "leave"]
    member: Member
    per_user: bool
    token: str = ""
    expires_at: float = 0.0


class _Moment(NamedTuple):
    """The time of a call, and the times and limits of the store."""

    now: float
    config: PresenceConfig


class MemoryPresenceStore:
    """A ``PresenceStore`` in this process; safe for several threads and event loops.

    Args:
        config: times and limits.
        clock: seconds that never run backwards; for tests.
    """

    def __init__(
        self,
        config: PresenceConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self._clock = clock
        self._groups: dict[str, _Group] = {}
        # Nothing is due before this time.
        self._due = math.inf
        self._lock = threading.Lock()

    async def add(
        self,
        group: str,
        member: Member,
        *,
        per_user: bool,
        grace: float,
        stayed: bool = False,
    ) -> list[PresenceEvent]:
        with self._lock:
            found = self._groups.get(group)
            if found is None:
                found = self._groups[group] = _Group(group)
            events = found.add(self._moment(), member, per_user, grace, stayed)
            self._reschedule(found)
            return events

    async def remove(self, group: str, client: str) -> list[PresenceEvent]:
        with self._lock:
            found = self._groups.get(group)
            if found is None:
                return []
            events = found.remove(self._moment(), client)
            self._reschedule(found)
            return events

    async def refresh(
        self, clients: Mapping[str, Collection[str]]
    ) -> list[tuple[str, str]]:
        missing: list[tuple[str, str]] = []
        with self._lock:
            expires_at = self._clock() + self.config.ttl
            for name, some in clients.items():
                known: set[str] = set()
                if (group := self._groups.get(name)) is not None:
                    known = group.refresh(some, expires_at)
                    self._reschedule(group)
                missing += [(name, each) for each in some if each not in known]
        return missing

    async def members(self, group: str, *, per_user: bool) -> dict[str, Member]:
        with self._lock:
            found = self._groups.get(group)
            if found is None:
                return {}
            present = (found.users_at if per_user else found.clients_at)(self._clock())
            return {member.client: member for member in present}

    async def stats(self, group: str) -> PresenceStats:
        """Return the number of members; users who are due to be reaped still count."""
        with self._lock:
            found = self._groups.get(group)
            if found is None:
                return PresenceStats(0, 0)
            now = self._clock()
            # No connection has expired before anything is due.
            clients = found.connections if now < found.due else found.clients_at(now)
            return PresenceStats(len(clients), len(found.users))

    async def reap(self, limit: int) -> ReapResult:
        events: list[PresenceEvent] = []
        with self._lock:
            at = self._moment()
            now = at.now
            if now >= self._due:
                groups = list(self._groups.values())
                self._due = math.inf
                for group in groups:
                    if group.due <= now:
                        events += group.reap(at, limit)
                    self._reschedule(group)
            due_in = None if self._due == math.inf else max(0.0, self._due - now)
        return ReapResult(events, due_in)

    async def confirm(self, event: PresenceEvent) -> list[PresenceEvent]:
        with self._lock:
            group = self._groups.get(event.group)
            if group is None:
                return []
            events = group.confirm(self._moment(), event)
            self._reschedule(group)
            return events

    def flush(self) -> None:
        """Delete everything; for tests."""
        with self._lock:
            self._groups.clear()
            self._due = math.inf

    def _moment(self) -> _Moment:
        return _Moment(self._clock(), self.config)

    def _reschedule(self, group: _Group) -> None:
        """Let ``reap`` visit the group when it is due, or delete it when it is empty."""
        if group.connections or group.users or group.claims:
            self._due = min(self._due, group.due)
        else:
            self._groups.pop(group.name, None)


class _Group:
    """The members of one group, and the events about them that are not confirmed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.connections: dict[str, _Connection] = {}
        # By identity: the user, or for anonymous members the connection.
        self.users: dict[str, _User] = {}
        self.claims: dict[str, _Claim] = {}
        # Nothing is due before this time; exact after a ``reap``.
        self.due = math.inf
        # The end of the period over which pushes are counted, their number, and whether
        # an event with ``changed_in`` was returned in it.
        self._period_ends = -math.inf
        self._pushes = 0
        self._coalesced = False

    # Changes

    def add(
        self,
        at: _Moment,
        member: Member,
        per_user: bool,
        grace: float,
        stayed: bool,
    ) -> list[PresenceEvent]:
        connection = self.connections.get(member.client)
        expires_at = at.now + at.config.ttl
        self.due = min(self.due, expires_at)
        if connection is not None:
            connection.expires_at = expires_at
            return []
        identity = _identity(member)
        grace = grace if member.user else 0.0
        self.connections[member.client] = _Connection(
            identity, member, per_user, grace, expires_at
        )
        user = self.users.get(identity)
        if user is None:
            # An anonymous user is its only connection.
            shown = replace(member, client=_new_id()) if member.user else member
            user = self.users[identity] = _User(shown, per_user, confirmed=stayed)
        user.connections += 1
        if stayed:
            return self._claim_next(at, identity)
        return [
            *self._connection_event(at, "join", member, per_user),
            *self._claim_next(at, identity),
        ]

    def refresh(self, clients: Collection[str], expires_at: float) -> set[str]:
        known = {client for client in clients if client in self.connections}
        for client in known:
            self.connections[client].expires_at = expires_at
        if known:
            self.due = min(self.due, expires_at)
        return known

    def remove(self, at: _Moment, client: str) -> list[PresenceEvent]:
        removed = self.connections.pop(client, None)
        if removed is None:
            return []
        user = self.users[removed.identity]
        user.connections -= 1
        if not user.connections:
            user.gone_at = at.now + removed.grace
        return [
            *self._connection_event(at, "leave", removed.member, removed.per_user),
            *self._claim_next(at, removed.identity),
        ]

    def confirm(self, at: _Moment, event: PresenceEvent) -> list[PresenceEvent]:
        identity = _identity(event.member)
        claim = self.claims.get(identity)
        if claim is None or claim.token != event.claim:
            return []
        del self.claims[identity]
        if claim.kind == "join" and identity in self.users:
            self.users[identity].confirmed = True
        return self._claim_next(at, identity)

    def reap(self, at: _Moment, limit: int) -> list[PresenceEvent]:
        events: list[PresenceEvent] = []
        expired = [
            client
            for client, connection in self.connections.items()
            if connection.expires_at <= at.now
        ]
        for client in expired[:limit]:
            events += self.remove(at, client)
        identities = {**self.users, **self.claims}
        due = [each for each in identities if self._due_at(each) <= at.now]
        for identity in due[:limit]:
            events += self._claim_next(at, identity)
        times = [each.expires_at for each in self.connections.values()]
        times += map(self._due_at, {**self.users, **self.claims})
        self.due = min(times, default=math.inf)
        return events

    # Members

    def clients_at(self, now: float) -> list[Member]:
        return [
            each.member for each in self.connections.values() if each.expires_at > now
        ]

    def users_at(self, now: float) -> list[Member]:
        # A connection that expired longer than its grace ago no longer counts, whether
        # or not it has been reaped.
        stale: dict[str, int] = {}
        for each in self.connections.values():
            if each.expires_at + each.grace <= now:
                stale[each.identity] = stale.get(each.identity, 0) + 1
        return [
            user.member
            for identity, user in self.users.items()
            if user.connections > stale.get(identity, 0)
            or (not user.connections and user.gone_at > now)
        ]

    # Events

    def _connection_event(
        self,
        at: _Moment,
        kind: Literal["join", "leave"],
        member: Member,
        per_user: bool,
    ) -> list[PresenceEvent]:
        if per_user:
            return []
        push, changed_in = self._count_push(at)
        return [PresenceEvent(self.name, kind, member, push, changed_in)]

    def _due_at(self, identity: str) -> float:
        """Return when the claim or the grace of a user ends."""
        claim, user = self.claims.get(identity), self.users.get(identity)
        if claim is not None:
            return claim.expires_at
        return user.gone_at if user is not None and not user.connections else math.inf

    def _claim_next(self, at: _Moment, identity: str) -> list[PresenceEvent]:
        """Return the next event about a user, unless another one is claimed."""
        claim = self.claims.get(identity)
        if claim is None:
            claim = self._next_claim(at.now, identity)
        elif claim.expires_at > at.now:
            return []
        if claim is None:
            self.due = min(self.due, self._due_at(identity))
            return []
        claim.token, claim.expires_at = _new_id(), at.now + at.config.lease
        self.claims[identity] = claim
        self.due = min(self.due, claim.expires_at)
        push, changed_in = False, None
        if claim.per_user:
            push, changed_in = self._count_push(at)
        return [
            PresenceEvent(
                self.name, claim.kind, claim.member, push, changed_in, claim.token
            )
        ]

    def _next_claim(self, now: float, identity: str) -> _Claim | None:
        user = self.users.get(identity)
        if user is None:
            return None
        if not user.confirmed:
            return _Claim("join", user.member, user.per_user)
        if user.connections or user.gone_at > now:
            return None
        # When the user returns from here on, they get a new presence id.
        del self.users[identity]
        return _Claim("leave", user.member, user.per_user)

    def _count_push(self, at: _Moment) -> tuple[bool, float | None]:
        """Return whether to push an event to all, else when to push "changed"."""
        if not at.config.pushes:
            return True, None
        cost = len(self.connections)
        if at.now >= self._period_ends:
            self._period_ends = at.now + max(1.0, cost / at.config.pushes)
            self._pushes, self._coalesced = 0, False
        if self._pushes + cost <= at.config.pushes:
            self._pushes += cost
            return True, None
        if self._coalesced:
            return False, None
        self._coalesced = True
        return False, self._period_ends - at.now


def _identity(member: Member) -> str:
    return member.user or f"\0{member.client}"


def _new_id() -> str:
    return secrets.token_hex(12)
