"""Calls of many sockets with the same delay from one timer."""

from __future__ import annotations

import asyncio

import pytest

from tiderace.server.delays import Delays

DELAY = 0.02


class Counting:
    """An event loop that counts its timers."""

    def __init__(self, loop):
        self._loop = loop
        self.timers = 0

    def __getattr__(self, name):
        return getattr(self._loop, name)

    def call_at(self, *arguments, **options):
        self.timers += 1
        return self._loop.call_at(*arguments, **options)


@pytest.fixture
async def loop():
    return Counting(asyncio.get_running_loop())


@pytest.fixture
async def delays(loop):
    return Delays(loop)


async def test_calls_are_made_in_their_order_and_not_before_their_time(loop, delays):
    made = []
    done = loop.create_future()
    started = loop.time()

    for name in ("first", "second"):
        delays.call_later(DELAY, lambda name=name: made.append(name))
    delays.call_later(DELAY, lambda: done.set_result(None))
    await asyncio.wait_for(done, 10)

    assert made == ["first", "second"]
    assert loop.time() - started > DELAY - 0.002


async def test_calls_with_one_delay_share_a_timer(loop, delays):
    done = loop.create_future()

    for _ in range(100):
        delays.call_later(DELAY, lambda: done.done() or done.set_result(None))
    await asyncio.wait_for(done, 10)

    assert loop.timers < 10


async def test_a_call_with_a_shorter_delay_comes_first(loop, delays):
    made = []
    done = loop.create_future()

    delays.call_later(2 * DELAY, lambda: done.set_result(made.append("long")))
    delays.call_later(DELAY, lambda: made.append("short"))
    await asyncio.wait_for(done, 10)

    assert made == ["short", "long"]


async def test_a_cancelled_call_is_not_made(loop, delays):
    made = []
    done = loop.create_future()

    delays.call_later(DELAY, lambda: made.append("cancelled")).cancel()
    delays.call_later(DELAY, lambda: done.set_result(None))
    await asyncio.wait_for(done, 10)

    assert made == []


async def test_a_call_cancelled_by_one_that_is_due_with_it_is_not_made(loop, delays):
    made = []
    done = loop.create_future()

    delays.call_later(DELAY, lambda: second.cancel())
    second = delays.call_later(DELAY, lambda: made.append("second"))
    delays.call_later(DELAY, lambda: done.set_result(None))
    await asyncio.wait_for(done, 10)

    assert made == []


async def test_a_function_may_call_itself_again_later(loop, delays):
    made = []
    done = loop.create_future()

    def again():
        made.append(again)
        if len(made) < 3:
            delays.call_later(DELAY, again)
        else:
            done.set_result(None)

    delays.call_later(DELAY, again)
    await asyncio.wait_for(done, 10)

    assert len(made) == 3


async def test_an_error_of_one_call_does_not_keep_the_others(loop, delays):
    errors = []
    loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
    done = loop.create_future()

    delays.call_later(DELAY, lambda: 1 / 0)
    delays.call_later(DELAY, lambda: done.set_result(None))
    await asyncio.wait_for(done, 10)

    assert [type(each) for each in errors] == [ZeroDivisionError]
