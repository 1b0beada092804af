"""``channels_redis.utils``: its names, those that suites import included."""

from __future__ import annotations

import asyncio
import types
from typing import Any

from tiderace.layers.redis.hosts import consistent_hash, create_pool, decode_hosts

__all__ = [
    "_close_redis",
    "_consistent_hash",
    "_wrap_close",
    "create_pool",
    "decode_hosts",
]

_consistent_hash = consistent_hash


async def _close_redis(connection: Any) -> None:
    """Close a client of redis-py together with its pool."""
    try:
        await connection.aclose(close_connection_pool=True)
    except TypeError:  # a cluster's client has several pools, and takes no argument
        await connection.aclose()


def _wrap_close(proxy: Any, loop: asyncio.AbstractEventLoop) -> None:
    """Let ``loop.close()`` first flush the layer that ``proxy._layers`` has for it."""
    original = loop.close

    def close(self: asyncio.AbstractEventLoop) -> None:
        self.close = original  # type: ignore[method-assign]
        layer = proxy._layers.pop(self, None)  # noqa: SLF001
        if layer is not None:
            self.run_until_complete(layer.flush())
        self.close()

    loop.close = types.MethodType(close, loop)  # type: ignore[method-assign]
