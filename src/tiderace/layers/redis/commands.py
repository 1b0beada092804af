"""Runs commands and scripts, with retries while the server is away."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

import hiredis
import redis.exceptions

from tiderace.exceptions import LayerAccessDenied, LayerUnavailable, MessageTooLarge
from tiderace.layers.backoff import backoff
from tiderace.layers.redis.connection import ConnectionLost
from tiderace.layers.redis.pool import RedisPool
from tiderace.layers.redis.scripts import SCRIPTS, Script

T = TypeVar("T")

# Transient errors: the server loads its data, has become a replica in a failover, or its
# cluster is moving slots.
_TRANSIENT_CODES = (
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "UNBLOCKED",
)

# The blocking client turns some codes into classes and cuts them off the text.
_TRANSIENT_ERRORS = (
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterDownError,
)


class CommandRunner:
    """Runs commands and scripts at one server, Sentinel set-up or cluster.

    Args:
        pool: the connections to use.
        timeout: seconds a call waits for a server that is away.
    """

    def __init__(self, pool: RedisPool, *, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout
        self.begin = pool.begin
        """Sends a packed command for ``call_with_retry``, without a coroutine, since the
        first try mostly succeeds; returns None where no connection is open."""

    async def execute(self, *command: Any) -> Any:
        """Run an idempotent command, with retries.

        Raises:
            LayerUnavailable: as ``call_with_retry``.
        """
        begun = time.monotonic()
        first = self.begin(hiredis.pack_command(cast("tuple[bytes]", command)))
        return await self.call_with_retry(
            lambda is_retry: self._pool.execute(*command), first, begun
        )

    async def run_script(
        self,
        name: str,
        /,
        *,
        more_keys: Sequence[Any] = (),
        more_arguments: Sequence[Any] = (),
        **values: Any,
    ) -> Any:
        """Run an idempotent script, with retries.

        Args:
            name: of the script.
            more_keys: keys without a name.
            more_arguments: arguments without a name.
            values: keys and arguments by the names that the script gives them.

        Raises:
            LayerUnavailable: as ``call_with_retry``.
        """
        script = SCRIPTS[name]
        parameters = script.parameters(values, more_keys, more_arguments)
        begun = time.monotonic()
        command = cast("tuple[bytes]", ("EVALSHA", script.sha, *parameters))
        first = self.begin(hiredis.pack_command(command))

        async def attempt(is_retry: bool) -> Any:
            if first is None or is_retry:
                return await self._evaluate(script, parameters)
            # The first try has found that the server lacks the script.
            return await self._evaluate_text(script, parameters)

        return await self.call_with_retry(attempt, first, begun)

    async def try_script(self, name: str, /, **values: Any) -> Any:
        """Run a script once, within ``call_with_retry``."""
        script = SCRIPTS[name]
        return await self._evaluate(script, script.parameters(values, (), ()))

    async def _evaluate(self, script: Script, parameters: Sequence[Any]) -> Any:
        try:
            return await self._pool.execute("EVALSHA", script.sha, *parameters)
        except (hiredis.ReplyError, redis.exceptions.ResponseError) as error:
            if not _is_unknown_script(error):
                raise
            return await self._evaluate_text(script, parameters)

    async def _evaluate_text(self, script: Script, parameters: Sequence[Any]) -> Any:
        """Run a script that the server does not have; it keeps the script then."""
        return await self._pool.execute("EVAL", script.text, *parameters)

    async def call_with_retry(
        self,
        attempt: Callable[[bool], Awaitable[T]],
        first: Awaitable[T] | None = None,
        begun: float | None = None,
    ) -> T:
        """Call ``attempt`` until it succeeds or the timeout has passed.

        Args:
            attempt: makes one try; its argument is whether this is a retry.
            first: the first try, if it has begun already. If the server lacks its script,
                ``attempt`` is called at once.
            begun: when the first try was begun; now by default.

        Raises:
            LayerUnavailable: when the server could not be reached in time, or refused.
            LayerAccessDenied: when it refused the user or password.
            MessageTooLarge: when it never takes a message of this size.
        """
        deadline = (begun or time.monotonic()) + self._timeout
        tries = 0
        reason: Exception | None = None
        while True:
            begun = time.monotonic()
            try:
                if tries == 0:  # the connection limits its time
                    if first is not None:
                        try:
                            return await first
                        except hiredis.ReplyError as error:
                            if not _is_unknown_script(error):
                                raise
                    return await attempt(False)
                return await _run_until(deadline, attempt(True))
            except (ConnectionLost, TimeoutError) as error:
                # That of the deadline says nothing: the try before it has the reason.
                if reason is None or str(error):
                    reason = error
            except (hiredis.ReplyError, redis.exceptions.ResponseError) as error:
                if not _is_transient(error):
                    text = (
                        f"the layer's broker at {_location(self._pool.host)} "
                        f"refused: {_reason_of(error)}"
                    )
                    if is_denied(error) or is_denied(error.__cause__):
                        raise LayerAccessDenied(f"{text}; {ACCESS_ADVICE}") from error
                    if _TOO_LARGE.search(str(error)):
                        raise MessageTooLarge(f"{text}; {_SIZE_ADVICE}") from error
                    raise LayerUnavailable(text) from error
                reason = error
                # After a failover the server at this address may remain a replica.
                await self._pool.close()
            tries += 1
            delay = backoff(tries)
            now = time.monotonic()
            # A blocking attempt has no limit of time: the next one may take as long.
            took = now - begun if asyncio._get_running_loop() is None else 0.0  # noqa: SLF001
            if now + delay + took > deadline:
                raise LayerUnavailable(
                    f"the layer's broker at {_location(self._pool.host)} "
                    f"could not be reached within {self._timeout:g} seconds ({reason}); "
                    "check that it runs, or raise publish_timeout"
                ) from reason
            await _sleep(delay)


async def _run_until(deadline: float, attempt: Awaitable[T]) -> T:
    """Await ``attempt``; without a running event loop, until it ends by itself.

    Raises:
        TimeoutError: at the deadline, in seconds of the monotonic clock.
    """
    if asyncio._get_running_loop() is None:  # noqa: SLF001
        return await attempt
    async with asyncio.timeout(deadline - time.monotonic()):
        return await attempt


async def _sleep(seconds: float) -> None:
    """Sleep; without a running event loop, in sync code, block the thread."""
    if asyncio._get_running_loop() is None:  # noqa: SLF001
        time.sleep(seconds)  # noqa: ASYNC251
    else:
        await asyncio.sleep(seconds)


def _is_unknown_script(error: Exception) -> bool:
    return isinstance(error, redis.exceptions.NoScriptError) or str(error).startswith(
        "NOSCRIPT"
    )


def _is_transient(error: Exception) -> bool:
    return isinstance(error, _TRANSIENT_ERRORS) or str(error).startswith(
        _TRANSIENT_CODES
    )


ACCESS_ADVICE = (
    'correct the user or password in the layer\'s "hosts", as in '
    "redis://user:password@host:6379"
)
"""The advice in errors about a server that refuses a layer."""

# The third is the answer to a long command without a login before it.
_DENIED = re.compile(r"NOAUTH|WRONGPASS|(ERR )?Protocol error: unauthenticated")

_TOO_LARGE = re.compile(r"invalid bulk length|exceeds maximum allowed size")
_SIZE_ADVICE = (
    "publish less in one message, or raise proto-max-bulk-len in the server's "
    "configuration"
)


def is_denied(error: BaseException | None) -> bool:
    """Return whether a server has refused the user or the password."""
    return isinstance(error, redis.exceptions.AuthenticationError) or bool(
        _DENIED.match(str(error))
    )


def _reason_of(error: Exception) -> str:
    """Return the text of a refusal, in Redis' usual words for a missing login."""
    if "unauthenticated" in str(error):
        return "NOAUTH Authentication required."
    return str(error)


def _location(host: dict[str, Any]) -> str:
    """Return where a server is, without its password, for error messages."""
    if "sentinels" in host:
        return f"{host['master_name']} of the sentinels {host['sentinels']}"
    if "address" in host:
        return str(host["address"]).rpartition("@")[2].rpartition("//")[2]
    if "path" in host:
        return str(host["path"])
    return f"{host.get('host', 'localhost')}:{host.get('port', 6379)}"
