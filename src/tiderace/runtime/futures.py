"""Waiting in one event loop for work that another loop or thread does."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import Future


async def wait_future(future: Future[None]) -> None:
    """Wait until ``future`` is done; being cancelled does not cancel it.

    Raises:
        Exception: the one that was set.
    """
    if not future.done():
        loop = asyncio.get_running_loop()
        woken = loop.create_future()

        def wake(_: Future[None]) -> None:
            with contextlib.suppress(RuntimeError):  # this loop is closed
                loop.call_soon_threadsafe(_set, woken)

        future.add_done_callback(wake)
        await woken
    future.result()


def _set(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
