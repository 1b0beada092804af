"""Processes in the database, and the members of groups in each of them.

The memberships of a process last as long as its row, which expires unless it is extended.
So a renewal changes one row, for any number of groups.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from typing import NamedTuple

from tiderace.layers.database.executor import Executor, one_by_one
from tiderace.layers.database.vendor import Cursor, FeedRow

_EXTEND = "ON CONFLICT (name) DO UPDATE SET expires_ms = excluded.expires_ms"


class _Announcement(NamedTuple):
    process: str
    joined: list[tuple[str, str]]
    left: list[tuple[str, str]]
    lease_ms: int


class _Report(NamedTuple):
    process: str
    data: bytes
    lease_ms: int


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
        await self._executor.write(_join, (name, member), lock=(f"stream {name}",))

    async def leave(self, subject: str, member: str) -> None:
        name = self._prefix + subject
        await self._executor.write(_leave, (name, member), lock=(f"stream {name}",))

    async def announce(
        self,
        process: str,
        joined: Collection[tuple[str, str]],
        left: Collection[tuple[str, str]],
        *,
        lease: float,
    ) -> None:
        announcement = _Announcement(
            self._prefix + process,
            [(self._prefix + subject, member) for subject, member in joined],
            [(self._prefix + subject, member) for subject, member in left],
            int(lease * 1000),
        )
        await self._executor.write(
            _announce, announcement, lock=(_lock(announcement.process),)
        )

    async def refresh(
        self, process: str, subjects: Collection[str], *, lease: float
    ) -> list[str]:
        name = self._prefix + process
        token = self._token

        def is_extended(cursor: Cursor) -> bool:
            """Return whether a report has just extended the lease."""
            return bool(
                cursor.fetch(
                    "SELECT 1 FROM tiderace_layer_process "
                    "WHERE name = %s AND token = %s AND expires_ms > %s",
                    (name, token, cursor.now_ms + int(lease * 1000) // 2),
                )
            )

        if await self._executor.read(is_extended):
            return []
        was_there = await self._executor.write(
            _refresh, (name, self._token, int(lease * 1000)), lock=(_lock(name),)
        )
        return [] if was_there else list(subjects)

    async def remove_process(self, process: str, subjects: Collection[str]) -> None:
        name = self._prefix + process
        await self._executor.write(_remove, name, lock=(_lock(name),))

    async def members(self, subject: str) -> list[str]:
        name = self._prefix + subject

        def read(cursor: Cursor) -> list[str]:
            rows = cursor.fetch(
                "SELECT channel FROM tiderace_layer_membership "
                "JOIN tiderace_layer_process ON name = process "
                "WHERE subject = %s AND expires_ms > %s "
                "UNION ALL SELECT member FROM tiderace_layer_member WHERE subject = %s",
                (name, cursor.now_ms, name),
            )
            return [member for (member,) in rows]

        return await self._executor.read(read)

    async def count(self, subject: str) -> int:
        return len(await self.members(subject))

    async def report(self, process: str, data: bytes, *, lease: float) -> None:
        report = _Report(self._prefix + process, data, int(lease * 1000))
        await self._executor.write(_report, report, lock=(_lock(report.process),))

    async def reports(self) -> list[bytes]:
        prefix = self._prefix

        def read(cursor: Cursor) -> list[bytes]:
            rows = cursor.fetch(
                "SELECT name, report FROM tiderace_layer_process WHERE expires_ms > %s",
                (cursor.now_ms,),
            )
            return [
                bytes(report)
                for name, report in rows
                if report is not None and name.startswith(prefix)
            ]

        return await self._executor.read(read)


def _lock(name: str) -> str:
    return f"process {name}"


@one_by_one
def _join(cursor: Cursor, argument: tuple[str, str]) -> None:
    subject, member = argument
    cursor.insert(
        "member",
        ("subject", "member", "joined_ms"),
        [(subject, member, cursor.now_ms)],
        "ON CONFLICT (subject, member) DO UPDATE SET joined_ms = excluded.joined_ms",
    )
    cursor.execute(
        "UPDATE tiderace_layer_stream SET has_members = TRUE WHERE subject = %s",
        (subject,),
    )


@one_by_one
def _leave(cursor: Cursor, argument: tuple[str, str]) -> None:
    cursor.execute(
        "DELETE FROM tiderace_layer_member WHERE subject = %s AND member = %s", argument
    )


@one_by_one
def _announce(cursor: Cursor, announcement: _Announcement) -> None:
    process, joined, left, lease_ms = announcement
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
        _EXTEND,
    )
    cursor.insert(
        "membership",
        ("subject", "process", "channel"),
        [(subject, process, channel) for subject, channel in joined],
        "ON CONFLICT (subject, process, channel) DO NOTHING",
    )


@one_by_one
def _refresh(cursor: Cursor, argument: tuple[str, str, int]) -> bool:
    """Extend a process's lease; return whether its memberships are still there."""
    process, token, lease_ms = argument
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
        f"{_EXTEND}, token = excluded.token",
    )
    return False


@one_by_one
def _remove(cursor: Cursor, process: str) -> None:
    cursor.execute(
        "DELETE FROM tiderace_layer_membership WHERE process = %s", (process,)
    )
    cursor.execute("DELETE FROM tiderace_layer_process WHERE name = %s", (process,))


@one_by_one
def _report(cursor: Cursor, report: _Report) -> None:
    process, data, lease_ms = report
    cursor.insert(
        "process",
        ("name", "report", "expires_ms"),
        [(process, data, cursor.now_ms + lease_ms)],
        f"{_EXTEND}, report = excluded.report",
    )
    cursor.announced.append(FeedRow(process))
