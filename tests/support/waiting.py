"""Waiting in tests, always with a limit."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

__all__ = ["PATIENCE", "settle", "until", "wait_until", "within"]

T = TypeVar("T")

PATIENCE = 20.0
"""Seconds after which a test that waits fails."""


async def settle() -> None:
    """Run the tasks of the loop until each waits for something outside."""
    for _ in range(50):
        await asyncio.sleep(0)


async def until(condition: Callable[[], Any], *, timeout: float = PATIENCE) -> Any:
    """Return the first true value of ``condition``, a function or coroutine function.

    Raises:
        TimeoutError: after ``timeout`` seconds.
    """
    checks = 0
    async with asyncio.timeout(timeout):
        while True:
            value = condition()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
            # Checks after each step of the loop at first, later less often: what takes longer is
            # done by threads and servers.
            checks += 1
            await asyncio.sleep(0 if checks < 500 else 0.005)


async def within(awaitable: Awaitable[T], timeout: float = PATIENCE) -> T:
    """Return the result of ``awaitable``.

    Raises:
        TimeoutError: after ``timeout`` seconds.
    """
    async with asyncio.timeout(timeout):
        return await awaitable


def wait_until(
    condition: Callable[[], T],
    *,
    timeout: float = PATIENCE,
    what: str = "it",
    ignored: type[BaseException] | tuple[type[BaseException], ...] = (),
) -> T:
    """Return the first true value of ``condition``; for code without an event loop.

    Args:
        condition: is called every 10 ms.
        timeout: seconds.
        what: what is waited for, for the error.
        ignored: errors of ``condition`` that count as false.

    Raises:
        AssertionError: after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            if value := condition():
                return value
        except ignored:
            pass
        time.sleep(0.01)
    raise AssertionError(f"{what} did not happen within {timeout} s")
