"""The broker over Redis and Valkey: standalone, Sentinel or Cluster.

It knows how the broker's verbs are said in Redis, and no group, mailbox or consumer.

Keys (``P`` is the layer's prefix, ``G`` a group, ``Q`` a queue; all expire):

==========================  ==========================================================
``P:group:G:stream``        the group's last messages; ``expiry`` after the last one,
                            or as long as its history lasts
``P:group:G:meta``          its epoch and last offset; ten times as long
``P:group:G:once:K``        where what was published under a key stands; five minutes
``P:group:G``               named channels in the group by join time; ``group_expiry``
``P:queue:Q:list``          unread messages of a named channel; ``expiry``
``P:queue:Q:taken``         messages being taken by a process; a lease longer
``P:processes``             processes by their last sign of life; a lease
``P:members:PROCESS:G``     channels of one process in the group; a lease
``P:queue:PROCESS:stats``   what the process says about itself; a lease
==========================  ==========================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
import logging
import os
import random
import secrets
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from functools import cached_property
from importlib import resources
from typing import Any, TypeVar

import hiredis
import redis.exceptions
from asgiref.sync import AsyncToSync

from tiderace.exceptions import LayerUnavailable
from tiderace.layers import hosts as hosts_
from tiderace.layers.broker import (
    Entry,
    Interrupted,
    Keep,
    Live,
    Position,
    Published,
    Taken,
    Wake,
)
from tiderace.layers.presence import PresenceStore
from tiderace.layers.presence_redis import RedisPresenceStore
from tiderace.layers.redis_link import Link, LinkLost, connect
from tiderace.layers.redis_reader import Reader
from tiderace.ratelimit import Rate

__all__ = ["RedisBroker"]

T = TypeVar("T")

# What a server that will soon be well again answers: it loads its data, is a replica
# since a failover, or its cluster is moving slots.
_PASSING = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "UNBLOCKED")

# How redis-py says that there is no connection.
_LOST = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.RedisClusterException,
)

_PASSING_ERRORS = (
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterDownError,
)

_EPOCH_LENGTH = 6  # bytes

# Seconds by which the clock of a server that takes over may be ahead.
_CLOCKS_DIFFER = 5.0

# A position outlives what was kept by so many times.
_POSITION_LASTS = 10

# Milliseconds in which a publication under the same idempotency key is the same one.
_KEY_REMEMBERED = 300_000

_KEYS_AT_ONCE = 500
_CALLS_AT_ONCE = 100

# More messages than a replica can be behind. Chance decides the rest, so that two leaps
# from one place do not meet.
_LEAP = 1 << 20

logger = logging.getLogger("tiderace.layers")


# What a pool wants to be told when it lends a connection: before redis-py 5.3 the name of
# the command.
_COMMAND_NAME = (
    ("EVALSHA",)
    if inspect.signature(redis.ConnectionPool.get_connection)
    .parameters["command_name"]
    .default
    is inspect.Parameter.empty
    else ()
)


class _Script:
    """A Lua script of the ``lua`` folder, sent by its hash once the server has it."""

    def __init__(self, name: str) -> None:
        folder = resources.files("tiderace.layers") / "lua"
        self.text = (folder / f"{name}.lua").read_bytes()
        for first in ("tell", "run", "presence_room"):
            if f"{first}(".encode() in self.text:
                self.text = (folder / f"{first}.lua").read_bytes() + self.text
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()

    def by_sha(self, keys: Sequence[Any], arguments: Sequence[Any]) -> tuple[Any, ...]:
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)

    def whole(self, keys: Sequence[Any], arguments: Sequence[Any]) -> tuple[Any, ...]:
        return ("EVAL", self.text, len(keys), *keys, *arguments)


_SCRIPTS = {
    name: _Script(name)
    for name in (
        "ack",
        "announce",
        "beat",
        "join",
        "presence_confirm",
        "presence_due",
        "presence_enter",
        "presence_leave",
        "presence_members",
        "presence_reap",
        "presence_renew",
        "presence_stats",
        "publish",
        "push",
        "read",
        "renew",
        "report",
        "since",
        "spend",
        "take",
    )
}


class _Connections:
    """The connections of one process to one server, for whatever loop or thread asks.

    A loop that stays has one pipelined connection of its own. Sync code without a loop,
    and a loop that ``async_to_sync`` made for a single call, use the process's blocking
    connections, for to connect anew each time would cost more than the call.
    """

    def __init__(self, host: dict[str, Any], timeout: float) -> None:
        self.host = host
        self.timeout = timeout
        self.cluster = hosts_.is_cluster(host)
        self._links: dict[asyncio.AbstractEventLoop, asyncio.Task[_Kept]] = {}
        # Loops that have made one call through the blocking connections.
        self._seen: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._blocking: Any = None
        self._pid = os.getpid()
        self._lock = threading.Lock()

    async def run(self, *command: Any) -> Any:
        """Run one command; connection errors come as ``LinkLost``."""
        self._check_fork()
        loop = asyncio._get_running_loop()  # noqa: SLF001 (None in sync code)
        if loop is None or (loop not in self._links and self._is_passing(loop)):
            return self._run_blocking(command)
        kept = await self._kept(loop)
        return await kept.run(command)

    @property
    def loops(self) -> list[asyncio.AbstractEventLoop]:
        """The event loops that keep a connection."""
        return list(self._links)

    async def close(self) -> None:
        """Close the running loop's connection and the blocking ones."""
        loop = asyncio._get_running_loop()  # noqa: SLF001 (None in sync code)
        task = None if loop is None else self._links.pop(loop, None)
        if task is not None:
            await _close_kept(task)
        blocking, self._blocking = self._blocking, None
        if blocking is not None:
            blocking.close()

    async def flush_cluster(self, pattern: str) -> None:
        """Delete every key of the cluster that matches."""
        await (await self._kept(asyncio.get_running_loop())).flush_cluster(pattern)

    def make_connection(self) -> Any:
        """A connection of redis-py, not open yet, that speaks RESP2."""
        return hosts_.make_connection(self.host, timeout=self.timeout)

    def _is_passing(self, loop: asyncio.AbstractEventLoop) -> bool:
        if loop not in AsyncToSync.loop_thread_executors or loop in self._seen:
            return False
        # Whoever comes a second time is no passer-by.
        self._seen.add(loop)
        return True

    def _run_blocking(self, command: tuple[Any, ...]) -> Any:
        try:
            with self._lock:
                # For a cluster this connects.
                if self._blocking is None:
                    self._blocking = hosts_.create_client(
                        self.host, sync=True, timeout=self.timeout
                    )
                client = self._blocking
            if self.cluster or command[0] != "EVALSHA":
                return client.execute_command(*command)
            return _run_by_hand(client.connection_pool, command)
        except _LOST as error:
            raise LinkLost(str(error)) from error

    async def _kept(self, loop: asyncio.AbstractEventLoop) -> _Kept:
        task = self._links.get(loop)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            self._forget_ended_loops()
            task = self._links[loop] = loop.create_task(self._open())
        caller = asyncio.current_task()
        cancellations = 0 if caller is None else caller.cancelling()
        try:
            kept = await asyncio.shield(task)
        except asyncio.CancelledError:
            # A loop that ends cancels the caller as well, and who would take that for
            # the loss of a connection would open another in a loop that is ending.
            mine = caller is not None and caller.cancelling() > cancellations
            if task.cancelled() and not mine:
                raise LinkLost("the event loop is ending") from None
            raise
        if kept.lost:
            await kept.close()
            if self._links.get(loop) is task:
                del self._links[loop]
            return await self._kept(loop)
        return kept

    async def _open(self) -> _Kept:
        if self.cluster:
            client = hosts_.create_client(self.host, sync=False, timeout=self.timeout)
            try:
                # By itself it would do so in the midst of the first calls.
                await client.initialize()
            except _LOST as error:
                await client.aclose()
                raise LinkLost(str(error)) from error
            kept = _Kept(cluster=client)
        else:
            link = await connect(self.make_connection, timeout=self.timeout)
            kept = _Kept(link=link)
        await kept.begin()
        return kept

    def _forget_ended_loops(self) -> None:
        for loop in list(self._links):
            if loop.is_closed():
                self._links.pop(loop, None)

    def _check_fork(self) -> None:
        if os.getpid() != self._pid:
            # The parent's sockets must not be used, nor closed, here. Nor may its tasks
            # end: they would take those sockets off the epoll that both processes share.
            _inherited.append((self._links, self._seen, self._blocking))
            self._pid = os.getpid()
            self._links = {}
            self._seen = weakref.WeakSet()
            self._blocking = None
            self._lock = threading.Lock()


