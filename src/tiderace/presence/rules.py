"""The rules of presence for one group, whatever keeps its rows.

Memory and databases change a group by them. The scripts for Redis follow the same rules,
in the same terms.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from typing import Literal, Protocol

from tiderace.presence.store import Member, PresenceConfig, PresenceEvent

# The beginning of the identity of an anonymous connection; PostgreSQL stores no NUL.
_ANONYMOUS = "\1"


@dataclass(slots=True)
class ConnectionRow:
    """A connection in a group."""

    client: str
    identity: str
    per_user: bool
    grace_ms: int
    info: str
    expires_ms: int


@dataclass(slots=True)
class UserRow:
    """A user: their presence, and the claimed event about them.

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

    @property
    def is_needed(self) -> bool:
        """Whether the row has to be kept."""
        return bool(self.client or self.claim_kind)


@dataclass(slots=True)
class PushPeriod:
    """The pushes of a group within a second or more."""

    pushes: int = 0
    coalesced: bool = False
    """Whether an event with ``changed_in`` was returned in it."""
    ends_ms: int = 0


class GroupRows(Protocol):
    """The rows of one group; times are in milliseconds."""

    def refresh(self, client: str, expires_ms: int) -> bool:
        """Let a connection last longer; return whether it is there."""

    def add(self, row: ConnectionRow) -> None:
        """Add a connection that is not there."""

    def remove(self, client: str) -> ConnectionRow | None:
        """Remove a connection, and return what it was; None if it is not there."""

    def expired(self, now_ms: int, limit: int) -> list[str]:
        """Return the clients of connections that have expired."""

    def user(self, identity: str) -> UserRow:
        """Return a user; an empty row for one that is not there."""

    def save_user(self, identity: str, row: UserRow) -> None:
        """Store a user, or remove one that is not needed."""

    def due_users(self, now_ms: int, limit: int) -> list[str]:
        """Return the identities of users with ``due_ms`` in the past."""

    def push_period(self) -> tuple[int, PushPeriod]:
        """Return the number of connections, and the last period."""

    def save_push_period(self, period: PushPeriod) -> None:
        """Store the period."""


class GroupChanges:
    """Changes the presence of one group.

    Args:
        rows: those of the group, which nothing else changes meanwhile.
        name: the group.
        config: times and limits.
        now_ms: the time.

    Attributes:
        events: the events that the changes cause, in order.
    """

    def __init__(
        self, rows: GroupRows, name: str, config: PresenceConfig, now_ms: int
    ) -> None:
        self.events: list[PresenceEvent] = []
        self._rows = rows
        self._name = name
        self._config = config
        self._now = now_ms

    def add(
        self, member: Member, *, per_user: bool, grace: float, stayed: bool
    ) -> None:
        """Add a connection, or refresh it when it is there."""
        expires_ms = self._now + int(self._config.ttl * 1000)
        if self._rows.refresh(member.client, expires_ms):
            return
        identity, info = _identity_of(member), member.info or ""
        grace_ms = int(grace * 1000) if member.user else 0
        self._rows.add(
            ConnectionRow(member.client, identity, per_user, grace_ms, info, expires_ms)
        )
        user = self._rows.user(identity)
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
        row = self._rows.remove(client)
        if row is None:
            return
        user = self._rows.user(row.identity)
        if user.client:
            user.connections -= 1
            if user.connections <= 0:
                user.connections, user.gone_ms = 0, self._now + row.grace_ms
        if not row.per_user:
            self._add_event("leave", client, row.identity, row.info, is_announced=True)
        self._claim_next(row.identity, user)

    def confirm(self, event: PresenceEvent) -> None:
        """Note that the application has handled a claimed event."""
        identity = _identity_of(event.member)
        user = self._rows.user(identity)
        if not user.claim_kind or user.claim_token != event.claim:
            return
        if user.claim_kind == "join" and user.client:
            user.confirmed = True
        user.claim_kind = ""
        self._claim_next(identity, user)

    def reap(self, limit: int) -> None:
        """Handle expired connections, and users whose claim or grace has ended."""
        for client in self._rows.expired(self._now, limit):
            self.remove(client)
        for identity in self._rows.due_users(self._now, limit):
            self._claim_next(identity, self._rows.user(identity))

    def _claim_next(self, identity: str, user: UserRow) -> None:
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
        self._rows.save_user(identity, user)

    def _set_next_claim(self, user: UserRow) -> None:
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
        member = member_of(client, identity, info)
        self.events.append(
            PresenceEvent(self._name, kind, member, push, changed_in, claim)
        )

    def _count_push(self) -> tuple[bool, float | None]:
        """Return whether to push an event to all, else when to push "changed"."""
        limit = self._config.pushes
        if not limit:
            return True, None
        cost, period = self._rows.push_period()
        if self._now >= period.ends_ms:
            ends_ms = self._now + max(1000, math.ceil(cost * 1000 / limit))
            period = PushPeriod(ends_ms=ends_ms)
        push, changed_in = period.pushes + cost <= limit, None
        if push:
            period.pushes += cost
        elif not period.coalesced:
            period.coalesced = True
            changed_in = (period.ends_ms - self._now) / 1000
        self._rows.save_push_period(period)
        return push, changed_in


def _identity_of(member: Member) -> str:
    """Return the identity by which a member is counted: user or anonymous connection."""
    return member.user or _ANONYMOUS + member.client


def member_of(client: str, identity: str, info: str) -> Member:
    """Return the member with this presence id, identity and information."""
    user = "" if identity.startswith(_ANONYMOUS) else identity
    return Member(client, user, info or None)
