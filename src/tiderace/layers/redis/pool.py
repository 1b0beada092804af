"""The connections of one process to one server, for whatever loop or thread asks.

It knows event loops, threads and forks, and how redis-py is called. What a command
means, and when it is tried again, it does not know.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import weakref
from collections.abc import AsyncGenerator
from typing import Any

import hiredis
import redis.exceptions
from asgiref.sync import AsyncToSync

from tiderace.layers.redis import hosts as hosts_
from tiderace.layers.redis.connection import ConnectionLost, RedisConnection, connect

__all__ = ["RedisPool"]

# How redis-py says that there is no connection.
_LOST = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.RedisClusterException,
)

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


class RedisPool:
    """The connections of one process to one server, for whatever loop or thread asks.

    A loop that stays has one pipelined connection of its own. Sync code without a loop,
    and a loop that ``async_to_sync`` made for a single call, use the process's blocking
    connections, for to connect anew each time would cost more than the call.

    Args:
        host: one entry of ``hosts``, decoded.
        timeout: seconds to connect, and for an answer, at most.
    """

    def __init__(self, host: dict[str, Any], *, timeout: float) -> None:
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
        """Run one command, once.

        Raises:
            LinkLost: when there is no connection, or it broke before the answer.
            hiredis.ReplyError, redis.exceptions.ResponseError: what the server says.
        """
        self._check_fork()
        loop = asyncio._get_running_loop()  # noqa: SLF001 (None in sync code)
        if loop is None or (loop not in self._links and self._is_passing(loop)):
            return self._run_blocking(command)
        kept = await self._kept(loop)
        return await kept.run(command)

    @property
    def loops(self) -> list[asyncio.AbstractEventLoop]:
        """The event loops that keep a connection."""
        return [loop for loop in list(self._links) if not loop.is_closed()]

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
            raise ConnectionLost(str(error)) from error

    async def _kept(self, loop: asyncio.AbstractEventLoop) -> _Kept:
        task = self._links.get(loop)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            self._forget_ended_loops()
            task = self._links[loop] = loop.create_task(self._open())
        before = _cancellations()
        try:
            kept = await asyncio.shield(task)
        except asyncio.CancelledError:
            # A loop that ends cancels the caller as well, and who would take that for
            # the loss of a connection would open another in a loop that is ending.
            if task.cancelled() and _cancellations() == before:
                raise ConnectionLost("the event loop is ending") from None
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
                raise ConnectionLost(str(error)) from error
            kept = _Kept(cluster=client)
        else:
            link = await connect(
                lambda: hosts_.make_connection(self.host, timeout=self.timeout),
                timeout=self.timeout,
            )
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

    def __init__(
        self, link: RedisConnection | None = None, cluster: Any = None
    ) -> None:
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
        before = _cancellations()
        try:
            return await self._cluster.execute_command(*command)
        except _LOST as error:
            raise ConnectionLost(str(error)) from error
        finally:
            # redis-py may keep it to itself, and who is cancelled once would go on.
            if _cancellations() > before:
                raise asyncio.CancelledError

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


def _cancellations() -> int:
    """How often the running task was cancelled."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


async def _close_kept(task: asyncio.Task[_Kept]) -> None:
    try:
        kept = await task
    except (ConnectionLost, asyncio.CancelledError):
        return
    await kept.close()