# What belongs to the parent of this process, kept so that nothing of it is finalized.
_inherited: list[object] = []


def _run_by_hand(pool: Any, command: tuple[Any, ...]) -> Any:
    """Run a script on a blocking connection, without the client of redis-py.

    A fifth of the time of a publish is what that does around it; it does not know
    either which script may be tried again.
    """
    connection = pool.get_connection(*_COMMAND_NAME)
    try:
        connection.send_packed_command([hiredis.pack_command(command)])
        return connection.read_response()
    except redis.exceptions.ResponseError:
        raise  # an answer like others
    except BaseException:
        # Its answer may still come, which would be taken for that of the next command.
        connection.disconnect()
        raise
    finally:
        pool.release(connection)


class _Kept:
    """A connection for commands that a loop keeps; closed when the loop ends."""

    def __init__(self, link: Link | None = None, cluster: Any = None) -> None:
        self._link = link
        self._cluster = cluster
        self._closed = False
        self._life = self._live()

    async def begin(self) -> None:
        """Let it be closed with the loop; nothing else may be done before."""
        await anext(self._life)

    @property
    def lost(self) -> bool:
        return self._closed or (self._link is not None and self._link.lost)

    async def run(self, command: tuple[Any, ...]) -> Any:
        if self._link is not None:
            return await self._link.call(*command)
        try:
            return await self._cluster.execute_command(*command)
        except _LOST as error:
            raise LinkLost(str(error)) from error

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._life.aclose()

    async def flush_cluster(self, pattern: str) -> None:
        """Delete every key of the cluster that matches."""
        for key in await self._cluster.keys(pattern, target_nodes="primaries"):
            await self._cluster.delete(key)

    async def _live(self) -> AsyncGenerator[None, None]:
        # asyncio.run and its like end the generators of their loop after all its tasks,
        # one that was still opening this connection among them.
        try:
            yield
        finally:
            self._closed = True
            if self._link is not None:
                self._link.close()
            if self._cluster is not None:
                await self._cluster.aclose()


