"""The checks that decide whether this process is ready for clients."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar

__all__ = ["ready_check", "reasons_not_ready"]

logger = logging.getLogger("tiderace.readiness")

Check: TypeAlias = "Callable[[], str | Awaitable[str | None] | None]"
_Check = TypeVar("_Check", bound=Check)

_checks: list[Check] = []


def ready_check(check: _Check) -> _Check:
    """Register a readiness check; usable as a decorator.

    ``check()`` returns None when this process is ready, else a phrase that says why not,
    without secrets, since the endpoint shows it. It may be a coroutine function. It is
    called at every probe, so it should be cheap; a plain function must not block. A
    check that raises counts as not ready. Registering a check twice has no effect.
    """
    if check not in _checks:
        _checks.append(check)
    return check


async def reasons_not_ready() -> list[str]:
    """Return the reasons why this process is not ready; empty when it is."""
    reasons = []
    for check in _checks:
        try:
            reason = check()
            if inspect.isawaitable(reason):
                reason = await reason
        except Exception:
            name = getattr(check, "__qualname__", repr(check))
            logger.exception("the readiness check %s failed", name)
            reason = f"the check {name} failed"
        if reason is not None:
            reasons.append(reason)
    return reasons
