"""The writers of growing messages are resumed in batches, with pauses between these."""

from __future__ import annotations

import asyncio

import pytest

from support.clock import FakeClock
from support.waiting import settle
from tiderace.topics.growing.pacing import SendPace


class Timers:
    """The timers of the running event loop; a test calls their callbacks."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        self.set = []
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "time", lambda: self.now)
        monkeypatch.setattr(loop, "call_at", self._call_at)

    def _call_at(self, when, callback, *arguments):
        timer = asyncio.TimerHandle(when, callback, arguments, asyncio.get_event_loop())
        self.set.append(timer)
        return timer

    @property
    def pending(self):
        return [timer for timer in self.set if not timer.cancelled()]

    async def run_next(self):
        """Let the time pass until the next timer, and call it."""
        (timer,) = self.pending
        self.set.clear()
        self.now = max(self.now, timer.when())
        timer._run()
        await settle()


@pytest.fixture
async def timers(monkeypatch):
    with monkeypatch.context() as patch:
        yield Timers(patch)


@pytest.fixture
def clock():
    return FakeClock()


async def waiting(pace, seconds, then=lambda: None):
    async def wait():
        await pace.wait(seconds)
        then()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    return task


async def test_a_writer_is_resumed_after_its_seconds_and_at_most_a_slot_more(timers):
    pace = SendPace()
    writer = await waiting(pace, 0.043)

    (timer,) = timers.pending
    assert 100.043 <= timer.when() <= 100.053
    await timers.run_next()

    assert writer.done()


async def test_writers_that_are_due_together_have_one_timer(timers):
    pace = SendPace()
    writers = [await waiting(pace, 0.041 + number / 1e4) for number in range(9)]

    assert len(timers.pending) == 1
    await timers.run_next()

    assert all(writer.done() for writer in writers)
    assert not timers.pending


async def test_a_writer_does_not_wait_for_one_that_is_due_later(timers):
    pace = SendPace()
    late = await waiting(pace, 60)
    soon = await waiting(pace, 0.04)

    await timers.run_next()

    assert soon.done()
    assert not late.done()
    await timers.run_next()
    assert late.done()


async def test_the_next_writers_wait_as_long_as_the_ones_before_kept_the_loop_busy(
    timers, clock
):
    pace = SendPace(clock)
    await waiting(pace, 0.01, then=lambda: clock.advance(3))
    writer = await waiting(pace, 0.04)

    await timers.run_next()

    (timer,) = timers.pending
    assert timer.when() == pytest.approx(103.01)
    await timers.run_next()
    assert writer.done()


async def test_a_writer_that_was_cancelled_is_not_resumed(timers):
    pace = SendPace()
    cancelled, other = await waiting(pace, 0.04), await waiting(pace, 0.04)

    cancelled.cancel()
    await timers.run_next()

    assert cancelled.cancelled()
    assert other.done()
