"""Work under a key is done once by all who ask for it at the same time."""

from __future__ import annotations

import asyncio

import pytest

from tiderace.runtime.single_flight import SingleFlight


class Work:
    """A coroutine function that reports its beginning, and ends when a test lets it."""

    def __init__(self, error=None):
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.times = 0
        self._error = error

    async def __call__(self):
        self.times += 1
        self.begun.set()
        await self.may_end.wait()
        if self._error is not None:
            raise self._error


async def both(once, key, first, second):
    """Two that ask, the second while the first is at it."""
    one = asyncio.create_task(once.do(key, first))
    await first.begun.wait()
    two = asyncio.create_task(once.do(key, second))
    await asyncio.sleep(0)
    return one, two


async def test_a_second_caller_waits_and_does_nothing():
    once, work = SingleFlight(), Work()
    one, two = await both(once, "k", work, work)

    assert not two.done()
    work.may_end.set()
    await asyncio.gather(one, two)

    assert work.times == 1


async def test_other_keys_do_not_wait():
    once, work, other = SingleFlight(), Work(), Work()
    other.may_end.set()
    one = asyncio.create_task(once.do("k", work))
    await work.begun.wait()

    await once.do("l", other)

    assert not one.done()
    work.may_end.set()
    await one


async def test_a_later_caller_does_the_work_again():
    once, work = SingleFlight(), Work()
    work.may_end.set()

    await once.do("k", work)
    await once.do("k", work)

    assert work.times == 2


async def test_a_waiting_caller_does_the_work_after_a_failure():
    once, fails, works = SingleFlight(), Work(ValueError("no")), Work()
    works.may_end.set()
    one, two = await both(once, "k", fails, works)

    fails.may_end.set()

    with pytest.raises(ValueError, match="no"):
        await one
    await two
    assert works.times == 1


async def test_one_waiting_caller_does_it_after_a_cancellation():
    once, never, work = SingleFlight(), Work(), Work()
    one, two = await both(once, "k", never, work)
    three = asyncio.create_task(once.do("k", work))

    one.cancel()
    await work.begun.wait()
    work.may_end.set()
    await asyncio.gather(two, three)

    assert one.cancelled()
    assert work.times == 1


async def test_a_cancelled_waiting_caller_cancels_no_other():
    once, work = SingleFlight(), Work()
    one, two = await both(once, "k", work, work)
    three = asyncio.create_task(once.do("k", work))
    await asyncio.sleep(0)

    two.cancel()
    await asyncio.wait([two])
    work.may_end.set()
    await asyncio.gather(one, three)

    assert two.cancelled()
    assert work.times == 1


async def test_no_key_is_kept_after_the_work():
    once, work = SingleFlight(), Work(ValueError())
    work.may_end.set()

    with pytest.raises(ValueError):
        await once.do("k", work)

    assert not once._running
