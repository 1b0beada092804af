"""The connections of one process to one server, for all its event loops and threads."""

from __future__ import annotations

import asyncio
import inspect
import threading
import weakref
from collections.abc import AsyncGenerator
from typing import Any, NoReturn

import hiredis
import redis.exceptions
from asgiref.sync import AsyncToSync

from tiderace.layers.redis import hosts as hosts_
from tiderace.layers.redis.connection import (
    REFUSALS,
    ConnectionLost,
    RedisConnection,
    cancellation_count,
    connect,
    raise_swallowed_cancellation,
)
from tiderace.runtime.forks import after_fork, keep_alive

# redis-py's errors for a connection that is not there, or to another kind of server.
_CONNECTION_ERRORS = (
    redis.exceptions.ConnectionError,
    redis.exceptions.InvalidResponse,
    redis.exceptions.TimeoutError,
    redis.exceptions.RedisClusterException,
)

# Before redis-py 5.3, ConnectionPool.get_connection requires the name of the command.
_GET_CONNECTION_ARGUMENTS = (
    ("EVALSHA",)
    if inspect.signature(redis.ConnectionPool.get_connection)
    .parameters["command_name"]
    .default
    is inspect.Parameter.empty
    else ()
)


class RedisPool:
    """The connections of one process to one server, for all its event loops and threads.

    A long-lived loop has one pipelined connection of its own. Sync code without a loop,
    and a loop that ``async_to_sync`` made for a single call, use the process's blocking
    connections, since connecting each time would cost more than the call.

    Args:
        host: one entry of ``hosts``, decoded.
        timeout: seconds to connect, and for a reply.
    """

    def __init__(self, host: dict[str, Any], *, timeout: float) -> None:
        self.host = host
        self.timeout = timeout
        self._cluster = hosts_.is_cluster(host)
        self._start_empty()
        after_fork(self._forget_parent)

    def _start_empty(self) -> None:
        self._connections: dict[
            asyncio.AbstractEventLoop, asyncio.Task[_LoopConnection]
        ] = {}
        # Those that were opened, without cluster clients and perhaps lost since; found by
        # fewer steps, since each publication looks here.
        self._opened: dict[asyncio.AbstractEventLoop | None, RedisConnection] = {}
        # Loops of async_to_sync that have made one call through the blocking client.
        self._called_once: weakref.WeakSet[asyncio.AbstractEventLoop] = (
            weakref.WeakSet()
        )
        self._blocking_client: Any = None
        self._lock = threading.Lock()

    def _forget_parent(self) -> None:
        # A child must neither use nor close the sockets of its parent.
        keep_alive(
            (
                self._connections,
                self._opened,
                self._called_once,
                self._blocking_client,
            )
        )
        self._start_empty()

    async def execute(self, *command: Any) -> Any:
        """Run one command, once.

        Raises:
            ConnectionLost: when there is no connection, or it broke before the reply.
            hiredis.ReplyError, redis.exceptions.ResponseError: the server's error.
        """
        loop = asyncio._get_running_loop()  # noqa: SLF001 (None in sync code)
        if loop is None or (loop not in self._connections and self._is_new(loop)):
            return self._execute_blocking(command)
        begun = loop.time()
        connection = self._open_connection(loop) or await self._get_connection(loop)
        return await connection.execute(command, begun)

    def begin(self, packed: bytes) -> asyncio.Future[Any] | None:
        """Send a packed command on the running loop's connection; None without one.

        The future gets the reply, or what ``execute`` raises.
        """
        # Sync code has no loop, and so none of these connections.
        connection = self._opened.get(asyncio._get_running_loop())  # noqa: SLF001
        if connection is None or connection.lost:
            return None
        return connection.execute_packed(packed)

    @property
    def loops(self) -> list[asyncio.AbstractEventLoop]:
        """The event loops that have a connection."""
        return [loop for loop in list(self._connections) if not loop.is_closed()]

    async def close(self) -> None:
        """Close the running loop's connection and the blocking ones."""
        loop = asyncio._get_running_loop()  # noqa: SLF001 (None in sync code)
        task = None if loop is None else self._connections.pop(loop, None)
        self._opened.pop(loop, None)
        if task is not None:
            await _close(task)
        client, self._blocking_client = self._blocking_client, None
        if client is not None:
            client.close()

    async def delete_cluster_keys(self, pattern: str) -> None:
        """Delete the cluster's keys that match a glob pattern.

        Raises:
            ConnectionLost: when a node cannot be reached.
        """
        client: Any = hosts_.create_client(self.host, timeout=self.timeout)
        try:
            for key in await client.keys(pattern, target_nodes="primaries"):
                await client.delete(key)
        except _CONNECTION_ERRORS as error:
            _raise_lost(error)
        finally:
            await client.aclose()

    def _is_new(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether this is the first call of a loop of ``async_to_sync``."""
        if loop not in AsyncToSync.loop_thread_executors or loop in self._called_once:
            return False
        self._called_once.add(loop)
        return True

    def _execute_blocking(self, command: tuple[Any, ...]) -> Any:
        try:
            with self._lock:
                # For a cluster this connects.
                if self._blocking_client is None:
                    self._blocking_client = hosts_.create_client(
                        self.host, sync=True, timeout=self.timeout
                    )
                client = self._blocking_client
            if self._cluster or command[0] != "EVALSHA":
                return client.execute_command(*command)
            return _execute_script(client.connection_pool, command)
        except _CONNECTION_ERRORS as error:
            _raise_lost(error)

    def _open_connection(
        self, loop: asyncio.AbstractEventLoop
    ) -> _LoopConnection | None:
        """Return the loop's connection if it is open."""
        task = self._connections.get(loop)
        if task is None or not task.done() or task.cancelled() or task.exception():
            return None
        connection = task.result()
        return None if connection.lost else connection

    async def _get_connection(self, loop: asyncio.AbstractEventLoop) -> _LoopConnection:
        task = self._connections.get(loop)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            self._remove_closed_loops()
            task = self._connections[loop] = loop.create_task(self._open())
            # Retrieve the exception: if all waiting callers are cancelled before the task
            # fails, asyncio would log it as never retrieved.
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
        before = cancellation_count()
        try:
            connection = await asyncio.shield(task)
        except asyncio.CancelledError:
            # A caller that is cancelled too, as at the end of the loop, must not get
            # ConnectionLost: it would open another connection.
            if task.cancelled() and cancellation_count() == before:
                raise ConnectionLost("the event loop is ending") from None
            raise
        if connection.lost:
            await connection.close()
            if self._connections.get(loop) is task:
                del self._connections[loop]
            return await self._get_connection(loop)
        return connection

    async def _open(self) -> _LoopConnection:
        if self._cluster:
            client = hosts_.create_client(self.host, sync=False, timeout=self.timeout)
            try:
                # Otherwise redis-py does so during the first calls.
                await client.initialize()
            except _CONNECTION_ERRORS as error:
                await client.aclose()
                _raise_lost(error)
            opened = _LoopConnection(cluster=client)
        else:
            connection = await connect(
                lambda: hosts_.make_connection(self.host, timeout=self.timeout),
                timeout=self.timeout,
            )
            opened = _LoopConnection(connection=connection)
            self._opened[asyncio.get_running_loop()] = connection
        await opened.close_with_loop()
        return opened

    def _remove_closed_loops(self) -> None:
        for loop in [*self._connections, *self._opened]:
            if loop is not None and loop.is_closed():
                self._connections.pop(loop, None)
                self._opened.pop(loop, None)


def _raise_lost(error: Exception) -> NoReturn:
    """Raise the layer's exception for one of redis-py: ConnectionLost, or a refusal."""
    # The client of a cluster wraps the error of a node.
    for each in (error, error.__cause__):
        if isinstance(each, REFUSALS):
            raise hiredis.ReplyError(str(each)) from each
    raise ConnectionLost(str(error)) from error


def _execute_script(pool: Any, command: tuple[Any, ...]) -> Any:
    """Run a script on a blocking connection without redis-py's client.

    The client's own work around the command is a fifth of the time of a publish.
    """
    connection = pool.get_connection(*_GET_CONNECTION_ARGUMENTS)
    try:
        connection.send_packed_command([hiredis.pack_command(command)])
        return connection.read_response()
    except redis.exceptions.ResponseError:
        raise  # the reply has been read
    except BaseException:
        # The reply may still arrive, and would be read as that of the next command.
        connection.disconnect()
        raise
    finally:
        pool.release(connection)


class _LoopConnection:
    """One event loop's connection or cluster client; closed when the loop ends."""

    def __init__(
        self, connection: RedisConnection | None = None, cluster: Any = None
    ) -> None:
        self._connection = connection
        self._cluster = cluster
        self._closed = False
        self._closing = self._close_at_end()

    async def close_with_loop(self) -> None:
        """Arrange that the connection is closed with the loop; call this first."""
        await anext(self._closing)

    @property
    def lost(self) -> bool:
        return self._closed or (self._connection is not None and self._connection.lost)

    async def execute(self, command: tuple[Any, ...], begun: float) -> Any:
        if self._connection is not None:
            return await self._connection.execute(*command, begun=begun)
        try:
            with raise_swallowed_cancellation():
                return await self._cluster.execute_command(*command)
        except _CONNECTION_ERRORS as error:
            _raise_lost(error)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._closing.aclose()

    async def _close_at_end(self) -> AsyncGenerator[None, None]:
        # asyncio.run finalizes the generators of its loop after all its tasks, one that
        # was still opening this connection included.
        try:
            yield
        finally:
            self._closed = True
            if self._connection is not None:
                self._connection.close()
            if self._cluster is not None:
                await self._cluster.aclose()


async def _close(task: asyncio.Task[_LoopConnection]) -> None:
    try:
        connection = await task
    except (ConnectionLost, hiredis.ReplyError, asyncio.CancelledError):
        return
    await connection.close()
