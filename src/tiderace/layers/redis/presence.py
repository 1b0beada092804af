"""Who is present, in Redis or Valkey: one script for each step, by the server's clock.

It knows the scripts of ``lua/presence/*.lua`` and the keys below, and no connection:
what runs a script is handed in.

Keys (``P`` is the layer's prefix, ``G`` a group; in a cluster ``P:presence`` is
``{P:presence:NN}``, so that the groups that share a number share a slot):

==============================  ======================================================
``P:presence:G:rows``           connections in the group, with user and info
``P:presence:G:deadlines``      the same by when they expire unless they are renewed
``P:presence:G:users``          users in the group, with presence id and connections
``P:presence:G:claims``         what is being told of users
``P:presence:G:turns``          users of whom something is to be told, by when
``P:presence:G:pace``           pushes caused in the present second
``P:presence:due``              groups by when something is due in them
==============================  ======================================================

All live for a day after their last change, long enough for a fleet that has ended to
come back and tell who has left; the pace for its second.
"""

from __future__ import annotations

import asyncio
import secrets
import zlib
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from tiderace.exceptions import LayerUnavailable
from tiderace.presence.store import (
    Member,
    PresenceConfig,
    PresenceEvent,
    PresenceStats,
    ReapResult,
)

__all__ = ["RedisPresenceStore"]

RunScript = Callable[[str, Sequence[Any], Sequence[Any]], Awaitable[Any]]

_LIFE = 86_400_000  # milliseconds

# Slots over which a cluster's groups are spread. Each is looked at on its own.
_SLOTS = 32

_KEYS = ("rows", "deadlines", "users", "claims", "turns")
_GROUPS_AT_ONCE = 50
_RENEWED_AT_ONCE = 1000


class RedisPresenceStore:
    """A ``PresenceStore`` over one server, Sentinel set-up or cluster.

    A step that is tried again over a lost connection happens once. Only the leave of a
    connection whose answer was lost is not announced; a list that is read again is
    right.

    Args:
        config: times and limits.
        run: runs a script by name with keys and arguments until it is done; raises
            ``LayerUnavailable``.
        prefix: what every key begins with.
        cluster: whether keys of one script must be in one slot.
    """

    def __init__(
        self, config: PresenceConfig, run: RunScript, prefix: str, *, cluster: bool
    ) -> None:
        self.config = config
        self._run = run
        self._bases = [f"{prefix}:presence"]
        if cluster:
            self._bases = [f"{{{prefix}:presence:{slot}}}" for slot in range(_SLOTS)]

    async def add(
        self, group: str, member: Member, *, per_user: bool, grace: float
    ) -> list[PresenceEvent]:
        return await self._change(
            "add",
            group,
            member.client,
            _identity(member),
            member.info or "",
            int(per_user),
            int(grace * 1000) if member.user else 0,
            int(self.config.ttl * 1000),
            # An anonymous user is its only connection.
            secrets.token_hex(12) if member.user else member.client,
        )

    async def remove(self, group: str, client: str) -> list[PresenceEvent]:
        return await self._change("remove", group, client)

    async def confirm(self, event: PresenceEvent) -> list[PresenceEvent]:
        return await self._change(
            "confirm", event.group, _identity(event.member), event.claim
        )

    async def refresh(
        self, clients: Mapping[str, Collection[str]]
    ) -> list[tuple[str, str]]:
        shares: dict[str, dict[str, Collection[str]]] = {}
        for group, some in clients.items():
            shares.setdefault(self._base(group), {})[group] = some
        missing: list[tuple[str, str]] = []

        async def refresh_share(base: str, share: dict[str, Collection[str]]) -> None:
            for portion in _portions(share):
                keys = [f"{base}:due"]
                arguments: list[Any] = [int(self.config.ttl * 1000), _LIFE]
                for group, some in portion:
                    keys += [f"{base}:{group}:{name}" for name in _KEYS]
                    arguments += [group, len(some), *some]
                found = await self._run("presence/refresh", keys, arguments)
                missing.extend(
                    (portion[found[place]][0], found[place + 1].decode())
                    for place in range(0, len(found), 2)
                )

        await asyncio.gather(*(refresh_share(*each) for each in shares.items()))
        return missing

    async def members(self, group: str, *, per_user: bool) -> dict[str, Member]:
        keys = self._keys(group, "rows", "deadlines", "users")
        now, found, over, stale = await self._run(
            "presence/members", keys, [int(per_user)]
        )
        entries = {
            found[place]: msgspec.msgpack.decode(found[place + 1])
            for place in range(0, len(found), 2)
        }
        present = _users if per_user else _connections
        return {member.client: member for member in present(now, entries, over, stale)}

    async def stats(self, group: str) -> PresenceStats:
        """Return the number of members; users who are due to be reaped still count."""
        keys = self._keys(group, "deadlines", "users")
        return PresenceStats(*await self._run("presence/stats", keys, []))

    async def reap(self, limit: int) -> ReapResult:
        found = await asyncio.gather(
            *(
                self._run("presence/due", [f"{base}:due"], [_GROUPS_AT_ONCE])
                for base in self._bases
            )
        )
        groups = [group.decode() for _, due in found for group in due]
        if not groups:
            waits = [wait / 1000 for wait, _ in found if wait >= 0]
            return ReapResult([], min(waits, default=None))
        events: list[PresenceEvent] = []
        for group in groups:
            try:
                events += await self._change("reap", group, limit)
            except LayerUnavailable:
                # These events are handed out only once; the next call raises the error.
                if not events:
                    raise
                break
        return ReapResult(events, 0.0)

    def _base(self, group: str) -> str:
        return self._bases[zlib.crc32(group.encode()) % len(self._bases)]

    def _keys(self, group: str, *names: str) -> list[str]:
        base = self._base(group)
        return [f"{base}:{group}:{name}" for name in names]

    async def _change(
        self, verb: str, group: str, *arguments: Any
    ) -> list[PresenceEvent]:
        """Run a script that changes one group; return the events that follow."""
        rows = await self._run(
            f"presence/{verb}",
            [*self._keys(group, *_KEYS, "pace"), f"{self._base(group)}:due"],
            [
                group,
                # The same for every attempt, so that retried claims are the same, too.
                secrets.token_hex(8),
                int(self.config.lease * 1000),
                self.config.pushes,
                _LIFE,
                *arguments,
            ],
        )
        return [
            PresenceEvent(
                group,
                kind.decode(),
                _member(client.decode(), identity.decode(), info.decode()),
                bool(push),
                None if changed_in < 0 else changed_in / 1000,
                claim.decode(),
            )
            for kind, client, identity, info, push, changed_in, claim in rows
        ]


