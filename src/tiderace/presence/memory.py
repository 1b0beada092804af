"""Who is present, in the memory of one process.

The reference of ``PresenceStore``: the same rules as the scripts over Redis, in Python.
It knows a clock, and nothing that travels.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from tiderace.presence.store import (
    Member,
    PresenceConfig,
    PresenceEvent,
    PresenceStats,
    ReapResult,
)

__all__ = ["MemoryPresenceStore"]


@dataclass(slots=True)
class _Row:
    """A connection."""

    who: str
    member: Member
    per_user: bool
    grace: float
    deadline: float


@dataclass(slots=True)
class _User:
    """A user who is present, or whose departure has not been noticed yet."""

    member: Member
    per_user: bool
    connections: int = 0
    gone_at: float = 0.0  # the end of the grace, when there is no connection
    told: bool = False  # whether their join has been confirmed


@dataclass(slots=True)
class _Claim:
    """What somebody is telling about a user right now."""

    event: Literal["join", "leave"]
    member: Member
    per_user: bool
    token: str
    until: float


class MemoryPresenceStore:
    """A ``PresenceStore`` in this process; for several threads and loops at once.

    Args:
        clock: seconds that never run backwards; for tests.
        new_id: makes presence ids and claims, a new one at each call.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        new_id: Callable[[], str] = lambda: secrets.token_hex(12),
    ) -> None:
        self._clock = clock
        self._new_id = new_id
        self._rooms: dict[str, _Room] = {}
        # Nothing is due before.
        self._due = math.inf
        self._lock = threading.Lock()

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
        with self._lock:
            room = self._rooms.get(group)
            if room is None:
                room = self._rooms[group] = _Room(group, self._new_id)
            notices = room.enter(self._clock(), member, per_user, grace, rules)
            self._due = min(self._due, room.due)
            return notices

    async def leave(
        self, group: str, client: str, *, rules: PresenceConfig
    ) -> list[PresenceEvent]:
        """See ``PresenceStore.leave``."""
        with self._lock:
            room = self._rooms.get(group)
            if room is None:
                return []
            notices = room.leave(self._clock(), client, rules)
            self._due = min(self._due, room.due)
            self._forget_if_empty(room)
            return notices

    async def renew(
        self, clients: Mapping[str, Collection[str]], *, rules: PresenceConfig
    ) -> list[tuple[str, str]]:
        """See ``PresenceStore.renew``."""
        forgotten: list[tuple[str, str]] = []
        with self._lock:
            deadline = self._clock() + rules.ttl
            for group, some in clients.items():
                room = self._rooms.get(group)
                known: set[str] = set()
                if room is not None:
                    known = room.renew(some, deadline)
                    self._due = min(self._due, room.due)
                forgotten += [(group, each) for each in some if each not in known]
        return forgotten

    async def members(self, group: str, *, per_user: bool) -> dict[str, Member]:
        """See ``PresenceStore.members``."""
        with self._lock:
            room = self._rooms.get(group)
            if room is None:
                return {}
            present = (room.users_at if per_user else room.clients_at)(self._clock())
            return {member.client: member for member in present}

    async def stats(self, group: str) -> PresenceStats:
        """See ``PresenceStore.stats``; users about to be reaped still count."""
        with self._lock:
            room = self._rooms.get(group)
            if room is None:
                return PresenceStats(0, 0)
            now = self._clock()
            # Nobody has expired before anything is due.
            clients = len(room.rows if now < room.due else room.clients_at(now))
            return PresenceStats(clients, len(room.users))

    async def reap(self, limit: int, *, rules: PresenceConfig) -> ReapResult:
        """See ``PresenceStore.reap``."""
        notices: list[PresenceEvent] = []
        with self._lock:
            now = self._clock()
            if now >= self._due:
                for room in list(self._rooms.values()):
                    if room.due <= now:
                        notices += room.reap(now, limit, rules)
                        self._forget_if_empty(room)
                self._due = min(
                    (room.due for room in self._rooms.values()), default=math.inf
                )
            again = None if self._due == math.inf else max(0.0, self._due - now)
        return ReapResult(notices, again)

    async def confirm(
        self, notice: PresenceEvent, *, rules: PresenceConfig
    ) -> list[PresenceEvent]:
        """See ``PresenceStore.confirm``."""
        with self._lock:
            room = self._rooms.get(notice.group)
            if room is None:
                return []
            notices = room.confirm(self._clock(), notice, rules)
            self._due = min(self._due, room.due)
            self._forget_if_empty(room)
            return notices

    def flush(self) -> None:
        """Forget everybody; for tests."""
        with self._lock:
            self._rooms.clear()
            self._due = math.inf

    def _forget_if_empty(self, room: _Room) -> None:
        if not (room.rows or room.users or room.claims):
            self._rooms.pop(room.group, None)


