"""Publications in Redis: one stream for each group, with its epoch and offsets.

It knows the scripts and keys of streams, and neither who hears them nor what is in them.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from tiderace.history import Position
from tiderace.layers.broker import Entry, Published, Retention
from tiderace.layers.redis.commands import CommandRunner
from tiderace.layers.redis.keys import KeySchema

__all__ = ["RedisStreams"]

_EPOCH_LENGTH = 6  # bytes

# Seconds by which the clock of a server that takes over may be ahead.
_CLOCKS_DIFFER = 5.0

# A position outlives what was kept by so many times.
_POSITION_LASTS = 10

# Milliseconds in which a publication under the same idempotency key is the same one.
_KEY_REMEMBERED = 300_000

# More messages than a replica can be behind. Chance decides the rest, so that two leaps
# from one place do not meet.
_LEAP = 1 << 20


class RedisStreams:
    """The verbs of ``Broker`` that are about publications; raises what they raise."""

    def __init__(self, commands: CommandRunner, keys: KeySchema) -> None:
        self._commands = commands
        self._keys = keys

    async def publish(
        self,
        subject: str,
        data: bytes,
        *,
        keep: Retention,
        members_age: float,
        history: Retention | None = None,
        key: str = "",
    ) -> Published:
        group = self._keys.group(subject)
        milliseconds = int(keep.seconds * 1000)
        keys = [f"{group}:stream", f"{group}:meta", group]
        if key:
            keys.append(f"{group}:once:{key}")
        arguments = [
            self._keys.group_channel(subject),
            data,
            secrets.token_bytes(12),
            keep.size,
            milliseconds,
            milliseconds * _POSITION_LASTS,
            secrets.token_hex(_EPOCH_LENGTH),
            0,
            int(members_age * 1000),
            _LEAP + secrets.randbelow(_LEAP),
            0,
            self._keys.publish,
            "" if history is None else history.size,
            "" if history is None else int(history.seconds * 1000),
            _KEY_REMEMBERED,
        ]
        begun = time.monotonic()

        async def attempt(again: bool) -> Any:
            arguments[7] = 1 if again else 0
            arguments[10] = int((time.monotonic() - begun + _CLOCKS_DIFFER) * 1000)
            return await self._commands.try_script("publish", keys, arguments)

        epoch, offset, members = await self._commands.call_with_retry(attempt)
        return Published(
            Position(epoch.decode(), offset), [member.decode() for member in members]
        )

    async def find_published(self, subject: str, key: str) -> Position | None:
        found: bytes | None = await self._commands.execute(
            "GET", f"{self._keys.group(subject)}:once:{key}"
        )
        if found is None:
            return None
        epoch, offset, _ = found.split(b" ", 2)
        return Position(epoch.decode(), int(offset))

    async def position(self, subject: str) -> Position | None:
        end, _ = await self.read_after(subject, None)
        return end

    async def read_after(
        self, subject: str, offset: int | None
    ) -> tuple[Position | None, Sequence[Entry]]:
        """Without an offset, return no entries."""
        group = self._keys.group(subject)
        epoch, top, entries = await self._commands.run_script(
            "read_after",
            [f"{group}:stream", f"{group}:meta"],
            ["" if offset is None else offset],
        )
        if not epoch:
            return None, []
        return Position(epoch.decode(), top), _entries(entries)

    async def read(
        self,
        subject: str,
        *,
        history: Retention,
        keep: Retention,
        since: Position | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> tuple[Position, Sequence[Entry]]:
        # All of it is sooner found from its end, where what has expired comes last.
        backwards = reverse or limit is None

        async def portion(
            above: int | str, below: int | str, size: int | str, had: int
        ) -> tuple[Position, list[Entry], bool, int, int]:
            arguments = [
                "" if since is None else since.epoch,
                above,
                below,
                -1 if limit is None else limit - had,
                int(backwards),
                size,
                int(history.seconds * 1000),
                secrets.token_hex(_EPOCH_LENGTH),
                int(keep.seconds * 1000) * _POSITION_LASTS,
            ]
            return await self._read_portion(subject, arguments)

        above: int | str = "" if since is None or reverse else since.offset
        below: int | str = since.offset if since is not None and reverse else ""
        top, entries, more, above, below = await portion(above, below, history.size, 0)
        while more:
            # These bounds say it all, and what is new by now is not asked for.
            end, some, more, above, below = await portion(
                above, below, "", len(entries)
            )
            if end.epoch != top.epoch:
                break  # it was lost while it was read
            entries += some
        if backwards and not reverse:
            entries.reverse()
        return top, entries

    async def _read_portion(
        self, subject: str, arguments: list[Any]
    ) -> tuple[Position, list[Entry], bool, int, int]:
        """Some of a stream, whether there is more, and the bounds for that."""
        group = self._keys.group(subject)
        epoch, top, entries, more, above, below = await self._commands.run_script(
            "read", [f"{group}:stream", f"{group}:meta"], arguments
        )
        end = Position(epoch.decode(), top)
        return end, _entries(entries), bool(more), above, below

    async def delete_history(self, subject: str) -> None:
        await self._commands.execute("DEL", f"{self._keys.group(subject)}:stream")


def _entries(found: Sequence[Any]) -> list[Entry]:
    return [
        Entry(number, before, age / 1000, data) for number, before, age, data in found
    ]
