"""Publications in Redis: one stream for each group, with its epoch and offsets."""

from __future__ import annotations

import math
import secrets
import struct
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

from tiderace.exceptions import RateExceeded
from tiderace.history import Position
from tiderace.layers.broker import KEY_TTL, Published, Retention, StreamMessage
from tiderace.layers.random_bytes import random_bytes
from tiderace.layers.redis.commands import CommandRunner
from tiderace.layers.redis.keys import KeySchema
from tiderace.layers.redis.scripts import SCRIPTS, pack
from tiderace.ratelimit import Rate

# Bytes of a message's id, and of an epoch. The script takes the random part of a new epoch
# or a leap from the first bytes of the id.
_ID_SIZE = 12
_EPOCH_SIZE = 6

# Groups whose parts of a command are cached, half a kilobyte each.
_CACHED_GROUPS = 8192

# Seconds by which the clock of a server that takes over may be ahead.
_MAX_CLOCK_DIFFERENCE = 5.0

# A position is kept this many times as long as the messages.
_POSITION_LIFETIMES = 10

# Before the first message, the position is kept this many times as long as the messages;
# listeners extend it once in that time.
_EMPTY_LIFETIMES = 3

# The least number of offsets that are skipped after a failover: more messages than a
# replica can be behind. Up to as many again are added at random, so that two leaps from
# one offset do not reach the same one.
_LEAP = 1 << 20


