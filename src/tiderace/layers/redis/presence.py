"""Presence in Redis or Valkey: one script for each step, by the server's clock.

Keys (``P`` is the layer's prefix, ``G`` a group; in a cluster ``P:presence`` is
``{P:presence:NN}``, and groups with the same number share a slot):

==============================  ======================================================
``P:presence:G:rows``           connections in the group, with user and info
``P:presence:G:deadlines``      these connections by when they expire
``P:presence:G:users``          users in the group, with presence id and connections
``P:presence:G:claims``         events about users that are handed out, not confirmed
``P:presence:G:turns``          users by when their claim or grace ends
``P:presence:G:pace``           number of pushes in the present second
``P:presence:due``              groups by when something is due in them
==============================  ======================================================

All expire a day after their last change, so that a site that was stopped can return and
announce the leaves; ``pace`` expires with its second.
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

_KEYS_TTL_MS = 86_400_000

# Slots over which a cluster's groups are spread. Each is reaped by scripts of its own.
_SLOTS = 32

_GROUP_KEYS = ("rows", "deadlines", "users", "claims", "turns")
_MAX_GROUPS = 50  # in one script
_MAX_REFRESHED = 1000  # connections in one script


class RedisPresenceStore:
    """A ``PresenceStore`` over one server, Sentinel set-up or cluster.

    A step that is retried after a lost connection takes effect once. The one exception:
    the leave of a connection is not announced when the reply was lost; members that are
    read later are correct.

    Args:
        config: times and limits.
        run_script: ``CommandRunner.run_script``.
        prefix: the beginning of every key.
        cluster: whether the keys of one script must be in one slot.
        crypter: a ``MultiFernet`` for the info of members; None for no encryption.
    """

    def __init__(
        self,
        config: PresenceConfig,
        run_script: Callable[..., Awaitable[Any]],
        prefix: str,
        *,
        cluster: bool,
        crypter: Any = None,
    ) -> None:
        self.config = config
        self._crypter = crypter
        self._run_script = run_script
        self._bases = [f"{prefix}:presence"]
        if cluster:
            self._bases = [f"{{{prefix}:presence:{slot}}}" for slot in range(_SLOTS)]

    async def add(
        self,
        group: str,
        member: Member,
        *,
        per_user: bool,
        grace: float,
        stayed: bool = False,
    ) -> list[PresenceEvent]:
        return await self._change(
            "presence/add",
            group,
            client=member.client,
            identity=_identity(member),
            info=self._encrypt(member.info) if member.info else "",
            per_user=int(per_user),
            grace_ms=int(grace * 1000) if member.user else 0,
            ttl_ms=int(self.config.ttl * 1000),
            # An anonymous user is its only connection.
            new_id=secrets.token_hex(12) if member.user else member.client,
            stayed=int(stayed),
        )

    async def remove(self, group: str, client: str) -> list[PresenceEvent]:
        return await self._change("presence/remove", group, client=client)

    async def confirm(self, event: PresenceEvent) -> list[PresenceEvent]:
        return await self._change(
            "presence/confirm",
            event.group,
            identity=_identity(event.member),
            claim=event.claim,
        )

    async def refresh(
        self, clients: Mapping[str, Collection[str]]
    ) -> list[tuple[str, str]]:
        shares: dict[str, dict[str, Collection[str]]] = {}
        for group, some in clients.items():
            shares.setdefault(self._base(group), {})[group] = some
        missing: list[tuple[str, str]] = []

        async def refresh_share(base: str, share: dict[str, Collection[str]]) -> None:
            for batch in _batches(share):
                keys: list[str] = []
                arguments: list[Any] = []
                for group, some in batch:
                    keys += [f"{base}:{group}:{name}" for name in _GROUP_KEYS]
                    arguments += [group, len(some), *some]
                found = await self._run_script(
                    "presence/refresh",
                    due=f"{base}:due",
                    more_keys=keys,
                    ttl_ms=int(self.config.ttl * 1000),
                    keys_ttl_ms=_KEYS_TTL_MS,
                    more_arguments=arguments,
                )
                missing.extend(
                    (batch[found[place]][0], found[place + 1].decode())
                    for place in range(0, len(found), 2)
                )

        await asyncio.gather(*(refresh_share(*each) for each in shares.items()))
        return missing

    async def members(self, group: str, *, per_user: bool) -> dict[str, Member]:
        now, fields, expired, expired_rows = await self._run_script(
            "presence/members",
            **self._keys(group, "rows", "deadlines", "users"),
            per_user=int(per_user),
        )
        entries = {
            fields[place]: msgspec.msgpack.decode(fields[place + 1])
            for place in range(0, len(fields), 2)
        }
        if per_user:
            rows = _users(now, entries, expired, expired_rows)
        else:
            rows = _connections(entries, expired)
        return {row[0]: self._member(*row) for row in rows}

    async def stats(self, group: str) -> PresenceStats:
        """Return the number of members; users who are due to be reaped still count."""
        keys = self._keys(group, "deadlines", "users")
        return PresenceStats(*await self._run_script("presence/stats", **keys))

    async def reap(self, limit: int) -> ReapResult:
        found = await asyncio.gather(
            *(
                self._run_script("presence/due", due=f"{base}:due", limit=_MAX_GROUPS)
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
                events += await self._change("presence/reap", group, limit=limit)
            except LayerUnavailable:
                # These events are handed out only once; the next call raises the error.
                if not events:
                    raise
                break
        return ReapResult(events, 0.0)

    def _base(self, group: str) -> str:
        return self._bases[zlib.crc32(group.encode()) % len(self._bases)]

    def _keys(self, group: str, *names: str) -> dict[str, str]:
        base = self._base(group)
        return {name: f"{base}:{group}:{name}" for name in names}

    async def _change(
        self, script: str, group: str, **arguments: Any
    ) -> list[PresenceEvent]:
        """Run a script that changes one group; return the events that follow."""
        rows = await self._run_script(
            script,
            **self._keys(group, *_GROUP_KEYS, "pace"),
            due=f"{self._base(group)}:due",
            group=group,
            # The same token for every attempt, so that a retry repeats its own claims.
            token=secrets.token_hex(8),
            lease_ms=int(self.config.lease * 1000),
            pushes=self.config.pushes,
            keys_ttl_ms=_KEYS_TTL_MS,
            **arguments,
        )
        return [
            PresenceEvent(
                group,
                kind.decode(),
                self._member(client.decode(), identity.decode(), info.decode()),
                bool(push),
                None if changed_in < 0 else changed_in / 1000,
                claim.decode(),
            )
            for kind, client, identity, info, push, changed_in, claim in rows
        ]

    def _encrypt(self, info: str) -> str:
        if self._crypter is None:
            return info
        encrypted: bytes = self._crypter.encrypt(info.encode())
        return encrypted.decode()

    def _member(self, client: str, identity: str, info: str) -> Member:
        if info and self._crypter is not None:
            try:
                info = self._crypter.decrypt(info).decode()
            except Exception:  # with another key, or from before the encryption
                info = ""
        user = "" if identity.startswith("\0") else identity
        return Member(client, user, info or None)


def _identity(member: Member) -> str:
    """Return the identity by which a member is counted: user or anonymous connection."""
    return member.user or f"\0{member.client}"


def _batches(
    share: Mapping[str, Collection[str]],
) -> Iterator[list[tuple[str, list[str]]]]:
    """Divide the connections of groups into batches of one script each."""
    batch: dict[str, list[str]] = {}
    size = 0
    for group, clients in share.items():
        for client in clients:
            is_new = group not in batch
            if size == _MAX_REFRESHED or (is_new and len(batch) == _MAX_GROUPS):
                yield list(batch.items())
                batch, size = {}, 0
            batch.setdefault(group, []).append(client)
            size += 1
    if batch:
        yield list(batch.items())


def _connections(
    rows: Mapping[bytes, Any], expired: Sequence[bytes]
) -> Iterator[tuple[str, str, str]]:
    """Yield id, identity and info of the connections that have not expired."""
    gone = set(expired[::2])
    for client, (identity, _, _, info, _) in rows.items():
        if client not in gone:
            yield client.decode(), identity, info


def _users(
    now: int,
    users: Mapping[bytes, Any],
    expired: Sequence[bytes],
    expired_rows: Sequence[Any],
) -> Iterator[tuple[str, str, str]]:
    """Yield presence id, identity and info of the users who are present."""
    # A connection that expired longer than its grace ago no longer counts, whether or not
    # it has been reaped.
    stale: dict[str, int] = {}
    for expired_at, packed in zip(expired[1::2], expired_rows, strict=True):
        if packed is not None:
            identity, _, grace_ms, *_ = msgspec.msgpack.decode(packed)
            if int(float(expired_at)) + grace_ms <= now:
                stale[identity] = stale.get(identity, 0) + 1
    for key, (client, info, _, connections, gone_at, _) in users.items():
        identity = key.decode()
        if connections > stale.get(identity, 0) or (not connections and gone_at > now):
            yield client, identity, info
