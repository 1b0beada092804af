"""The presence of one group in one transaction.

The rules and the names are those of ``MemoryPresenceStore``.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import astuple, dataclass, fields
from typing import Literal

from tiderace.layers.database.vendor import Cursor
from tiderace.presence.store import Member, PresenceConfig, PresenceEvent


@dataclass(slots=True)
class _UserRow:
    """The row of a user: their presence, and the claimed event about them.

    The user is present if ``client``, the presence id, is not empty. A claimed event was
    handed out and is not confirmed yet; there is none while ``claim_kind`` is empty.
    """

    client: str = ""
    info: str = ""
    per_user: bool = False
    connections: int = 0
    gone_ms: int = 0
    confirmed: bool = False
    claim_kind: str = ""
    claim_client: str = ""
    claim_info: str = ""
    claim_per_user: bool = False
    claim_token: str = ""
    claim_until_ms: int = 0
    due_ms: int | None = None


_COLUMNS = tuple(field.name for field in fields(_UserRow))
_CONNECTION_COLUMNS = (
    "group_name",
    "client",
    "identity",
    "per_user",
    "grace_ms",
    "info",
    "expires_ms",
)


class PresenceGroup:
    """Changes the presence of one group.

    Args:
        cursor: the transaction, which holds the group's lock.
        name: the group.
        config: times and limits.

    Attributes:
        events: the events that the changes cause, in order.
    """

    def __init__(self, cursor: Cursor, name: str, config: PresenceConfig) -> None:
        self.events: list[PresenceEvent] = []
        self._cursor = cursor
        self._name = name
        self._config = config
        self._now = cursor.now_ms

    def add(
        self, member: Member, *, per_user: bool, grace_ms: int, stayed: bool
    ) -> None:
        """Add a connection, or refresh it when it is there."""
        expires_ms = self._now + int(self._config.ttl * 1000)
        if self._cursor.execute(
            "UPDATE tiderace_layer_presence_connection SET expires_ms = %s "
            "WHERE group_name = %s AND client = %s",
            (expires_ms, self._name, member.client),
        ):
            return
        identity, info = identity_of(member), member.info or ""
        self._cursor.insert(
            "presence_connection",
            _CONNECTION_COLUMNS,
            [
                (
                    self._name,
                    member.client,
                    identity,
                    per_user,
                    grace_ms,
                    info,
                    expires_ms,
                )
            ],
        )
        self._change_count(1)
        user = self._load(identity)
        if not user.client:
            # An anonymous user is its only connection.
            user.client = secrets.token_hex(12) if member.user else member.client
            user.info, user.per_user, user.confirmed = info, per_user, stayed
            user.connections = user.gone_ms = 0
        user.connections += 1
        if not per_user and not stayed:
            self._add_event("join", member.client, identity, info, is_announced=True)
        self._claim_next(identity, user)

    def remove(self, client: str) -> None:
        """Remove a connection, if it is there."""
        found = self._cursor.fetch(
            "DELETE FROM tiderace_layer_presence_connection "
            "WHERE group_name = %s AND client = %s "
            "RETURNING identity, per_user, grace_ms, info",
            (self._name, client),
        )
        if not found:
            return
        identity, per_user, grace_ms, info = found[0]
        self._change_count(-1)
        user = self._load(identity)
        if user.client:
            user.connections -= 1
            if user.connections <= 0:
                user.connections, user.gone_ms = 0, self._now + grace_ms
        if not per_user:
            self._add_event("leave", client, identity, info, is_announced=True)
        self._claim_next(identity, user)

    def confirm(self, identity: str, claim: str) -> None:
        """Note that the application has handled a claimed event."""
        user = self._load(identity)
        if not user.claim_kind or user.claim_token != claim:
            return
        if user.claim_kind == "join" and user.client:
            user.confirmed = True
        user.claim_kind = ""
        self._claim_next(identity, user)

    def reap(self, limit: int) -> None:
        """Handle expired connections, and users whose claim or grace has ended."""
        expired = self._cursor.fetch(
            "SELECT client FROM tiderace_layer_presence_connection WHERE group_name = %s "
            f"AND expires_ms <= %s ORDER BY expires_ms LIMIT {limit:d}",
            (self._name, self._now),
        )
        for (client,) in expired:
            self.remove(client)
        ended = self._cursor.fetch(
            "SELECT identity FROM tiderace_layer_presence_user WHERE group_name = %s "
            f"AND due_ms <= %s ORDER BY due_ms LIMIT {limit:d}",
            (self._name, self._now),
        )
        for (identity,) in ended:
            self._claim_next(identity, self._load(identity))

    # Users

    def _load(self, identity: str) -> _UserRow:
        found = self._cursor.fetch(
            f"SELECT {', '.join(_COLUMNS)} FROM tiderace_layer_presence_user "
            "WHERE group_name = %s AND identity = %s",
            (self._name, identity),
        )
        return _UserRow(*found[0]) if found else _UserRow()

    def _save(self, identity: str, user: _UserRow) -> None:
        if not user.client and not user.claim_kind:
            self._cursor.execute(
                "DELETE FROM tiderace_layer_presence_user "
                "WHERE group_name = %s AND identity = %s",
                (self._name, identity),
            )
            return
        self._cursor.insert(
            "presence_user",
            ("group_name", "identity", *_COLUMNS),
            [(self._name, identity, *astuple(user))],
            "ON CONFLICT (group_name, identity) DO UPDATE SET "
            + ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS),
        )

    def _claim_next(self, identity: str, user: _UserRow) -> None:
        """Hand out the next event about a user, unless another one is claimed."""
        if not user.claim_kind:
            self._set_next_claim(user)
            is_due = bool(user.claim_kind)
        else:
            is_due = user.claim_until_ms <= self._now
        if is_due:
            user.claim_token = secrets.token_hex(8)
            user.claim_until_ms = self._now + int(self._config.lease * 1000)
            self._add_event(
                "join" if user.claim_kind == "join" else "leave",
                user.claim_client,
                identity,
                user.claim_info,
                is_announced=user.claim_per_user,
                claim=user.claim_token,
            )
        if user.claim_kind:
            user.due_ms = user.claim_until_ms
        elif user.client and not user.connections:
            user.due_ms = user.gone_ms
        else:
            user.due_ms = None
        self._save(identity, user)

    def _set_next_claim(self, user: _UserRow) -> None:
        if not user.client:
            return
        if not user.confirmed:
            user.claim_kind = "join"
        elif user.connections or user.gone_ms > self._now:
            return
        else:
            user.claim_kind = "leave"
        user.claim_client, user.claim_info = user.client, user.info
        user.claim_per_user = user.per_user
        if user.claim_kind == "leave":
            # When the user returns from here on, they get a new presence id.
            user.client = ""

    # Events

    def _add_event(
        self,
        kind: Literal["join", "leave"],
        client: str,
        identity: str,
        info: str,
        *,
        is_announced: bool,
        claim: str = "",
    ) -> None:
        push, changed_in = self._count_push() if is_announced else (False, None)
        member = Member(client, identity, info)
        self.events.append(
            PresenceEvent(self._name, kind, member, push, changed_in, claim)
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

    def _count_push(self) -> tuple[bool, float | None]:
        """Return whether to push an event to all, else when to push "changed"."""
        limit = self._config.pushes
        if not limit:
            return True, None
        ((cost, pushes, coalesced, ends_ms),) = self._cursor.fetch(
            "SELECT connections, pushes, coalesced, ends_ms "
            "FROM tiderace_layer_presence_group WHERE name = %s",
            (self._name,),
        ) or [(0, 0, False, 0)]
        if self._now >= ends_ms:
            ends_ms = self._now + max(1000, math.ceil(cost * 1000 / limit))
            pushes, coalesced = 0, False
        answer: tuple[bool, float | None]
        if pushes + cost <= limit:
            pushes += cost
            answer = True, None
        elif coalesced:
            answer = False, None
        else:
            coalesced = True
            answer = False, (ends_ms - self._now) / 1000
        self._cursor.execute(
            "UPDATE tiderace_layer_presence_group "
            "SET pushes = %s, coalesced = %s, ends_ms = %s WHERE name = %s",
            (pushes, coalesced, ends_ms, self._name),
        )
        return answer


def identity_of(member: Member) -> str:
    """Return the identity by which a member is counted: user or anonymous connection."""
    # PostgreSQL stores no NUL.
    return member.user or f"\1{member.client}"
