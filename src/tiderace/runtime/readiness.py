"""Whether this process should be sent clients: checks that say what stands against it.

It knows none of them; what may stand against it registers itself here, and who is asked
from outside, as ``tiderace.health`` is, asks here.
"""

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
    """Ask ``check()`` whether this process is ready; usable as a decorator.

    It returns None when all is well, else one phrase that says what is not, without
    secrets, since whoever reaches the endpoint reads it. It may be a coroutine
    function. It is called at every probe, so it should be cheap; a plain function
    must not block. One that raises counts as not ready. A check is asked once,
    however often it is registered.
    """
    if check not in _checks:
        _checks.append(check)
    return check


async def reasons_not_ready() -> list[str]:
    """Why this process should be sent nobody now; empty when it is ready."""
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
