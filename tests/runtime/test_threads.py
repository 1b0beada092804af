"""Tests of the threads that run the sync code of connections."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from django.test import override_settings

from support.waiting import PATIENCE
from tiderace.runtime import threads
from tiderace.runtime.threads import ConnectionThread, ThreadPool, isolated


@pytest.fixture
def pool():
    """A pool of four threads, closed at the end."""
    pool = ThreadPool(4)
    yield pool
    pool.close()


@pytest.fixture
def single():
    """A pool of one thread, closed at the end."""
    pool = ThreadPool(1)
    yield pool
    pool.close()


class Gate:
    """Holds a thread until it is opened, and says when a thread has arrived."""

    def __init__(self):
        self.reached = threading.Event()
        self._open = threading.Event()

    def __call__(self):
        self.reached.set()
        if not self._open.wait(PATIENCE):
            raise TimeoutError("the gate was never opened")
        return threading.get_ident()

    def open(self):
        self._open.set()


@pytest.fixture
def gate():
    """A gate that is open at the end, whatever happened."""
    gate = Gate()
    yield gate
    gate.open()


# The pool


def test_a_pool_runs_jobs_side_by_side_up_to_its_size(pool):
    meeting = threading.Barrier(4)
    results = [ConnectionThread(pool).submit(meeting.wait, PATIENCE) for _ in range(4)]

    # The barrier breaks unless all four stand in it at once.
    assert sorted(result.result(PATIENCE) for result in results) == [0, 1, 2, 3]


def test_a_pool_never_has_more_threads_than_its_size(pool):
    used = [
        ConnectionThread(pool).submit(threading.get_ident).result(PATIENCE)
        for _ in range(50)
    ]

    assert 1 <= len(set(used)) <= 4


def test_a_pool_starts_no_thread_before_it_needs_one():
    before = threading.active_count()

    ThreadPool(8)

    assert threading.active_count() == before


def test_an_idle_thread_is_used_again_rather_than_a_new_one(pool):
    first = ConnectionThread(pool).submit(threading.get_ident).result(PATIENCE)
    while not pool._free:
        os.sched_yield()
    second = ConnectionThread(pool).submit(threading.get_ident).result(PATIENCE)

    assert first == second


def test_jobs_beyond_the_size_wait_for_a_thread(single, gate):
    busy = ConnectionThread(single).submit(gate)
    gate.reached.wait(PATIENCE)
    waiting = ConnectionThread(single).submit(threading.get_ident)

    assert not waiting.done()

    gate.open()

    assert waiting.result(PATIENCE) == busy.result(PATIENCE)


def test_a_pool_of_no_threads_is_refused():
    with pytest.raises(ValueError, match="at least one thread, not 0"):
        ThreadPool(0)


def test_a_closed_pool_finishes_its_queued_jobs(single, gate):
    first = ConnectionThread(single).submit(gate)
    second = ConnectionThread(single).submit(lambda: "done")
    gate.reached.wait(PATIENCE)

    gate.open()
    single.close(PATIENCE)

    assert first.done()
    assert second.result(0) == "done"


def test_a_closed_pool_refuses_new_jobs(pool):
    pool.close()

    with pytest.raises(RuntimeError, match="the process is exiting"):
        ConnectionThread(pool).submit(threading.get_ident)


def test_closing_waits_for_all_threads_within_one_timeout(pool, monkeypatch):
    now = 100.0
    waited: list[float] = []

    class Hanging:
        waiting = 1

        def join(self, timeout):
            nonlocal now
            waited.append(timeout)
            now += timeout

    monkeypatch.setattr(threads.time, "monotonic", lambda: now)
    monkeypatch.setattr(pool, "_workers", [Hanging(), Hanging(), Hanging()])

    pool.close(5.0)

    assert waited == [5.0, 0.0, 0.0]


def test_the_threads_of_a_pool_do_not_keep_the_process_alive(pool):
    daemon = ConnectionThread(pool).submit(lambda: threading.current_thread().daemon)

    assert daemon.result(PATIENCE)


# One connection's thread


def test_the_jobs_of_a_connection_run_one_after_the_other(pool, gate):
    thread = ConnectionThread(pool)
    seen: list[int] = []
    first = thread.submit(gate)
    rest = [thread.submit(seen.append, number) for number in range(20)]

    gate.reached.wait(PATIENCE)
    assert seen == []

    gate.open()
    for result in rest:
        result.result(PATIENCE)

    assert first.done()
    assert seen == list(range(20))


def test_the_jobs_of_a_connection_share_a_thread_until_it_is_released(pool):
    thread = ConnectionThread(pool, holds=True)

    used = {thread.submit(threading.get_ident).result(PATIENCE) for _ in range(10)}

    assert len(used) == 1


def test_jobs_that_follow_a_first_one_still_waiting_go_to_its_thread(pool):
    held = [Gate() for _ in range(4)]
    for each in held:
        ConnectionThread(pool).submit(each)
        each.reached.wait(PATIENCE)
    thread = ConnectionThread(pool)
    results = [thread.submit(threading.get_ident) for _ in range(5)]

    for each in held:
        each.open()

    assert len({result.result(PATIENCE) for result in results}) == 1


def test_after_a_release_another_thread_may_do_the_next_job(pool, gate):
    thread = ConnectionThread(pool, holds=True)
    first = thread.submit(threading.get_ident).result(PATIENCE)
    thread.release()
    # Keep the thread it had busy, so that there is no other way.
    occupied = ConnectionThread(pool, holds=True)
    while occupied.submit(threading.get_ident).result(PATIENCE) != first:
        occupied.release()
    occupied.submit(gate)
    gate.reached.wait(PATIENCE)

    second = thread.submit(threading.get_ident).result(PATIENCE)

    assert second != first


def test_a_new_job_waits_for_one_still_running_at_the_release(pool, gate):
    thread = ConnectionThread(pool, holds=True)
    first = thread.submit(gate)
    gate.reached.wait(PATIENCE)

    thread.release()
    second = thread.submit(threading.get_ident)
    ConnectionThread(pool).submit(lambda: None).result(PATIENCE)
    assert not second.done()
    gate.open()

    assert second.result(PATIENCE) == first.result(PATIENCE)


def test_a_thread_released_while_busy_is_free_when_its_job_is_over(single, gate):
    thread = ConnectionThread(single, holds=True)
    running = thread.submit(gate)
    gate.reached.wait(PATIENCE)
    thread.release()
    gate.open()

    assert ConnectionThread(single).submit(threading.get_ident).result(
        PATIENCE
    ) == running.result(PATIENCE)


def test_a_connection_records_whether_it_used_a_thread_since_the_release(pool):
    thread = ConnectionThread(pool, holds=True)
    assert not thread.used

    thread.submit(threading.get_ident).result(PATIENCE)
    assert thread.used

    thread.release()
    assert not thread.used


def test_a_held_thread_runs_no_other_connections_jobs(single):
    holder = ConnectionThread(single, holds=True)
    held = holder.submit(threading.get_ident).result(PATIENCE)

    others = {
        ConnectionThread(single).submit(threading.get_ident).result(PATIENCE)
        for _ in range(5)
    }

    assert held not in others
    assert holder.submit(threading.get_ident).result(PATIENCE) == held


def test_no_more_threads_than_the_size_run_jobs_after_a_release(single, gate):
    holders = [ConnectionThread(single, holds=True) for _ in range(5)]
    for each in holders:
        each.submit(threading.get_ident).result(PATIENCE)
    assert len(single) == 5
    for each in holders:
        each.release()

    ConnectionThread(single).submit(gate)
    gate.reached.wait(PATIENCE)
    waiting = ConnectionThread(single).submit(threading.get_ident)

    assert not waiting.done()


def test_threads_are_shared_when_too_many_are_held(single):
    holders = [ConnectionThread(single, holds=True) for _ in range(25)]
    first = [each.submit(threading.get_ident).result(PATIENCE) for each in holders]
    again = [each.submit(threading.get_ident).result(PATIENCE) for each in holders]

    assert len(single) == 10
    assert again[:9] == first[:9]
    assert len({*first, *again}) == 10

    for each in holders:
        each.release()
    assert ConnectionThread(single).submit(lambda: "free").result(PATIENCE) == "free"


def test_a_job_in_the_background_holds_no_thread(pool):
    async def main():
        async with isolated(pool) as thread:
            thread.holds = True
            work = sync_to_async(threading.get_ident)()
            loop = asyncio.get_running_loop()
            await loop.create_task(work, context=threads.background_context())
            assert not thread.used

    asyncio.run(main())


def test_an_error_of_a_job_reaches_its_caller_and_not_the_thread(single):
    def fail():
        raise LookupError("nothing there")

    failed = ConnectionThread(single).submit(fail)

    with pytest.raises(LookupError, match="nothing there"):
        failed.result(PATIENCE)
    assert ConnectionThread(single).submit(lambda: "alive").result(PATIENCE) == "alive"


async def test_sync_code_that_raises_stop_iteration_ends_with_an_error(pool):
    async with isolated(pool):
        with pytest.raises(RuntimeError, match=r"raised StopIteration\(\)"):
            async with asyncio.timeout(PATIENCE):
                await sync_to_async(next)(iter([]))


def test_a_cancelled_job_does_not_run_and_the_next_one_does(single, gate):
    ConnectionThread(single).submit(gate)
    gate.reached.wait(PATIENCE)
    ran: list[str] = []
    thread = ConnectionThread(single)
    cancelled = thread.submit(ran.append, "cancelled")
    thread.submit(ran.append, "next")

    assert cancelled.cancel()
    gate.open()
    thread.submit(ran.append, "last").result(PATIENCE)

    assert ran == ["next", "last"]


def test_many_connections_on_few_threads_keep_each_ones_order(pool):
    seen: dict[int, list[int]] = {number: [] for number in range(20)}
    connections = {number: ConnectionThread(pool, holds=True) for number in seen}
    results = []
    for turn in range(50):
        for number, thread in connections.items():
            results.append(thread.submit(seen[number].append, turn))
            if (turn + number) % 7 == 0:
                thread.release()

    for result in results:
        result.result(PATIENCE)

    assert all(turns == list(range(50)) for turns in seen.values())


# Isolation of what a connection's coroutines call


async def test_isolated_connections_run_their_sync_code_side_by_side(pool):
    meeting = threading.Barrier(3)

    async def connection():
        async with isolated(pool):
            return await sync_to_async(meeting.wait)(PATIENCE)

    results = await asyncio.gather(*(connection() for _ in range(3)))

    assert sorted(results) == [0, 1, 2]


async def test_outside_isolation_sync_code_shares_asgirefs_one_thread(pool):
    first = await sync_to_async(threading.get_ident)()
    async with isolated(pool):
        await sync_to_async(threading.get_ident)()
    second = await sync_to_async(threading.get_ident)()

    assert first == second


async def test_the_connections_thread_is_current_only_inside(pool):
    assert threads.current() is None

    async with isolated(pool) as thread:
        assert thread is not None
        assert threads.current() is thread

    assert threads.current() is None


async def test_nested_isolation_has_no_effect(pool):
    async with isolated(pool) as outer:
        async with isolated(pool) as inner:
            assert inner is None
            assert threads.current() is outer

        assert threads.current() is outer


async def test_isolation_respects_a_thread_sensitive_context_around_it(pool):
    async with ThreadSensitiveContext():
        outside = await sync_to_async(threading.get_ident)()
        async with isolated(pool) as thread:
            inside = await sync_to_async(threading.get_ident)()

    assert thread is None
    assert inside == outside


def test_below_a_sync_caller_sync_code_runs_in_the_callers_thread(pool):
    async def connection():
        async with isolated(pool) as thread:
            return thread, await sync_to_async(threading.get_ident)()

    thread, ran_in = async_to_sync(connection)()

    assert thread is None
    assert ran_in == threading.get_ident()


def test_a_task_below_a_sync_caller_runs_its_sync_code_in_the_callers_thread(pool):
    async def connection():
        async with isolated(pool):
            return await sync_to_async(threading.get_ident)()

    async def test():
        return await asyncio.create_task(connection())

    assert async_to_sync(test)() == threading.get_ident()


async def test_sync_code_that_calls_async_code_that_calls_sync_code_ends(single):
    def outermost():
        return async_to_sync(middle)()

    async def middle():
        return await sync_to_async(threading.get_ident)()

    async with isolated(single):
        inner = await sync_to_async(outermost)()
        outer = await sync_to_async(threading.get_ident)()

    assert inner == outer


async def test_a_background_task_outlives_the_sync_call_it_was_started_from(pool):
    go = asyncio.Event()
    tasks = []

    async def background():
        await go.wait()
        return await sync_to_async(threading.get_ident)()

    async def start():
        task = asyncio.get_running_loop().create_task(
            background(), context=threads.background_context()
        )
        tasks.append(task)

    async with isolated(pool):
        # The thread waits in async_to_sync while the task starts, and is gone after.
        await sync_to_async(lambda: async_to_sync(start)())()
        go.set()
        assert await tasks[0] != threading.get_ident()


async def test_an_ended_isolation_leaves_no_thread_held(pool):
    async with isolated(pool) as thread:
        await sync_to_async(threading.get_ident)()

    assert not thread.used


# The pool of the process


def test_the_pool_of_the_process_is_made_once():
    assert threads.default_pool() is threads.default_pool()


def test_the_size_of_the_pool_of_the_process_can_be_chosen(monkeypatch):
    monkeypatch.setattr(threads, "_pool", None)
    monkeypatch.setattr(threads.atexit, "register", lambda function: None)

    with override_settings(TIDERACE={"SYNC_THREADS": 3}):
        assert threads.default_pool().size == 3


def test_without_a_size_the_pool_follows_the_number_of_processors(monkeypatch):
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 8)
    assert threads.default_size() == 12

    monkeypatch.setattr(threads.os, "cpu_count", lambda: 128)
    assert threads.default_size() == 32

    monkeypatch.setattr(threads.os, "cpu_count", lambda: None)
    assert threads.default_size() == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_creates_its_own_pool():
    thread = ConnectionThread(threads.default_pool())
    thread.submit(threading.get_ident).result(PATIENCE)

    child = os.fork()
    if child == 0:  # pragma: no cover (in a process without coverage)
        try:
            fresh = ConnectionThread(threads.default_pool())
            alive = fresh.submit(lambda: "alive").result(PATIENCE) == "alive"
            os._exit(0 if alive else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
