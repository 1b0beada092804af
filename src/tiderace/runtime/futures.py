"""Calls from one thread or event loop into another, and waiting for its work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def call_soon(
    loop: asyncio.AbstractEventLoop | None,
    function: Callable[[*Ts], object],
    *args: *Ts,
) -> None:
    """Call a function in an event loop soon, from any thread; not in a closed loop.

    Args:
        loop: None where there is none yet, so that nothing is called.
        function: what to call.
        *args: its arguments.
    """
    if loop is not None:
        with contextlib.suppress(RuntimeError):  # it is closed
            loop.call_soon_threadsafe(function, *args)


def fulfil(
    future: Future[T], function: Callable[..., T], /, *args: Any, **kwargs: Any
) -> None:
    """Give a future the result of a call, or its exception, unless it was cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function(*args, **kwargs)
    except StopIteration as error:
        # A coroutine turns it into a RuntimeError too. Before Python 3.12 a future of
        # asyncio refuses a StopIteration, and the caller would wait for ever.
        raised = RuntimeError(f"sync code raised {error!r}")
        raised.__cause__ = error
        future.set_exception(raised)
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


async def wait_future(future: Future[None]) -> None:
    """Wait until ``future`` is done; being cancelled does not cancel it.

    Raises:
        Exception: the one that was set.
    """
    if not future.done():
        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        future.add_done_callback(lambda _: call_soon(loop, _set, woken))
        await woken
    future.result()


def _set(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
