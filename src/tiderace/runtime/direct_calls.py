"""Calls through ``async_to_sync`` that need no event loop."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar, cast

from asgiref import sync as asgiref_sync
from asgiref.sync import AsyncToSync, SyncToAsync, markcoroutinefunction

from tiderace.runtime import sync_bridge

F = TypeVar("F", bound=Callable[..., Any])

_ASYNC_TO_SYNC = AsyncToSync.__call__.__code__

# Newer versions of asgiref look up an executor for the calls inside such a context.
_Context: Any = getattr(asgiref_sync, "AsyncSingleThreadContext", None)


def sends_directly(method: F) -> F:
    """Let ``async_to_sync`` run a method of ``_direct_calls`` at the cost of ``layer.sync``.

    A thread without an event loop, as that of a command, gets a thread and a loop from
    ``async_to_sync`` for each call: twice the time that it takes to send. So the method
    is run in the calling thread when its coroutine is asked for, and the coroutine only
    returns the result, which needs no loop.
    """
    name = method.__name__

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if (
            # None in a thread, where get_running_loop() would raise.
            asyncio._get_running_loop() is None  # noqa: SLF001
            and sys._getframe(1).f_code is _ASYNC_TO_SYNC  # noqa: SLF001
            and name in self._direct_calls
            and not _has_main_loop()
        ):
            return _finished(sync_bridge.call_directly(method, self, *args, **kwargs))
        return method(self, *args, **kwargs)

    return cast("F", markcoroutinefunction(call))


def _has_main_loop() -> bool:
    """Return whether the running code was sent to its thread by a loop that takes calls."""
    found = SyncToAsync.threadlocal
    return (
        getattr(found, "main_event_loop_pid", None) == os.getpid()
        and getattr(found, "main_event_loop", None) is not None
    )


def _finished(result: Any) -> Coroutine[Any, Any, Any]:
    """Return a coroutine that returns ``result``, for the ``async_to_sync`` that calls."""
    coroutine = _return(result)
    if _Context is not None:
        variable = AsyncToSync.async_single_thread_context
        if variable.get(None) is None:
            context = _Context()
            executor = _FinishedCall(coroutine, variable, variable.set(context))
            AsyncToSync.context_to_thread_executor[context] = cast("Any", executor)
    return coroutine


async def _return(result: Any) -> Any:
    return result


class _FinishedCall(Executor):
    """Runs what ``async_to_sync`` makes of a coroutine that only returns a result.

    Args:
        coroutine: that coroutine.
        variable: the context variable with the context that this is the executor of.
        token: resets the variable.
    """

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], variable: Any, token: Any
    ) -> None:
        self._coroutine = coroutine
        self._variable = variable
        self._token = token

    def submit(self, run: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run the coroutine in this thread; anything else in a new one."""
        if inspect.getcoroutinestate(self._coroutine) != inspect.CORO_CREATED:
            # Another call of this thread, after one that was interrupted in between.
            # Without an executor the context gets one of asgiref's.
            AsyncToSync.context_to_thread_executor.pop(self._variable.get(), None)
            return ThreadPoolExecutor(max_workers=1).submit(run, *args, **kwargs)
        self._variable.reset(self._token)
        future: Future[None] = Future()
        asyncio._set_running_loop(cast("Any", _NoLoop()))  # noqa: SLF001
        try:
            args[0].send(None)
        except StopIteration:
            future.set_result(None)
        finally:
            asyncio._set_running_loop(None)  # noqa: SLF001
        return future


class _NoLoop:
    """The running loop while ``async_to_sync`` takes a result, for which it waits nowhere."""
