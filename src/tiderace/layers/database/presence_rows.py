"""The rows of one group's presence, in one transaction."""

from __future__ import annotations

from dataclasses import astuple, fields

from tiderace.layers.database.vendor import Cursor, replacing
from tiderace.presence.rules import ConnectionRow, PushPeriod, UserRow

_USER_COLUMNS = tuple(field.name for field in fields(UserRow))
_CONNECTION_COLUMNS = tuple(field.name for field in fields(ConnectionRow))


class DatabaseGroupRows:
    """The ``GroupRows`` of one group.

    Args:
        cursor: the transaction, which holds the group's lock.
        name: the group.
    """

    def __init__(self, cursor: Cursor, name: str) -> None:
        self._cursor = cursor
        self._name = name

    def refresh(self, client: str, expires_ms: int) -> bool:
        changed = self._cursor.execute(
            "UPDATE tiderace_layer_presence_connection SET expires_ms = %s "
            "WHERE group_name = %s AND client = %s",
            (expires_ms, self._name, client),
        )
        return bool(changed)

    def add(self, row: ConnectionRow) -> None:
        self._cursor.insert(
            "presence_connection",
            ("group_name", *_CONNECTION_COLUMNS),
            [(self._name, *astuple(row))],
        )
        self._change_count(1)

    def remove(self, client: str) -> ConnectionRow | None:
        found = self._cursor.fetch(
            "DELETE FROM tiderace_layer_presence_connection "
            "WHERE group_name = %s AND client = %s "
            f"RETURNING {', '.join(_CONNECTION_COLUMNS)}",
            (self._name, client),
        )
        if not found:
            return None
        self._change_count(-1)
        return ConnectionRow(*found[0])

    def expired(self, now_ms: int, limit: int) -> list[str]:
        rows = self._cursor.fetch(
            "SELECT client FROM tiderace_layer_presence_connection WHERE group_name = %s "
            f"AND expires_ms <= %s ORDER BY expires_ms LIMIT {limit:d}",
            (self._name, now_ms),
        )
        return [client for (client,) in rows]

    def user(self, identity: str) -> UserRow:
        found = self._cursor.fetch(
            f"SELECT {', '.join(_USER_COLUMNS)} FROM tiderace_layer_presence_user "
            "WHERE group_name = %s AND identity = %s",
            (self._name, identity),
        )
        return UserRow(*found[0]) if found else UserRow()

    def save_user(self, identity: str, row: UserRow) -> None:
        if not row.is_needed:
            self._cursor.execute(
                "DELETE FROM tiderace_layer_presence_user "
                "WHERE group_name = %s AND identity = %s",
                (self._name, identity),
            )
            return
        self._cursor.insert(
            "presence_user",
            ("group_name", "identity", *_USER_COLUMNS),
            [(self._name, identity, *astuple(row))],
            replacing("group_name, identity", *_USER_COLUMNS),
        )

    def due_users(self, now_ms: int, limit: int) -> list[str]:
        rows = self._cursor.fetch(
            "SELECT identity FROM tiderace_layer_presence_user WHERE group_name = %s "
            f"AND due_ms <= %s ORDER BY due_ms LIMIT {limit:d}",
            (self._name, now_ms),
        )
        return [identity for (identity,) in rows]

    def push_period(self) -> tuple[int, PushPeriod]:
        found = self._cursor.fetch(
            "SELECT connections, pushes, coalesced, ends_ms "
            "FROM tiderace_layer_presence_group WHERE name = %s",
            (self._name,),
        )
        if not found:
            return 0, PushPeriod()
        connections, *period = found[0]
        return connections, PushPeriod(*period)

    def save_push_period(self, period: PushPeriod) -> None:
        self._cursor.execute(
            "UPDATE tiderace_layer_presence_group "
            "SET pushes = %s, coalesced = %s, ends_ms = %s WHERE name = %s",
            (*astuple(period), self._name),
        )

    def _change_count(self, change: int) -> None:
        """Count the connections of the group."""
        self._cursor.insert(
            "presence_group",
            ("name", "connections"),
            [(self._name, change)],
            "ON CONFLICT (name) DO UPDATE SET connections = "
            "tiderace_layer_presence_group.connections + excluded.connections",
        )
