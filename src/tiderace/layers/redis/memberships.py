"""Processes in Redis, and who is in which group in each of them.

It knows the scripts and keys of members and of reports, and no group's messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from tiderace.layers.redis.commands import CommandRunner
from tiderace.layers.redis.keys import KeySchema

__all__ = ["RedisMemberships"]

_KEYS_AT_ONCE = 500
_CALLS_AT_ONCE = 100


class RedisMemberships:
    """The verbs of ``Broker`` that are about members and processes.

    They raise what those raise.

    Args:
        commands: runs commands and scripts.
        names: what the keys are called.
        cluster: whether every command may have the keys of one group only.
    """

    def __init__(
        self, commands: CommandRunner, keys: KeySchema, *, cluster: bool
    ) -> None:
        self._commands = commands
        self._keys = keys
        self._cluster = cluster

    async def join(self, subject: str, member: str, *, seconds: float) -> None:
        await self._commands.run_script(
            "join", [self._keys.group(subject)], [member, int(seconds * 1000)]
        )

    async def leave(self, subject: str, member: str) -> None:
        await self._commands.execute("ZREM", self._keys.group(subject), member)

    async def announce(
        self,
        process: str,
        joined: Collection[tuple[str, str]],
        left: Collection[tuple[str, str]],
        *,
        lease: float,
    ) -> None:
        changes: dict[str, tuple[list[str], list[str]]] = {}
        for which, pairs in enumerate((left, joined)):
            for subject, member in pairs:
                changes.setdefault(subject, ([], []))[which].append(member)

        async def announce_some(subjects: list[str]) -> None:
            arguments: list[Any] = [int(lease * 1000)]
            for subject in subjects:
                for members in changes[subject]:
                    arguments += [len(members), *members]
            await self._commands.run_script(
                "announce", self._member_keys(process, subjects), arguments
            )

        await self._in_portions(announce_some, list(changes))
        if joined:
            await self._heartbeat(process, lease)

    async def refresh(
        self, process: str, subjects: Collection[str], *, lease: float
    ) -> list[str]:
        lost: list[str] = []

        async def refresh_some(some: list[str]) -> None:
            places = await self._commands.run_script(
                "refresh", self._member_keys(process, some), [int(lease * 1000)]
            )
            lost.extend(some[place - 1] for place in places)

        await self._in_portions(refresh_some, list(subjects))
        await self._heartbeat(process, lease)
        return lost

    async def remove_process(self, process: str, subjects: Collection[str]) -> None:

        async def remove_some(some: list[str]) -> None:
            await self._commands.execute("UNLINK", *self._member_keys(process, some))

        await self._in_portions(remove_some, list(subjects))
        await self._commands.execute("UNLINK", self._keys.stats(process))
        await self._commands.execute("ZREM", self._keys.processes, process)

    def _member_keys(self, process: str, subjects: Collection[str]) -> list[str]:
        return [self._keys.members(process, subject) for subject in subjects]

    async def _in_portions(
        self, do: Callable[[list[str]], Awaitable[None]], subjects: list[str]
    ) -> None:
        """Do it for so many subjects at once as may be in one command."""
        if not self._cluster:
            for start in range(0, len(subjects), _KEYS_AT_ONCE):
                await do(subjects[start : start + _KEYS_AT_ONCE])
            return
        # Their keys are in slots of their own.
        for start in range(0, len(subjects), _CALLS_AT_ONCE):
            some = subjects[start : start + _CALLS_AT_ONCE]
            await asyncio.gather(*(do([subject]) for subject in some))

    async def members(self, subject: str) -> list[str]:
        living = await self._living()
        plain, *sets = await asyncio.gather(
            self._commands.execute("ZRANGE", self._keys.group(subject), 0, -1),
            *(
                self._commands.execute("SMEMBERS", self._keys.members(process, subject))
                for process in living
            ),
        )
        return [name.decode() for names in (*sets, plain) for name in names]

    async def count(self, subject: str) -> int:
        living = await self._living()
        return sum(
            await asyncio.gather(
                self._commands.execute("ZCARD", self._keys.group(subject)),
                *(
                    self._commands.execute(
                        "SCARD", self._keys.members(process, subject)
                    )
                    for process in living
                ),
            )
        )

    async def report(self, process: str, data: bytes, *, lease: float) -> None:
        await self._commands.run_script(
            "report",
            [self._keys.stats(process)],
            [
                self._keys.queue_channel(process),
                data,
                int(lease * 1000),
                self._keys.publish,
            ],
        )
        await self._heartbeat(process, lease)

    async def reports(self) -> list[bytes]:
        living = await self._living()
        kept: list[bytes | None] = await asyncio.gather(
            *(self._commands.execute("GET", self._keys.stats(each)) for each in living)
        )
        return [data for data in kept if data is not None]

    async def _living(self) -> list[str]:
        # To list them needs a lease too: that of the last who beat is kept by the key's
        # own expiry, so any long one will do.
        return [each.decode() for each in await self._heartbeat("", 86400)]

    async def _heartbeat(self, process: str, lease: float) -> list[bytes]:
        """Say that a process lives; all that do."""
        living: list[bytes] = await self._commands.run_script(
            "heartbeat", [self._keys.processes], [process, int(lease * 1000)]
        )
        return living
