"""Processes in Redis, and the members of groups in each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from tiderace.layers.redis.commands import CommandRunner
from tiderace.layers.redis.keys import KeySchema

# The most groups in one command, and the most commands at once in a cluster.
_BATCH_SIZE = 500
_MAX_CONCURRENCY = 100

# The lease for listing processes without a heartbeat of this one: any time that is longer
# than the lease of a process, as the key expires with the last heartbeat.
_LISTING_LEASE = 86400.0


class RedisMemberships:
    """A ``MembershipStore`` over one server, Sentinel set-up or cluster.

    Args:
        commands: runs commands and scripts.
        keys: the names of the keys.
        cluster: whether a command may have the keys of one group only.
    """

    def __init__(
        self, commands: CommandRunner, keys: KeySchema, *, cluster: bool
    ) -> None:
        self._commands = commands
        self._keys = keys
        self._cluster = cluster

    async def join(self, subject: str, member: str, *, seconds: float) -> None:
        await self._commands.run_script(
            "join",
            members=self._keys.group(subject),
            member=member,
            ttl_ms=int(seconds * 1000),
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

        async def announce_batch(subjects: list[str]) -> None:
            arguments: list[Any] = []
            for subject in subjects:
                for members in changes[subject]:
                    arguments += [len(members), *members]
            await self._commands.run_script(
                "announce",
                more_keys=self._member_keys(process, subjects),
                lease_ms=int(lease * 1000),
                more_arguments=arguments,
            )

        await self._in_batches(announce_batch, list(changes))
        if joined:
            await self._heartbeat(process, lease)

    async def refresh(
        self, process: str, subjects: Collection[str], *, lease: float
    ) -> list[str]:
        missing: list[str] = []

        async def refresh_batch(batch: list[str]) -> None:
            positions = await self._commands.run_script(
                "refresh",
                more_keys=self._member_keys(process, batch),
                lease_ms=int(lease * 1000),
            )
            missing.extend(batch[position - 1] for position in positions)

        await self._in_batches(refresh_batch, list(subjects))
        await self._heartbeat(process, lease)
        return missing

    async def remove_process(self, process: str, subjects: Collection[str]) -> None:
        async def remove_batch(batch: list[str]) -> None:
            await self._commands.execute("UNLINK", *self._member_keys(process, batch))

        await self._in_batches(remove_batch, list(subjects))
        await self._commands.execute("UNLINK", self._keys.stats(process))
        await self._commands.execute("ZREM", self._keys.processes, process)

    async def members(self, subject: str) -> list[str]:
        processes = await self._processes()
        named, *sets = await asyncio.gather(
            self._commands.execute("ZRANGE", self._keys.group(subject), 0, -1),
            *(
                self._commands.execute("SMEMBERS", self._keys.members(each, subject))
                for each in processes
            ),
        )
        return [name.decode() for names in (*sets, named) for name in names]

    async def count(self, subject: str) -> int:
        processes = await self._processes()
        return sum(
            await asyncio.gather(
                self._commands.execute("ZCARD", self._keys.group(subject)),
                *(
                    self._commands.execute("SCARD", self._keys.members(each, subject))
                    for each in processes
                ),
            )
        )

    async def report(self, process: str, data: bytes, *, lease: float) -> None:
        await self._commands.run_script(
            "report",
            stats=self._keys.stats(process),
            channel=self._keys.queue_channel(process),
            data=data,
            ttl_ms=int(lease * 1000),
            publish=self._keys.publish_command,
        )
        await self._heartbeat(process, lease)

    async def reports(self) -> list[bytes]:
        processes = await self._processes()
        stored: list[bytes | None] = await asyncio.gather(
            *(
                self._commands.execute("GET", self._keys.stats(each))
                for each in processes
            )
        )
        return [data for data in stored if data is not None]

    async def _processes(self) -> list[str]:
        """Return the processes that are alive."""
        return [each.decode() for each in await self._heartbeat("", _LISTING_LEASE)]

    async def _heartbeat(self, process: str, lease: float) -> list[bytes]:
        """Note that a process is alive; return the processes that are."""
        alive: list[bytes] = await self._commands.run_script(
            "heartbeat",
            processes=self._keys.processes,
            process=process,
            lease_ms=int(lease * 1000),
        )
        return alive

    def _member_keys(self, process: str, subjects: Collection[str]) -> list[str]:
        return [self._keys.members(process, subject) for subject in subjects]

    async def _in_batches(
        self, handle: Callable[[list[str]], Awaitable[None]], subjects: list[str]
    ) -> None:
        """Call ``handle`` with as many subjects as one command may have."""
        if not self._cluster:
            for start in range(0, len(subjects), _BATCH_SIZE):
                await handle(subjects[start : start + _BATCH_SIZE])
            return
        # Each subject has a slot of its own.
        for start in range(0, len(subjects), _MAX_CONCURRENCY):
            batch = subjects[start : start + _MAX_CONCURRENCY]
            await asyncio.gather(*(handle([subject]) for subject in batch))
