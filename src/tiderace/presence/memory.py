"""A presence store in the memory of one process."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping

from tiderace.presence.rules import (
    ConnectionRow,
    GroupChanges,
    PushPeriod,
    UserRow,
    member_of,
)
from tiderace.presence.store import (
    Member,
    PresenceConfig,
    PresenceEvent,
    PresenceStats,
    ReapResult,
)


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
        self._due_ms = math.inf
        self._lock = threading.RLock()

    async def add(
        self,
        group: str,
        member: Member,
        *,
        per_user: bool,
        grace: float,
        stayed: bool = False,
    ) -> list[PresenceEvent]:
        return self._change(
            group,
            lambda changes: changes.add(
                member, per_user=per_user, grace=grace, stayed=stayed
            ),
        )

    async def remove(self, group: str, client: str) -> list[PresenceEvent]:
        return self._change(group, lambda changes: changes.remove(client))

    async def confirm(self, event: PresenceEvent) -> list[PresenceEvent]:
        return self._change(event.group, lambda changes: changes.confirm(event))

    async def refresh(
        self, clients: Mapping[str, Collection[str]]
    ) -> list[tuple[str, str]]:
        missing: list[tuple[str, str]] = []
        with self._lock:
            expires_ms = self._now_ms() + int(self.config.ttl * 1000)
            for name, some in clients.items():
                group = self._group(name)
                missing += [
                    (name, each) for each in some if not group.refresh(each, expires_ms)
                ]
                self._due_ms = min(self._due_ms, group.due_ms)
        return missing

    async def members(self, group: str, *, per_user: bool) -> dict[str, Member]:
        with self._lock:
            found = self._group(group)
            rows = (found.users_at if per_user else found.clients_at)(self._now_ms())
            return {client: member_of(client, *rest) for client, *rest in rows}

    async def stats(self, group: str) -> PresenceStats:
        """Return the number of members; users who are due to be reaped still count."""
        with self._lock:
            found, now_ms = self._group(group), self._now_ms()
            # No connection has expired before anything is due.
            is_exact = now_ms < found.due_ms
            clients = found.connections if is_exact else found.clients_at(now_ms)
            return PresenceStats(len(clients), len(found.present))

    async def reap(self, limit: int) -> ReapResult:
        events: list[PresenceEvent] = []
        with self._lock:
            now_ms = self._now_ms()
            if now_ms >= self._due_ms:
                for name, group in list(self._groups.items()):
                    if group.due_ms <= now_ms:
                        events += self._change(
                            name, lambda changes: changes.reap(limit)
                        )
                        group.due_ms = group.next_due_ms()
                groups = self._groups.values()
                self._due_ms = min((each.due_ms for each in groups), default=math.inf)
            due_in = None
            if self._due_ms < math.inf:
                due_in = max(self._due_ms - now_ms, 0) / 1000
        return ReapResult(events, due_in)

    def flush(self) -> None:
        """Delete everything; for tests."""
        with self._lock:
            self._groups.clear()
            self._due_ms = math.inf

    def _now_ms(self) -> int:
        return round(self._clock() * 1000)

    def _group(self, name: str) -> _Group:
        return self._groups.get(name) or _Group()

    def _change(
        self, name: str, change: Callable[[GroupChanges], None]
    ) -> list[PresenceEvent]:
        """Change a group, which is kept while it is not empty; return the events."""
        with self._lock:
            group = self._group(name)
            changes = GroupChanges(group, name, self.config, self._now_ms())
            change(changes)
            if group.connections or group.users:
                self._groups[name] = group
                self._due_ms = min(self._due_ms, group.due_ms)
            else:
                self._groups.pop(name, None)
            return changes.events


class _Group:
    """The ``GroupRows`` of one group."""

    def __init__(self) -> None:
        self.connections: dict[str, ConnectionRow] = {}
        # The keys of the rows, and those who are present, are identities of users.
        self.users: dict[str, UserRow] = {}
        self.present: set[str] = set()
        # Nothing is due before this time; exact after a ``reap``.
        self.due_ms = math.inf
        self._period = PushPeriod()

    def refresh(self, client: str, expires_ms: int) -> bool:
        row = self.connections.get(client)
        if row is None:
            return False
        row.expires_ms = expires_ms
        self.due_ms = min(self.due_ms, expires_ms)
        return True

    def add(self, row: ConnectionRow) -> None:
        self.connections[row.client] = row
        self.due_ms = min(self.due_ms, row.expires_ms)

    def remove(self, client: str) -> ConnectionRow | None:
        return self.connections.pop(client, None)

    def expired(self, now_ms: int, limit: int) -> list[str]:
        rows = self.connections.values()
        return [each.client for each in rows if each.expires_ms <= now_ms][:limit]

    def user(self, identity: str) -> UserRow:
        return self.users.get(identity) or UserRow()

    def save_user(self, identity: str, row: UserRow) -> None:
        if row.is_needed:
            self.users[identity] = row
        else:
            self.users.pop(identity, None)
        if row.client:
            self.present.add(identity)
        else:
            self.present.discard(identity)
        if row.due_ms is not None:
            self.due_ms = min(self.due_ms, row.due_ms)

    def due_users(self, now_ms: int, limit: int) -> list[str]:
        return [
            identity
            for identity, user in self.users.items()
            if user.due_ms is not None and user.due_ms <= now_ms
        ][:limit]

    def push_period(self) -> tuple[int, PushPeriod]:
        return len(self.connections), self._period

    def save_push_period(self, period: PushPeriod) -> None:
        self._period = period

    def next_due_ms(self) -> float:
        """Return when something is due, exactly; infinity for nothing."""
        times = [each.expires_ms for each in self.connections.values()]
        dues = (each.due_ms for each in self.users.values())
        return min(
            [*times, *(due for due in dues if due is not None)], default=math.inf
        )

    def clients_at(self, now_ms: int) -> list[tuple[str, str, str]]:
        """Return id, identity and info of the connections that have not expired."""
        return [
            (each.client, each.identity, each.info)
            for each in self.connections.values()
            if each.expires_ms > now_ms
        ]

    def users_at(self, now_ms: int) -> list[tuple[str, str, str]]:
        """Return presence id, identity and info of the users who are present."""
        # A connection that expired longer than its grace ago no longer counts, whether
        # or not it has been reaped.
        stale = Counter(
            each.identity
            for each in self.connections.values()
            if each.expires_ms + each.grace_ms <= now_ms
        )
        return [
            (user.client, identity, user.info)
            for identity, user in self.users.items()
            if user.client
            and (
                user.connections > stale[identity]
                or (not user.connections and user.gone_ms > now_ms)
            )
        ]
