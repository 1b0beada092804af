"""Background tasks: their owner, their order and bounds, and errors in them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging

import pytest

from support.waiting import settle
from tiderace.runtime.tasks import TaskGroup, WorkerPool

logger = logging.getLogger("tiderace.test")


@pytest.fixture
async def make_pool():
    made = []

    def make(do, concurrency):
        made.append(WorkerPool(do, concurrency, logger=logger))
        return made[-1]

    yield make
    for pool in made:
        await pool.stop()


async def test_work_with_a_concurrency_of_one_is_done_in_order(make_pool):
    done = []

    async def do(work):
        await asyncio.sleep(0)
        done.append(work)

    pool = make_pool(do, 1)
    for work in range(5):
        pool.put(work)
    await pool.finished()

    assert done == [0, 1, 2, 3, 4]
    assert not pool.busy


async def test_no_more_than_the_concurrency_runs_at_once(make_pool):
    gate, begun = asyncio.Event(), []

    async def do(work):
        begun.append(work)
        await gate.wait()

    pool = make_pool(do, 3)
    for work in range(10):
        pool.put(work)
    await asyncio.sleep(0)
    assert begun == [0, 1, 2]
    assert pool.busy
    gate.set()
    await pool.finished()

    assert begun == list(range(10))


async def test_work_that_is_put_while_the_last_task_ends_is_done(make_pool):
    """Also from a callback of the very task that is ending."""
    done = []

    async def do(work):
        done.append(work)
        task = asyncio.current_task()
        if work < 3:
            task.add_done_callback(lambda _: pool.put(work + 1))

    pool = make_pool(do, 1)
    pool.put(0)
    async with asyncio.timeout(10):
        while len(done) < 4:  # noqa: ASYNC110
            await asyncio.sleep(0)

    assert done == [0, 1, 2, 3]


async def test_an_error_is_logged_and_the_next_piece_begins(make_pool, caplog):
    done = []

    async def do(work):
        if work == 1:
            raise ValueError("no")
        done.append(work)

    pool = make_pool(do, 1)
    for work in range(3):
        pool.put(work)
    await pool.finished()

    assert done == [0, 2]
    assert "1 could not be done and is given up" in caplog.text


async def test_a_stopped_pool_drops_its_queue(make_pool):
    begun, never = [], asyncio.Event()

    async def do(work):
        begun.append(work)
        await never.wait()

    pool = make_pool(do, 1)
    pool.put(1)
    pool.put(2)
    await asyncio.sleep(0)

    await pool.stop()

    assert begun == [1]
    assert not pool.busy


async def test_a_cancelled_group_has_no_task_left():
    group, never = TaskGroup(logger), asyncio.Event()
    task = group.spawn(never.wait())

    await group.cancel()

    assert task.cancelled()
    assert len(group) == 0


async def hang_at_its_end(ended):
    try:
        await asyncio.Event().wait()
    finally:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)


async def swallow_cancellation(release):
    while not release.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await release.wait()


async def test_a_task_that_hangs_at_its_end_is_cancelled_again_after_the_limit(caplog):
    group, ended = TaskGroup(logger), []
    group.spawn(hang_at_its_end(ended))
    await settle()

    await group.cancel_in_time(0.01)

    assert ended == [True]
    assert "1 hooks or methods go on 0.01 s after" in caplog.text
    assert "left behind" not in caplog.text


async def test_a_task_that_swallows_its_cancellation_is_left_behind_once(caplog):
    group, release = TaskGroup(logger), asyncio.Event()
    task = group.spawn(swallow_cancellation(release))
    await settle()

    await group.cancel_in_time(0.01)
    await group.cancel_in_time(0.01)

    assert caplog.text.count("are left behind") == 1
    release.set()
    await task


async def test_a_group_logs_the_error_of_a_task_and_keeps_the_others(caplog):
    group, gate = TaskGroup(logger), asyncio.Event()

    async def fail():
        raise ValueError("broken")

    other = group.spawn(gate.wait())
    group.spawn(fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert "a background task failed" in caplog.text
    assert "ValueError: broken" in caplog.text
    assert not other.done()
    gate.set()
    await group.wait()
    assert other.result() is True


async def test_a_task_of_a_group_does_not_keep_its_callers_context():
    group, request = TaskGroup(logger), contextvars.ContextVar("request", default="")
    request.set("the caller's")

    async def seen():
        return request.get()

    assert await group.spawn(seen()) == ""