async def _close_kept(task: asyncio.Task[_Kept]) -> None:
    try:
        kept = await task
    except (LinkLost, asyncio.CancelledError):
        return
    await kept.close()


class RedisBroker:
    """The broker's verbs over one server, Sentinel set-up or cluster.

    Args:
        host: one entry of ``hosts``, decoded.
        prefix: what every key and pub/sub channel begins with.
        publish_timeout: seconds a call waits for a server that is away.
        randomness: for the jitter of waits.
    """

    def __init__(
        self,
        host: dict[str, Any],
        *,
        prefix: str,
        publish_timeout: float,
        randomness: random.Random | None = None,
    ) -> None:
        self._connections = _Connections(host, min(publish_timeout, 5.0))
        self._prefix = prefix
        self._timeout = publish_timeout
        self._random = randomness or random.Random()  # noqa: S311 (jitter)
        # Pub/sub channels are the same in all databases of a server; keys are not.
        database = hosts_.database(host)
        self._channels = f"{prefix}:{database}:".encode()
        self._channels_end = b""
        self._publishing = "PUBLISH"
        if self._connections.cluster:
            # In the slot of the keys, so that one script may use both.
            self._channels, self._channels_end = f"{{{prefix}:".encode(), b"}"
            self._publishing = "SPUBLISH"
        self._reader = Reader(
            host, timeout=self._connections.timeout, pause=self._pause
        )

    # Keys

    def _group(self, subject: str) -> str:
        return self._tag(f"{self._prefix}:group:{subject}")

    def _queue(self, queue: str) -> str:
        return self._tag(f"{self._prefix}:queue:{queue}")

    def _tag(self, key: str) -> str:
        # In a cluster all keys of a script must be in one slot.
        return f"{{{key}}}" if self._connections.cluster else key

    def _members(self, process: str, subject: str) -> str:
        return f"{self._prefix}:members:{process}:{subject}"

    @cached_property
    def _processes(self) -> str:
        return f"{self._prefix}:processes"

    # Publications

    async def publish(
        self,
        subject: str,
        data: bytes,
        *,
        keep: Keep,
        members_age: float,
        history: Keep | None = None,
        key: str = "",
    ) -> Published:
        """See ``Broker.publish``."""
        group = self._group(subject)
        milliseconds = int(keep.seconds * 1000)
        keys = [f"{group}:stream", f"{group}:meta", group]
        if key:
            keys.append(f"{group}:once:{key}")
        arguments = [
            self._channel("group", subject),
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
            self._publishing,
            "" if history is None else history.size,
            "" if history is None else int(history.seconds * 1000),
            _KEY_REMEMBERED,
        ]
        begun = time.monotonic()

        async def attempt(again: bool) -> Any:
            arguments[7] = 1 if again else 0
            arguments[10] = int((time.monotonic() - begun + _CLOCKS_DIFFER) * 1000)
            return await self._script("publish", keys, arguments)

        epoch, offset, members = await self._until_done(attempt)
        return Published(
            Position(epoch.decode(), offset), [member.decode() for member in members]
        )

    async def published(self, subject: str, key: str) -> Position | None:
        """See ``Broker.published``."""
        name = f"{self._group(subject)}:once:{key}"
        found: bytes | None = await self._until_done(
            lambda again: self._connections.run("GET", name)
        )
        if found is None:
            return None
        epoch, offset, _ = found.split(b" ", 2)
        return Position(epoch.decode(), int(offset))

    async def position(self, subject: str) -> Position | None:
        """See ``Broker.position``."""
        return (await self._since(subject, ""))[0]

    async def since(
        self, subject: str, offset: int
    ) -> tuple[Position | None, Sequence[Entry]]:
        """See ``Broker.since``."""
        return await self._since(subject, offset)

    async def _since(
        self, subject: str, offset: int | str
    ) -> tuple[Position | None, Sequence[Entry]]:
        group = self._group(subject)

        async def attempt(again: bool) -> Any:
            return await self._script(
                "since", [f"{group}:stream", f"{group}:meta"], [offset]
            )

        epoch, top, entries = await self._until_done(attempt)
        if not epoch:
            return None, []
        return Position(epoch.decode(), top), [
            Entry(number, before, age / 1000, data)
            for number, before, age, data in entries
        ]

    async def read(
        self,
        subject: str,
        *,
        history: Keep,
        keep: Keep,
        since: Position | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> tuple[Position, Sequence[Entry]]:
        """See ``Broker.read``."""
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
        group = self._group(subject)
        epoch, top, entries, more, above, below = await self._script_until_done(
            "read", [f"{group}:stream", f"{group}:meta"], arguments
        )
        return (
            Position(epoch.decode(), top),
            [
                Entry(number, before, age / 1000, data)
                for number, before, age, data in entries
            ],
            bool(more),
            above,
            below,
        )

    async def forget(self, subject: str) -> None:
        """See ``Broker.forget``."""
        await self._command("DEL", f"{self._group(subject)}:stream")

    # Queues

    async def push(self, queue: str, data: bytes, *, size: int, seconds: float) -> bool:
        """See ``Broker.push``."""
        token = secrets.token_hex(8)

        async def attempt(again: bool) -> Any:
            return await self._script(
                "push",
                [f"{self._queue(queue)}:list"],
                [
                    self._channel("queue", queue),
                    data,
                    token,
                    size,
                    int(seconds * 1000),
                    1 if again else 0,
                    self._publishing,
                ],
            )

        return bool(await self._until_done(attempt))

    async def take(self, queue: str, *, lease: float) -> Taken | None:
        """See ``Broker.take``."""

        async def attempt(again: bool) -> Any:
            return await self._script(
                "take",
                [f"{self._queue(queue)}:list", f"{self._queue(queue)}:taken"],
                [int(lease * 1000)],
            )

        item: bytes | None = await self._until_done(attempt)
        # 16 digits of deadline and 16 of id stand before the data.
        return None if item is None else Taken(queue, item, item[32:])

    async def confirm(self, taken: Taken) -> None:
        """See ``Broker.confirm``."""
        await self._settle(taken, "1")

    async def give_back(self, taken: Taken, *, confirmed: bool = False) -> None:
        """See ``Broker.give_back``."""
        await self._settle(taken, "2" if confirmed else "0")

    async def _settle(self, taken: Taken, how: str) -> None:
        key = self._queue(taken.queue)

        async def attempt(again: bool) -> Any:
            return await self._script(
                "ack",
                [f"{key}:list", f"{key}:taken"],
                [
                    taken.token,
                    how,
                    self._channel("queue", taken.queue),
                    self._publishing,
                ],
            )

        await self._until_done(attempt)

    # Members

    async def join(self, subject: str, member: str, *, seconds: float) -> None:
        """See ``Broker.join``."""

        async def attempt(again: bool) -> Any:
            return await self._script(
                "join", [self._group(subject)], [member, int(seconds * 1000)]
            )

        await self._until_done(attempt)

    async def leave(self, subject: str, member: str) -> None:
        """See ``Broker.leave``."""
        await self._command("ZREM", self._group(subject), member)

    async def announce(
        self,
        process: str,
        joined: Collection[tuple[str, str]],
        left: Collection[tuple[str, str]],
        *,
        lease: float,
    ) -> None:
        """See ``Broker.announce``."""
        changes: dict[str, tuple[list[str], list[str]]] = {}
        for which, pairs in enumerate((left, joined)):
            for subject, member in pairs:
                changes.setdefault(subject, ([], []))[which].append(member)

        async def announce_some(subjects: list[str]) -> None:
            arguments: list[Any] = [int(lease * 1000)]
            for subject in subjects:
                for members in changes[subject]:
                    arguments += [len(members), *members]
            await self._script_until_done(
                "announce",
                [self._members(process, subject) for subject in subjects],
                arguments,
            )

        await self._in_portions(announce_some, list(changes))
        if joined:
            await self._beat(process, lease)

    async def renew(
        self, process: str, subjects: Collection[str], *, lease: float
    ) -> list[str]:
        """See ``Broker.renew``."""
        lost: list[str] = []

        async def renew_some(some: list[str]) -> None:
            keys = [self._members(process, subject) for subject in some]
            places = await self._script_until_done("renew", keys, [int(lease * 1000)])
            lost.extend(some[place - 1] for place in places)

        await self._in_portions(renew_some, list(subjects))
        await self._beat(process, lease)
        return lost

    async def retire(self, process: str, subjects: Collection[str]) -> None:
        """See ``Broker.retire``."""

        async def retire_some(some: list[str]) -> None:
            keys = [self._members(process, subject) for subject in some]
            await self._command("UNLINK", *keys)

        await self._in_portions(retire_some, list(subjects))
        await self._command("UNLINK", self._stats_key(process))
        await self._command("ZREM", self._processes, process)

    async def _in_portions(
        self, do: Callable[[list[str]], Awaitable[None]], subjects: list[str]
    ) -> None:
        """Do it for so many subjects at once as may be in one command."""
        if not self._connections.cluster:
            for start in range(0, len(subjects), _KEYS_AT_ONCE):
                await do(subjects[start : start + _KEYS_AT_ONCE])
            return
        # Their keys are in slots of their own.
        for start in range(0, len(subjects), _CALLS_AT_ONCE):
            some = subjects[start : start + _CALLS_AT_ONCE]
            await asyncio.gather(*(do([subject]) for subject in some))

    async def present(self, subject: str) -> list[str]:
        """See ``Broker.present``."""
        living = await self._beat("", 0)
        plain, *sets = await asyncio.gather(
            self._command("ZRANGE", self._group(subject), 0, -1),
            *(
                self._command("SMEMBERS", self._members(process.decode(), subject))
                for process in living
            ),
        )
        return [name.decode() for names in (*sets, plain) for name in names]

    async def count(self, subject: str) -> int:
        """See ``Broker.count``."""
        living = await self._beat("", 0)
        return sum(
            await asyncio.gather(
                self._command("ZCARD", self._group(subject)),
                *(
                    self._command("SCARD", self._members(process.decode(), subject))
                    for process in living
                ),
            )
        )

    async def _beat(self, process: str, lease: float) -> list[bytes]:
        async def attempt(again: bool) -> Any:
            return await self._script(
                # To list the living needs a lease too: that of the last who beat is
                # kept by the key's own expiry, so any long one will do.
                "beat",
                [self._processes],
                [process, int((lease or 86400) * 1000)],
            )

        living: list[bytes] = await self._until_done(attempt)
        return living

    async def report(self, process: str, data: bytes, *, lease: float) -> None:
        """See ``Broker.report``."""
        milliseconds = int(lease * 1000)
        await self._script_until_done(
            "report",
            [self._stats_key(process)],
            [
                self._channel("queue", process),
                data,
                milliseconds,
                self._publishing,
            ],
        )
        await self._beat(process, lease)

    async def reports(self) -> list[bytes]:
        """See ``Broker.reports``."""
        living = await self._beat("", 0)
        kept: list[bytes | None] = await asyncio.gather(
            *(
                self._command("GET", self._stats_key(process.decode()))
                for process in living
            )
        )
        return [data for data in kept if data is not None]

    def _stats_key(self, process: str) -> str:
        # In the slot of the pub/sub channel that goes with it.
        return f"{self._queue(process)}:stats"

    # Presence

    @cached_property
    def presence(self) -> PresenceStore:
        """Who is present in the groups that this broker serves."""
        return RedisPresenceStore(
            self._script_until_done, self._prefix, cluster=self._connections.cluster
        )

    async def spend(self, key: str, rate: Rate) -> float:
        """See ``Broker.spend``."""
        wait: int = await self._script_until_done(
            "spend",
            [self._tag(f"{self._prefix}:rate:{key}")],
            [rate.count, int(rate.seconds * 1000)],
        )
        return wait / 1000

    # Reading

    async def subscribe(
        self, subjects: Collection[str], queues: Collection[str] = ()
    ) -> None:
        """See ``Broker.subscribe``."""
        channels = self._named(subjects, queues)
        await self._until_done(lambda again: self._reader.want(channels))

    async def unsubscribe(
        self, subjects: Collection[str], queues: Collection[str] = ()
    ) -> None:
        """See ``Broker.unsubscribe``."""
        channels = self._named(subjects, queues)
        await self._until_done(lambda again: self._reader.unwant(channels))

    async def messages(
        self,
    ) -> AsyncGenerator[Sequence[Live | Wake | Interrupted], None]:
        """See ``Broker.messages``."""
        async with contextlib.aclosing(self._reader.batches()) as batches:
            async for batch in batches:
                if batch is None:
                    yield [Interrupted()]
                    continue
                items = [self._parsed(*pushed) for pushed in batch]
                yield [item for item in items if item is not None]

    @property
    def hearing(self) -> bool:
        """See ``Broker.hearing``."""
        return self._reader.hearing

    def _named(self, subjects: Collection[str], queues: Collection[str]) -> list[bytes]:
        return [self._channel("group", name) for name in subjects] + [
            self._channel("queue", name) for name in queues
        ]

    def _channel(self, kind: str, name: str) -> bytes:
        return self._channels + f"{kind}:{name}".encode() + self._channels_end

    def _parsed(self, channel: bytes, payload: bytes) -> Live | Wake | None:
        end = len(channel) - len(self._channels_end)
        kind, _, name = channel[len(self._channels) : end].partition(b":")
        if kind == b"queue":
            return Wake(name.decode())
        try:
            epoch, offset, data = payload.split(b" ", 2)
            return Live(name.decode(), epoch.decode(), int(offset), data)
        except ValueError:
            logger.error(
                "what somebody published on %s is no message of this layer; let other "
                "programs use other names",
                channel.decode(errors="replace"),
            )
            return None

    # Calls

    async def _command(self, *command: Any) -> Any:
        return await self._until_done(lambda again: self._connections.run(*command))

    async def _script(
        self, name: str, keys: Sequence[Any], arguments: Sequence[Any]
    ) -> Any:
        script = _SCRIPTS[name]
        try:
            return await self._connections.run(*script.by_sha(keys, arguments))
        except (hiredis.ReplyError, redis.exceptions.ResponseError) as error:
            if not _says(error, "NOSCRIPT", redis.exceptions.NoScriptError):
                raise
            return await self._connections.run(*script.whole(keys, arguments))

    async def _script_until_done(
        self, name: str, keys: Sequence[Any], arguments: Sequence[Any]
    ) -> Any:
        return await self._until_done(lambda again: self._script(name, keys, arguments))

    async def _until_done(self, attempt: Callable[[bool], Awaitable[T]]) -> T:
        """Try until it works or the timeout has passed; ``attempt`` is told if again.

        Raises:
            LayerUnavailable: when the server could not be reached in time, or refused.
        """
        give_up = time.monotonic() + self._timeout
        tries = 0
        while True:
            try:
                return await attempt(tries > 0)
            except LinkLost as error:
                reason: Exception = error
            except (hiredis.ReplyError, redis.exceptions.ResponseError) as error:
                if not str(error).startswith(_PASSING) and not isinstance(
                    error, _PASSING_ERRORS
                ):
                    raise LayerUnavailable(
                        f"the layer's broker at {_described(self._connections.host)} "
                        f"refused: {error}"
                    ) from error
                reason = error
                # After a failover the same address may be a replica for ever.
                await self._connections.close()
            tries += 1
            pause = self._pause(tries)
            if time.monotonic() + pause > give_up:
                raise LayerUnavailable(
                    f"the layer's broker at {_described(self._connections.host)} "
                    f"could not be reached within {self._timeout:g} seconds ({reason}); "
                    "check that it runs, or raise publish_timeout"
                ) from reason
            await _rest(pause)

    def _pause(self, tries: int) -> float:
        """Seconds before the next try: up to one, half of it chance."""
        return min(1.0, 0.025 * 2.0**tries) * (0.5 + self._random.random() / 2)

    async def flush(self) -> None:
        """See ``Broker.flush``."""
        pattern = f"*{_escaped(self._prefix)}:*"
        if self._connections.cluster:
            await self._connections.flush_cluster(pattern)
        else:
            pattern = pattern[1:]
            await self._command("EVAL", _FLUSH, 0, pattern)

    async def close(self) -> None:
        """See ``Broker.close``."""
        await self._connections.close()

    async def cut(self) -> None:
        """Break the connections of the running loop, as a network would; for tests."""
        self._reader.cut()
        await self._connections.close()

    @property
    def loops(self) -> list[asyncio.AbstractEventLoop]:
        """The event loops that keep a connection for commands here."""
        return [loop for loop in self._connections.loops if not loop.is_closed()]


_FLUSH = """
for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end
"""


def _escaped(text: str) -> str:
    """``text`` as a glob pattern of Redis that matches itself alone."""
    return "".join(f"\\{each}" if each in "*?[]^-\\" else each for each in text)


async def _rest(seconds: float) -> None:
    """Wait; in sync code, where no event loop runs, in this thread."""
    if asyncio._get_running_loop() is None:  # noqa: SLF001
        time.sleep(seconds)  # noqa: ASYNC251
    else:
        await asyncio.sleep(seconds)


def _says(error: Exception, code: str, kind: type[Exception]) -> bool:
    # The blocking client turns some codes into classes and cuts them off the text.
    return isinstance(error, kind) or str(error).startswith(code)


def _described(host: dict[str, Any]) -> str:
    """Where a server is, for error messages: without its password."""
    if "sentinels" in host:
        return f"{host['master_name']} of the sentinels {host['sentinels']}"
    if "address" in host:
        return str(host["address"]).rpartition("@")[2].rpartition("//")[2]
    if "path" in host:
        return str(host["path"])
    return f"{host.get('host', 'localhost')}:{host.get('port', 6379)}"
