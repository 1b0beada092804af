"""Calls from one thread or event loop into another, and waiting for its work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVarTuple

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
