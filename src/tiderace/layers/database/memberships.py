"""Processes in the database, and the members of groups in each of them.

The memberships of a process last as long as its row, which expires unless it is extended.
So a renewal changes one row, for any number of groups.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from typing import Any

from tiderace.layers.database.executor import Executor
from tiderace.layers.database.vendor import Cursor, FeedRow, replacing


class DatabaseMemberships:
    """A ``MembershipStore`` in a database.

    Args:
        executor: runs the operations.
        prefix: the beginning of every stored name.
    """

    def __init__(self, executor: Executor, prefix: str) -> None:
        self._executor = executor
        self._prefix = prefix
        # Written by a renewal. A row without it was created anew after the old one had
        # expired, and the memberships were deleted with that.
        self._token = secrets.token_hex(8)

    async def join(self, subject: str, member: str, *, seconds: float) -> None:
        # ``seconds`` is applied by the reader: ``members_age`` of a publication.
        name = self._prefix + subject
        await self._executor.write(_join, name, member, lock=(f"stream {name}",))

    async def leave(self, subject: str, member: str) -> None:
        name = self._prefix + subject
        await self._executor.write(_leave, name, member, lock=(f"stream {name}",))

    async def announce(
        self,
        process: str,
        joined: Collection[tuple[str, str]],
        left: Collection[tuple[str, str]],
        *,
        lease: float,
    ) -> None:
        name = self._prefix + process
        await self._executor.write(
            _announce,
            name,
            [(self._prefix + subject, member) for subject, member in joined],
            [(self._prefix + subject, member) for subject, member in left],
            int(lease * 1000),
            lock=(_lock(name),),
        )

    async def refresh(
        self, process: str, subjects: Collection[str], *, lease: float
    ) -> list[str]:
        name = self._prefix + process
        row = (name, self._token, int(lease * 1000))
        was_there = await self._executor.read(
            _is_extended, *row
        ) or await self._executor.write(_refresh, *row, lock=(_lock(name),))
        return [] if was_there else list(subjects)

    async def remove_process(self, process: str, subjects: Collection[str]) -> None:
        name = self._prefix + process
        await self._executor.write(_remove, name, lock=(_lock(name),))

    async def members(self, subject: str) -> list[str]:
        rows = await self._executor.read(_read_members, self._prefix + subject)
        return [member for (member,) in rows]

    async def count(self, subject: str) -> int:
        return len(await self.members(subject))

    async def report(self, process: str, data: bytes, *, lease: float) -> None:
        name = self._prefix + process
        await self._executor.write(
            _report, name, data, int(lease * 1000), lock=(_lock(name),)
        )

    async def reports(self) -> list[bytes]:
        return [
            bytes(report)
            for name, report in await self._executor.read(_read_reports)
            if report is not None and name.startswith(self._prefix)
        ]


def _lock(name: str) -> str:
    return f"process {name}"


def _read_members(cursor: Cursor, subject: str) -> list[tuple[Any, ...]]:
    return cursor.fetch(
        "SELECT channel FROM tiderace_layer_membership "
        "JOIN tiderace_layer_process ON name = process "
        "WHERE subject = %s AND expires_ms > %s "
        "UNION ALL SELECT member FROM tiderace_layer_member WHERE subject = %s",
        (subject, cursor.now_ms, subject),
    )


def _read_reports(cursor: Cursor) -> list[tuple[Any, ...]]:
    return cursor.fetch(
        "SELECT name, report FROM tiderace_layer_process WHERE expires_ms > %s",
        (cursor.now_ms,),
    )


def _join(cursor: Cursor, subject: str, member: str) -> None:
    cursor.insert(
        "member",
        ("subject", "member", "joined_ms"),
        [(subject, member, cursor.now_ms)],
        replacing("subject, member", "joined_ms"),
    )
    cursor.execute(
        "UPDATE tiderace_layer_stream SET has_members = TRUE WHERE subject = %s",
        (subject,),
    )


def _leave(cursor: Cursor, subject: str, member: str) -> None:
    cursor.execute(
        "DELETE FROM tiderace_layer_member WHERE subject = %s AND member = %s",
        (subject, member),
    )


def _announce(
    cursor: Cursor,
    process: str,
    joined: list[tuple[str, str]],
    left: list[tuple[str, str]],
    lease_ms: int,
) -> None:
    for subject, channel in left:
        cursor.execute(
            "DELETE FROM tiderace_layer_membership "
            "WHERE subject = %s AND process = %s AND channel = %s",
            (subject, process, channel),
        )
    if not joined:
        return
    cursor.insert(
        "process",
        ("name", "expires_ms"),
        [(process, cursor.now_ms + lease_ms)],
        replacing("name", "expires_ms"),
    )
    cursor.insert(
        "membership",
        ("subject", "process", "channel"),
        [(subject, process, channel) for subject, channel in joined],
        "ON CONFLICT (subject, process, channel) DO NOTHING",
    )


def _is_extended(cursor: Cursor, process: str, token: str, lease_ms: int) -> bool:
    """Return whether a report has just extended the lease."""
    return bool(
        cursor.fetch(
            "SELECT 1 FROM tiderace_layer_process "
            "WHERE name = %s AND token = %s AND expires_ms > %s",
            (process, token, cursor.now_ms + lease_ms // 2),
        )
    )


def _refresh(cursor: Cursor, process: str, token: str, lease_ms: int) -> bool:
    """Extend a process's lease; return whether its memberships are still there."""
    expires_ms = cursor.now_ms + lease_ms
    if cursor.execute(
        "UPDATE tiderace_layer_process SET expires_ms = %s WHERE name = %s AND token = %s",
        (expires_ms, process, token),
    ):
        return True
    cursor.insert(
        "process",
        ("name", "token", "expires_ms"),
        [(process, token, expires_ms)],
        replacing("name", "token", "expires_ms"),
    )
    return False


def _remove(cursor: Cursor, process: str) -> None:
    cursor.execute(
        "DELETE FROM tiderace_layer_membership WHERE process = %s", (process,)
    )
    cursor.execute("DELETE FROM tiderace_layer_process WHERE name = %s", (process,))


def _report(cursor: Cursor, process: str, data: bytes, lease_ms: int) -> None:
    cursor.insert(
        "process",
        ("name", "report", "expires_ms"),
        [(process, data, cursor.now_ms + lease_ms)],
        replacing("name", "report", "expires_ms"),
    )
    cursor.announced.append(FeedRow(process))