def _identity(member: Member) -> str:
    """Return what a member is counted by: the user, or an anonymous connection."""
    return member.user or f"\0{member.client}"


def _member(client: str, identity: str, info: str) -> Member:
    return Member(client, "" if identity.startswith("\0") else identity, info or None)


def _portions(
    share: Mapping[str, Collection[str]],
) -> Iterator[list[tuple[str, list[str]]]]:
    """The connections of groups, as many at once as are well renewed in one script."""
    portion: list[tuple[str, list[str]]] = []
    size = 0
    for group, some in share.items():
        clients = list(some)
        for start in range(0, len(clients), _RENEWED_AT_ONCE):
            part = clients[start : start + _RENEWED_AT_ONCE]
            if portion and (
                size + len(part) > _RENEWED_AT_ONCE or len(portion) >= _GROUPS_AT_ONCE
            ):
                yield portion
                portion, size = [], 0
            portion.append((group, part))
            size += len(part)
    if portion:
        yield portion


def _connections(
    now: int, rows: Mapping[bytes, Any], over: Sequence[bytes], stale: Sequence[Any]
) -> Iterator[Member]:
    gone = set(over[::2])
    for client, (who, _, _, info, _) in rows.items():
        if client not in gone:
            yield _member(client.decode(), who, info)


def _users(
    now: int, users: Mapping[bytes, Any], over: Sequence[bytes], stale: Sequence[Any]
) -> Iterator[Member]:
    # Those whose connections have expired are as good as gone, reaped or not.
    lost: dict[str, int] = {}
    for deadline, packed in zip(over[1::2], stale, strict=True):
        if packed is not None:
            who, _, grace, *_ = msgspec.msgpack.decode(packed)
            if int(float(deadline)) + grace <= now:
                lost[who] = lost.get(who, 0) + 1
    for key, (client, info, _, connections, gone_at, _) in users.items():
        who = key.decode()
        if connections > lost.get(who, 0) or (not connections and gone_at > now):
            yield _member(client, who, info)
