"""Work that is begun in passing: its order, its bounds, and what goes wrong in it."""

from __future__ import annotations

import asyncio

import pytest

from tiderace.runtime.tasks import WorkerPool


@pytest.fixture
async def make():
    made = []

    def make(do, hands):
        made.append(WorkerPool(do, hands))
        return made[-1]

    yield make
    for crew in made:
        await crew.stop()


async def test_one_hand_does_it_in_the_order_it_comes(make):
    done = []

    async def do(work):
        await asyncio.sleep(0)
        done.append(work)

    crew = make(do, 1)
    for work in range(5):
        crew.put(work)
    await crew.finished()

    assert done == [0, 1, 2, 3, 4]
    assert not crew.busy


async def test_no_more_than_its_hands_work_at_once(make):
    gate, begun = asyncio.Event(), []

    async def do(work):
        begun.append(work)
        await gate.wait()

    crew = make(do, 3)
    for work in range(10):
        crew.put(work)
    await asyncio.sleep(0)
    assert begun == [0, 1, 2]
    assert crew.busy
    gate.set()
    await crew.finished()

    assert begun == list(range(10))


async def test_what_comes_while_the_last_is_ending_is_done(make):
    """At whatever moment: here in a callback of the very task that is ending."""
    done = []

    async def do(work):
        done.append(work)
        task = asyncio.current_task()
        if work < 3:
            task.add_done_callback(lambda _: crew.put(work + 1))

    crew = make(do, 1)
    crew.put(0)
    async with asyncio.timeout(10):
        while len(done) < 4:  # noqa: ASYNC110
            await asyncio.sleep(0)

    assert done == [0, 1, 2, 3]


async def test_an_error_is_logged_and_the_next_is_begun(make, caplog):
    done = []

    async def do(work):
        if work == 1:
            raise ValueError("no")
        done.append(work)

    crew = make(do, 1)
    for work in range(3):
        crew.put(work)
    await crew.finished()

    assert done == [0, 2]
    assert "1 could not be done and is given up" in caplog.text


async def test_a_crew_that_is_stopped_gives_up_what_is_left(make):
    begun, never = [], asyncio.Event()

    async def do(work):
        begun.append(work)
        await never.wait()

    crew = make(do, 1)
    crew.put(1)
    crew.put(2)
    await asyncio.sleep(0)

    await crew.stop()

    assert begun == [1]
    assert not crew.busy
