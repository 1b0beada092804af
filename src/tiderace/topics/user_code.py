"""Calling what an application has written: plain functions in a thread, others awaited.

It knows functions, and neither topics nor connections.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from tiderace.db import database_sync_to_async

__all__ = ["call_hook"]


async def call_hook(hook: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What ``hook`` returns; a plain function runs in the connection's thread."""
    if inspect.iscoroutinefunction(hook):
        return await hook(*args, **kwargs)
    return await database_sync_to_async(hook)(*args, **kwargs)