class _Room:
    """One group."""

    def __init__(self, group: str, new_id: Callable[[], str]) -> None:
        self.group = group
        self.rows: dict[str, _Row] = {}
        # By identity: the user, or for those who are not logged in the connection.
        self.users: dict[str, _User] = {}
        self.claims: dict[str, _Claim] = {}
        # Nothing is due before; exact after a ``reap``.
        self.due = math.inf
        self._new_id = new_id
        # Until when pushes are counted together, how many there were, and whether
        # somebody is to say then that much has changed.
        self._together_until = -math.inf
        self._pushes = 0
        self._gathered = False

    # What happens

    def enter(
        self,
        now: float,
        member: Member,
        per_user: bool,
        grace: float,
        rules: PresenceConfig,
    ) -> list[PresenceEvent]:
        row = self.rows.get(member.client)
        deadline = now + rules.ttl
        self.due = min(self.due, deadline)
        if row is not None:
            row.deadline = deadline
            return []
        who = member.user or f"\0{member.client}"
        self.rows[member.client] = _Row(
            who, member, per_user, grace if member.user else 0.0, deadline
        )
        self._arrive(who, member, per_user)
        notices = []
        if not per_user:
            push, later = self._pace(now, rules)
            notices.append(PresenceEvent(self.group, "join", member, push, later))
        return notices + self._settle(now, who, rules)

    def renew(self, clients: Collection[str], deadline: float) -> set[str]:
        known = {client for client in clients if client in self.rows}
        for client in known:
            self.rows[client].deadline = deadline
        if known:
            self.due = min(self.due, deadline)
        return known

    def leave(
        self, now: float, client: str, rules: PresenceConfig
    ) -> list[PresenceEvent]:
        row = self.rows.pop(client, None)
        if row is None:
            return []
        user = self.users[row.who]
        user.connections -= 1
        if not user.connections:
            user.gone_at = now + row.grace
        notices = []
        if not row.per_user:
            push, later = self._pace(now, rules)
            notices.append(PresenceEvent(self.group, "leave", row.member, push, later))
        return notices + self._settle(now, row.who, rules)

    def confirm(
        self, now: float, notice: PresenceEvent, rules: PresenceConfig
    ) -> list[PresenceEvent]:
        who = notice.member.user or f"\0{notice.member.client}"
        claim = self.claims.get(who)
        if claim is None or claim.token != notice.claim:
            return []
        del self.claims[who]
        if claim.event == "join" and who in self.users:
            self.users[who].told = True
        return self._settle(now, who, rules)

    def reap(
        self, now: float, limit: int, rules: PresenceConfig
    ) -> list[PresenceEvent]:
        notices: list[PresenceEvent] = []
        expired = [key for key, row in self.rows.items() if row.deadline <= now]
        for client in expired[:limit]:
            notices += self.leave(now, client, rules)
        turns = [who for who in {**self.users, **self.claims} if self._turn(who) <= now]
        for who in turns[:limit]:
            notices += self._settle(now, who, rules)
        self.due = min(
            min((row.deadline for row in self.rows.values()), default=math.inf),
            min(map(self._turn, {**self.users, **self.claims}), default=math.inf),
        )
        return notices

    # Who is there

    def clients_at(self, now: float) -> list[Member]:
        return [row.member for row in self.rows.values() if row.deadline > now]

    def users_at(self, now: float) -> list[Member]:
        # Those whose connections have expired are as good as gone, reaped or not.
        stale: dict[str, int] = {}
        for row in self.rows.values():
            if row.deadline + row.grace <= now:
                stale[row.who] = stale.get(row.who, 0) + 1
        return [
            user.member
            for who, user in self.users.items()
            if user.connections > stale.get(who, 0)
            or (not user.connections and user.gone_at > now)
        ]

    # What follows from it

    def _arrive(self, who: str, member: Member, per_user: bool) -> None:
        user = self.users.get(who)
        if user is None:
            # The connection of somebody unknown is all there is of them.
            shown = replace(member, client=self._new_id()) if member.user else member
            user = self.users[who] = _User(shown, per_user)
        user.connections += 1

    def _turn(self, who: str) -> float:
        """When something is due for a user without anything happening."""
        claim, user = self.claims.get(who), self.users.get(who)
        if claim is not None:
            return claim.until
        return user.gone_at if user is not None and not user.connections else math.inf

    def _settle(
        self, now: float, who: str, rules: PresenceConfig
    ) -> list[PresenceEvent]:
        """Hand out what is to be told about a user next, unless somebody is at it."""
        claim = self.claims.get(who)
        if claim is None:
            claim = self._next(now, who)
        elif claim.until > now:
            return []
        if claim is None:
            self.due = min(self.due, self._turn(who))
            return []
        claim.token, claim.until = self._new_id(), now + rules.lease
        self.claims[who] = claim
        self.due = min(self.due, claim.until)
        push, later = self._pace(now, rules) if claim.per_user else (False, None)
        return [
            PresenceEvent(
                self.group, claim.event, claim.member, push, later, claim.token
            )
        ]

    def _next(self, now: float, who: str) -> _Claim | None:
        user = self.users.get(who)
        if user is None:
            return None
        if not user.told:
            return _Claim("join", user.member, user.per_user, "", 0.0)
        if user.connections or user.gone_at > now:
            return None
        # From here on they are somebody new when they come back.
        del self.users[who]
        return _Claim("leave", user.member, user.per_user, "", 0.0)

    def _pace(self, now: float, rules: PresenceConfig) -> tuple[bool, float | None]:
        """Whether to push one event to all, and else when to say that much changed."""
        if not rules.pushes:
            return True, None
        cost = len(self.rows)
        if now >= self._together_until:
            self._together_until = now + max(1.0, cost / rules.pushes)
            self._pushes, self._gathered = 0, False
        if self._pushes + cost <= rules.pushes:
            self._pushes += cost
            return True, None
        if self._gathered:
            return False, None
        self._gathered = True
        return False, self._together_until - now