class RedisStreams:
    """A ``StreamStore`` over one server, Sentinel set-up or cluster.

    Args:
        commands: runs commands and scripts.
        keys: the names of the keys.
        max_bytes: bytes of messages that each stream keeps.
    """

    def __init__(
        self, commands: CommandRunner, keys: KeySchema, *, max_bytes: int
    ) -> None:
        self._max_bytes = max_bytes
        self._commands = commands
        self._keys = keys
        self._parts: dict[str, tuple[bytes, bytes]] = {}

    async def publish(
        self,
        subject: str,
        data: bytes,
        *,
        keep: Retention,
        members_age: float,
        history: Retention | None = None,
        key: str = "",
        key_ttl: float = KEY_TTL,
        limit: tuple[str, Rate] | None = None,
    ) -> Published:
        if limit is not None and self._keys.is_cluster:
            # Its bucket is in another slot than the stream.
            if wait := await self.take_token(*limit):
                raise RateExceeded(wait)
            limit = None
        bucket = None if limit is None else self._keys.rate(limit[0])
        rate = None if limit is None else limit[1]
        once = self._keys.once(subject, key) if key else None
        once_ttl_ms = int(key_ttl * 1000) if key else None
        message_id = random_bytes(_ID_SIZE)
        begun = time.monotonic()

        async def attempt(is_retry: bool) -> Any:
            elapsed = time.monotonic() - begun + _MAX_CLOCK_DIFFERENCE
            return await self._commands.try_script(
                "publish",
                stream=self._keys.stream(subject),
                meta=self._keys.meta(subject),
                members=self._keys.group(subject),
                server=self._keys.server(subject),
                bucket=bucket,
                once=once,
                channel=self._keys.group_channel(subject),
                publish=self._keys.publish_command,
                data=data,
                id=message_id,
                options=_options(keep, history, members_age, self._max_bytes),
                rate=_pack_rate(rate),
                once_ttl_ms=once_ttl_ms or 0,
                since_ms=int(elapsed * 1000) if is_retry else None,
            )

        # The command of ``attempt``, packed in an eighth of the time.
        keys, arguments = self._parts_of_command(subject)
        options = keep, history, members_age, self._max_bytes
        first = self._commands.begin(
            b"%b%b%b%b%b$%d\r\n%b\r\n$%d\r\n%b\r\n%b"
            % (
                _STARTS[bucket is not None, once is not None],
                keys,
                b"" if bucket is None else pack(bucket),
                b"" if once is None else pack(once),
                arguments,
                len(data),
                data,
                _ID_SIZE,
                message_id,
                _end_of_command(rate, once_ttl_ms, *options),
            )
        )
        reply = await self._commands.call_with_retry(attempt, first, begun)
        names: Sequence[str] = ()
        if isinstance(reply, int):
            raise RateExceeded(reply / 1000)
        if isinstance(reply, list):
            reply, members = reply
            names = [member.decode() for member in members]
        epoch, offset = reply.split()
        return Published(Position(epoch.decode(), int(offset)), names)

    def _parts_of_command(self, subject: str) -> tuple[bytes, bytes]:
        """Return the packed keys and first arguments of a publication to a group."""
        parts = self._parts.get(subject)
        if parts is None:
            if len(self._parts) >= _CACHED_GROUPS:
                self._parts.clear()
            keys = self._keys
            parts = self._parts[subject] = (
                pack(
                    keys.stream(subject),
                    keys.meta(subject),
                    keys.group(subject),
                    keys.server(subject),
                ),
                pack(keys.group_channel(subject), keys.publish_command),
            )
        return parts

    async def take_token(self, key: str, rate: Rate) -> float:
        """Take a token from the bucket ``key``; see ``Broker.take_token``."""
        bucket, period_ms = self._keys.rate(key), int(rate.seconds * 1000)
        # The first command of the script, which most calls need alone, takes a third of
        # its time.
        interval = math.ceil(period_ms / rate.count)
        if await self._commands.execute("SET", bucket, 0, "PX", interval, "NX"):
            return 0.0
        wait: int = await self._commands.run_script(
            "take_token", bucket=bucket, count=rate.count, period_ms=period_ms
        )
        return wait / 1000

    async def find_published(self, subject: str, key: str) -> Position | None:
        found: bytes | None = await self._commands.execute(
            "GET", self._keys.once(subject, key)
        )
        if found is None:
            return None
        epoch, offset, _ = found.split(b" ", 2)
        return Position(epoch.decode(), int(offset))

    async def expire_keys(self, subject: str, keys: Sequence[str]) -> None:
        await self._commands.run_script(
            "expire_keys",
            more_keys=[self._keys.once(subject, key) for key in keys],
            ttl_ms=int(KEY_TTL * 1000),
        )

    async def position(self, subject: str) -> Position | None:
        end, _ = await self.read_after(subject, None)
        return end

    async def read_after(
        self, subject: str, offset: int | None
    ) -> tuple[Position | None, Sequence[StreamMessage]]:
        """Without an offset, return no entries."""
        epoch, last_offset, entries = await self._commands.run_script(
            "read_after",
            stream=self._keys.stream(subject),
            meta=self._keys.meta(subject),
            offset="" if offset is None else offset,
        )
        if not epoch:
            return None, []
        end = Position(epoch.decode(), last_offset)
        return end, _messages(subject, end.epoch, entries)

    async def read(
        self,
        subject: str,
        *,
        history: Retention,
        keep: Retention,
        since: Position | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> tuple[Position, Sequence[StreamMessage]]:
        # Reading all entries is faster from the end, as the expired ones come last then.
        backwards = reverse or limit is None
        values: dict[str, Any] = {
            "since_epoch": "" if since is None else since.epoch,
            "above": "" if since is None or reverse else since.offset,
            "below": since.offset if since is not None and reverse else "",
            "limit": -1 if limit is None else limit,
            "reverse": int(backwards),
            "history_size": history.size,
            "history_ttl_ms": int(history.seconds * 1000),
            "new_epoch": secrets.token_hex(_EPOCH_SIZE),
            "position_ttl_ms": int(keep.seconds * 1000) * _POSITION_LIFETIMES,
            "empty_ttl_ms": int(keep.seconds * 1000) * _EMPTY_LIFETIMES,
        }
        end: Position | None = None
        messages: list[StreamMessage] = []
        has_more = 1
        while has_more:
            reply = await self._commands.run_script(
                "read",
                stream=self._keys.stream(subject),
                meta=self._keys.meta(subject),
                server=self._keys.server(subject),
                **values,
            )
            epoch, last_offset, entries, has_more, above, below = reply
            here = Position(epoch.decode(), last_offset)
            end = end or here
            if here.epoch != end.epoch:
                break  # the stream was lost meanwhile
            messages += _messages(subject, end.epoch, entries)
            # The bounds of the page cover the history, and exclude newer messages.
            values |= {"history_size": "", "above": above, "below": below}
            if limit is not None:
                values["limit"] = limit - len(messages)
        if backwards and not reverse:
            messages.reverse()
        return cast("Position", end), messages

    async def delete_history(self, subject: str) -> None:
        await self._commands.execute("DEL", self._keys.stream(subject))


@lru_cache(maxsize=1024)
def _options(
    keep: Retention, history: Retention | None, members_age: float, max_bytes: int
) -> bytes:
    """Return the options of ``publish.lua``, the same for many publications."""
    ttl_ms = int(keep.seconds * 1000)
    return _pack_options(
        keep.size,
        ttl_ms,
        ttl_ms * _POSITION_LIFETIMES,
        int(members_age * 1000),
        max_bytes,
        -1 if history is None else history.size,
        0 if history is None else int(history.seconds * 1000),
        _LEAP,
    )


@lru_cache(maxsize=1024)
def _end_of_command(rate: Rate | None, once_ttl_ms: int | None, *options: Any) -> bytes:
    """Return the packed end of the command that publishes, for the first try."""
    words = [_options(*options)]
    if rate is not None or once_ttl_ms is not None:
        words.append(_pack_rate(rate))
    if once_ttl_ms is not None:
        words.append(str(once_ttl_ms).encode())
    return pack(*words)


def _pack_rate(rate: Rate | None) -> bytes:
    """Return the argument ``rate`` of ``publish.lua``."""
    if rate is None:
        return b""
    return struct.pack("<2d", rate.count, int(rate.seconds * 1000))


_pack_options = struct.Struct("<8d").pack

# The command that publishes, up to its keys: without and with a rate limit, and without
# and with an idempotency key.
_STARTS = {
    (False, False): SCRIPTS["publish"].pack_start(4, 5),
    (True, False): SCRIPTS["publish"].pack_start(5, 6),
    (False, True): SCRIPTS["publish"].pack_start(5, 7),
    (True, True): SCRIPTS["publish"].pack_start(6, 7),
}


def _messages(subject: str, epoch: str, entries: Sequence[Any]) -> list[StreamMessage]:
    return [
        StreamMessage(subject, Position(epoch, offset), before, data, age_ms / 1000)
        for offset, before, age_ms, data in entries
    ]
