"""Presence in the database: one operation for each step, by the database's clock."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from tiderace.layers.database.executor import Executor
from tiderace.layers.database.presence_rows import DatabaseGroupRows
from tiderace.layers.database.vendor import Cursor
from tiderace.presence.rules import GroupChanges, member_of
from tiderace.presence.store import (
    Member,
    PresenceConfig,
    PresenceEvent,
    PresenceStats,
    ReapResult,
)

_MAX_GROUPS = 50  # reaped at once
_MAX_REFRESHED = 1000  # connections in one statement


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
        if member.info and self._crypter is not None:
            info = self._crypter.encrypt(member.info.encode()).decode()
            member = replace(member, info=info)
        return await self._change(
            group,
            lambda changes: changes.add(
                member, per_user=per_user, grace=grace, stayed=stayed
            ),
        )

    async def remove(self, group: str, client: str) -> list[PresenceEvent]:
        return await self._change(group, lambda changes: changes.remove(client))

    async def confirm(self, event: PresenceEvent) -> list[PresenceEvent]:
        return await self._change(event.group, lambda changes: changes.confirm(event))

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
                batch,
                int(self.config.ttl * 1000),
                lock=sorted({_lock(group) for group, _ in batch}),
            )
            missing += [
                (group[start:], client)
                for group, client in batch
                if (group, client) not in known
            ]
        return missing

    async def members(self, group: str, *, per_user: bool) -> dict[str, Member]:
        function = _read_users if per_user else _read_connections
        rows = await self._executor.read(function, self._prefix + group)
        return {
            client: self._decrypted(member_of(client, *rest)) for client, *rest in rows
        }

    async def stats(self, group: str) -> PresenceStats:
        """Return the number of members; users who are due to be reaped still count."""
        return await self._executor.read(_read_stats, self._prefix + group)

    async def reap(self, limit: int) -> ReapResult:
        groups, due_in = await self._executor.read(_find_due, self._prefix)
        events: list[PresenceEvent] = []
        for name in groups:
            group = name.removeprefix(self._prefix)
            events += await self._change(group, lambda changes: changes.reap(limit))
        return ReapResult(events, due_in)

    async def _change(
        self, group: str, change: Callable[[GroupChanges], None]
    ) -> list[PresenceEvent]:
        """Change a group; return the events that this causes."""
        name = self._prefix + group

        def change_rows(cursor: Cursor) -> list[PresenceEvent]:
            rows = DatabaseGroupRows(cursor, name)
            changes = GroupChanges(rows, group, self.config, cursor.now_ms)
            change(changes)
            return changes.events

        events = await self._executor.write(change_rows, lock=(_lock(name),))
        return [replace(each, member=self._decrypted(each.member)) for each in events]

    def _decrypted(self, member: Member) -> Member:
        if not member.info or self._crypter is None:
            return member
        try:
            info = self._crypter.decrypt(member.info).decode()
        except Exception:  # with another key, or from before the encryption
            info = None
        return replace(member, info=info)


def _lock(name: str) -> str:
    return f"presence {name}"


def _refresh(
    cursor: Cursor, pairs: list[tuple[str, str]], ttl_ms: int
) -> set[tuple[str, str]]:
    """Extend connections in one statement; return the ones that exist."""
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


def _read_stats(cursor: Cursor, name: str) -> PresenceStats:
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
