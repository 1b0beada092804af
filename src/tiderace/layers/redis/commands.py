"""One call to Redis: tried until it is done or its time is over.

It knows which errors pass and which are refusals, and how to wait without an event
loop. What is called, and whether it may happen twice, it does not know.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import hiredis
import redis.exceptions

from tiderace.exceptions import LayerUnavailable
from tiderace.layers.redis.connection import ConnectionLost
from tiderace.layers.redis.pool import RedisPool
from tiderace.layers.redis.scripts import SCRIPTS

__all__ = ["CommandRunner"]

T = TypeVar("T")

# What a server that will soon be well again answers: it loads its data, is a replica
# since a failover, or its cluster is moving slots.
_PASSING = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "UNBLOCKED")

_PASSING_ERRORS = (
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterDownError,
)


class CommandRunner:
    """Runs commands and scripts at one server, set-up or cluster.

    Args:
        connections: what a try goes through.
        timeout: seconds a call waits for a server that is away.
        randomness: for the jitter of waits.
    """

    def __init__(
        self,
        connections: RedisPool,
        *,
        timeout: float,
        randomness: random.Random | None = None,
    ) -> None:
        self._connections = connections
        self._timeout = timeout
        self._random = randomness or random.Random()  # noqa: S311 (jitter)

    async def command(self, *command: Any) -> Any:
        """Run a command that may happen twice, until it is done.

        Raises:
            LayerUnavailable: as ``until_done``.
        """
        return await self.until_done(lambda again: self._connections.run(*command))

    async def script(
        self, name: str, keys: Sequence[Any], arguments: Sequence[Any]
    ) -> Any:
        """Run a script that may happen twice, until it is done.

        Raises:
            LayerUnavailable: as ``until_done``.
        """
        return await self.until_done(
            lambda again: self.try_script(name, keys, arguments)
        )

    async def try_script(
        self, name: str, keys: Sequence[Any], arguments: Sequence[Any]
    ) -> Any:
        """Run a script once, for ``until_done``."""
        script = SCRIPTS[name]
        try:
            return await self._connections.run(*script.by_sha(keys, arguments))
        except (hiredis.ReplyError, redis.exceptions.ResponseError) as error:
            if not _says(error, "NOSCRIPT", redis.exceptions.NoScriptError):
                raise
            return await self._connections.run(*script.whole(keys, arguments))

    async def until_done(self, attempt: Callable[[bool], Awaitable[T]]) -> T:
        """Try until it works or the timeout has passed; ``attempt`` is told if again.

        Raises:
            LayerUnavailable: when the server could not be reached in time, or refused.
        """
        give_up = time.monotonic() + self._timeout
        tries = 0
        while True:
            try:
                return await attempt(tries > 0)
            except ConnectionLost as error:
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
            pause = self.pause(tries)
            if time.monotonic() + pause > give_up:
                raise LayerUnavailable(
                    f"the layer's broker at {_described(self._connections.host)} "
                    f"could not be reached within {self._timeout:g} seconds ({reason}); "
                    "check that it runs, or raise publish_timeout"
                ) from reason
            await _rest(pause)

    def pause(self, tries: int) -> float:
        """Seconds before the next try: up to one, half of it chance."""
        return min(1.0, 0.025 * 2.0**tries) * (0.5 + self._random.random() / 2)


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
