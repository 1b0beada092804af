"""The connections of one server, one for each event loop."""

from __future__ import annotations

import asyncio

from support.waiting import settle
from tiderace.layers.redis import pool as pool_module
from tiderace.layers.redis.connection import ConnectionLost
from tiderace.layers.redis.pool import RedisPool


async def test_a_connection_that_fails_after_its_caller_was_cancelled_logs_nothing(
    monkeypatch,
):
    failing = asyncio.Event()

    async def connect(make, *, timeout):
        await failing.wait()
        raise ConnectionLost("cannot connect")

    monkeypatch.setattr(pool_module, "connect", connect)
    loop = asyncio.get_running_loop()
    pool = RedisPool({"host": "localhost"}, timeout=1)
    caller = asyncio.ensure_future(pool._get_connection(loop))
    await settle()
    opening = pool._connections[loop]
    caller.cancel()
    await settle()
    failing.set()
    await settle()

    assert opening.done()
    # Whether asyncio would log the error when the task is collected.
    assert not opening._log_traceback
