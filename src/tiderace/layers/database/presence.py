"""Presence in the database: one operation for each step, by the database's clock."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tiderace.layers.database.executor import Executor, one_by_one
from tiderace.layers.database.presence_group import PresenceGroup, identity_of
from tiderace.layers.database.vendor import Cursor
from tiderace.presence.store import (
    Member,
    PresenceConfig,
    PresenceEvent,
    PresenceStats,
    ReapResult,
)

_MAX_GROUPS = 50  # reaped at once
_MAX_REFRESHED = 1000  # connections in one statement


class _Addition(NamedTuple):
    group: str
    member: Member
    per_user: bool
    grace_ms: int
    stayed: bool
    config: PresenceConfig


class _Change(NamedTuple):
    """A removal of a connection, or a confirmation of an event."""

    group: str
    name: str
    claim: str
    config: PresenceConfig


class DatabasePresenceStore:
    """A ``PresenceStore`` in a database.

    Args:
        config: times and limits.
        executor: runs the operations.
        prefix: the beginning of every stored name.
        crypter: a ``MultiFernet`` for the info of members; None for no encryption.
    """

    def __init__(
        self,
        config: PresenceConfig,
        executor: Executor,
        prefix: str,
        *,
        crypter: Any = None,
    ) -> None:
        self.config = config
        self._executor = executor
        self._prefix = prefix
        self._crypter = crypter

    async def add(
        self,
        group: str,
        member: Member,
        *,
        per_user: bool,
        grace: float,
        stayed: bool = False,
    ) -> list[PresenceEvent]:
        name = self._prefix + group
        if member.info and self._crypter is not None:
            info = self._crypter.encrypt(member.info.encode()).decode()
            member = Member(member.client, member.user, info)
        addition = _Addition(
            name,
            member,
            per_user,
            int(grace * 1000) if member.user else 0,
            stayed,
            self.config,
        )
        return self._events(
            await self._executor.write(_add, addition, lock=(_lock(name),))
        )

    async def remove(self, group: str, client: str) -> list[PresenceEvent]:
        name = self._prefix + group
        change = _Change(name, client, "", self.config)
        return self._events(
            await self._executor.write(_remove, change, lock=(_lock(name),))
        )

    async def confirm(self, event: PresenceEvent) -> list[PresenceEvent]:
        name = self._prefix + event.group
        change = _Change(name, identity_of(event.member), event.claim, self.config)
        return self._events(
            await self._executor.write(_confirm, change, lock=(_lock(name),))
        )

    async def refresh(
        self, clients: Mapping[str, Collection[str]]
    ) -> list[tuple[str, str]]:
        missing: list[tuple[str, str]] = []
        start = len(self._prefix)
        pairs = [
            (self._prefix + group, client)
            for group, some in clients.items()
            for client in some
        ]
        for place in range(0, len(pairs), _MAX_REFRESHED):
            batch = pairs[place : place + _MAX_REFRESHED]
            known = await self._executor.write(
                _refresh,
                (batch, int(self.config.ttl * 1000)),
                lock=sorted({_lock(group) for group, _ in batch}),
            )
            missing += [
                (group[start:], client)
                for group, client in batch
                if (group, client) not in known
            ]
        return missing

    async def members(self, group: str, *, per_user: bool) -> dict[str, Member]:
        name = self._prefix + group
        function = _read_users if per_user else _read_connections
        rows = await self._executor.read(lambda cursor: function(cursor, name))
        return {client: self._member(client, *rest) for client, *rest in rows}

    async def stats(self, group: str) -> PresenceStats:
        """Return the number of members; users who are due to be reaped still count."""
        name = self._prefix + group

        def read(cursor: Cursor) -> PresenceStats:
            ((clients,),) = cursor.fetch(
                "SELECT count(*) FROM tiderace_layer_presence_connection "
                "WHERE group_name = %s AND expires_ms > %s",
                (name, cursor.now_ms),
            )
            ((users,),) = cursor.fetch(
                "SELECT count(*) FROM tiderace_layer_presence_user "
                "WHERE group_name = %s AND client <> ''",
                (name,),
            )
            return PresenceStats(clients, users)

        return await self._executor.read(read)

    async def reap(self, limit: int) -> ReapResult:
        prefix = self._prefix
        groups, due_in = await self._executor.read(
            lambda cursor: _find_due(cursor, prefix)
        )
        events: list[PresenceEvent] = []
        for name in groups:
            events += self._events(
                await self._executor.write(
                    _reap, (name, limit, self.config), lock=(_lock(name),)
                )
            )
        return ReapResult(events, due_in)

    def _events(self, events: Sequence[PresenceEvent]) -> list[PresenceEvent]:
        """Return events with the names and texts that the caller uses."""
        start = len(self._prefix)
        return [
            PresenceEvent(
                each.group[start:],
                each.kind,
                self._member(each.member.client, each.member.user, each.member.info),
                each.push,
                each.changed_in,
                each.claim,
            )
            for each in events
        ]

    def _member(self, client: str, user: str, info: str | None) -> Member:
        if info and self._crypter is not None:
            try:
                info = self._crypter.decrypt(info).decode()
            except Exception:  # with another key, or from before the encryption
                info = ""
        return Member(client, "" if user.startswith("\1") else user, info or None)


def _lock(name: str) -> str:
    return f"presence {name}"


@one_by_one
def _add(cursor: Cursor, addition: _Addition) -> list[PresenceEvent]:
    group = PresenceGroup(cursor, addition.group, addition.config)
    group.add(
        addition.member,
        per_user=addition.per_user,
        grace_ms=addition.grace_ms,
        stayed=addition.stayed,
    )
    return group.events


@one_by_one
def _remove(cursor: Cursor, change: _Change) -> list[PresenceEvent]:
    group = PresenceGroup(cursor, change.group, change.config)
    group.remove(change.name)
    return group.events


@one_by_one
def _confirm(cursor: Cursor, change: _Change) -> list[PresenceEvent]:
    group = PresenceGroup(cursor, change.group, change.config)
    group.confirm(change.name, change.claim)
    return group.events


@one_by_one
def _reap(
    cursor: Cursor, argument: tuple[str, int, PresenceConfig]
) -> list[PresenceEvent]:
    name, limit, config = argument
    group = PresenceGroup(cursor, name, config)
    group.reap(limit)
    return group.events


@one_by_one
def _refresh(
    cursor: Cursor, argument: tuple[list[tuple[str, str]], int]
) -> set[tuple[str, str]]:
    """Extend connections in one statement; return the ones that exist."""
    pairs, ttl_ms = argument
    rows = cursor.fetch(
        "UPDATE tiderace_layer_presence_connection SET expires_ms = %s "
        "WHERE (group_name, client) IN (VALUES "
        + ", ".join(["(%s, %s)"] * len(pairs))
        + ") RETURNING group_name, client",
        [cursor.now_ms + ttl_ms, *(value for pair in pairs for value in pair)],
    )
    return {(group, client) for group, client in rows}


def _find_due(cursor: Cursor, prefix: str) -> tuple[list[str], float | None]:
    """Return groups in which something is due, and the seconds until something is."""
    now = cursor.now_ms
    groups: dict[str, None] = {}
    times = []
    for table, column in (("connection", "expires_ms"), ("user", "due_ms")):
        of_this_layer = f"substr(group_name, 1, {len(prefix)}) = %s"
        found = cursor.fetch(
            f"SELECT DISTINCT group_name FROM tiderace_layer_presence_{table} "
            f"WHERE {column} <= %s AND {of_this_layer} LIMIT {_MAX_GROUPS}",
            (now, prefix),
        )
        groups.update(dict.fromkeys(name for (name,) in found))
        times += cursor.fetch(
            f"SELECT {column} FROM tiderace_layer_presence_{table} "
            f"WHERE {column} IS NOT NULL AND {of_this_layer} ORDER BY {column} LIMIT 1",
            (prefix,),
        )
    if groups:
        return list(groups), 0.0
    due = min((time for (time,) in times), default=None)
    return [], None if due is None else max(due - now, 0) / 1000


def _read_connections(cursor: Cursor, name: str) -> list[tuple[str, str, str]]:
    """Return id, identity and info of the connections that have not expired."""
    return cursor.fetch(
        "SELECT client, identity, info FROM tiderace_layer_presence_connection "
        "WHERE group_name = %s AND expires_ms > %s",
        (name, cursor.now_ms),
    )


def _read_users(cursor: Cursor, name: str) -> list[tuple[str, str, str]]:
    """Return presence id, identity and info of the users who are present."""
    now = cursor.now_ms
    # A connection that expired longer than its grace ago no longer counts, whether or
    # not it has been reaped.
    stale = dict(
        cursor.fetch(
            "SELECT identity, count(*) FROM tiderace_layer_presence_connection "
            "WHERE group_name = %s AND expires_ms + grace_ms <= %s GROUP BY identity",
            (name, now),
        )
    )
    return list(_present(cursor, name, stale, now))


def _present(
    cursor: Cursor, name: str, stale: Mapping[str, int], now: int
) -> Iterator[tuple[str, str, str]]:
    for client, identity, info, connections, gone_ms in cursor.fetch(
        "SELECT client, identity, info, connections, gone_ms "
        "FROM tiderace_layer_presence_user WHERE group_name = %s AND client <> ''",
        (name,),
    ):
        if connections > stale.get(identity, 0) or (not connections and gone_ms > now):
            yield client, identity, info
