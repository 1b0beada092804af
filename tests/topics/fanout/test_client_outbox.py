"""The outbox of a topic client on servers that do not take finished frames."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from support.waiting import until
from tiderace.protocol.codec import JSON
from tiderace.topics.fanout.outbox import ClientOutbox


@asynccontextmanager
async def outbox(send):
    """An outbox whose task waits."""
    found = ClientOutbox(
        JSON, send, writer=None, limit=1000, on_slow=lambda: found.abandon()
    )
    found.start()
    await asyncio.sleep(0)
    try:
        yield found
    finally:
        found.abandon()


async def test_the_frames_of_one_tick_are_sent_in_one_message():
    sent = []

    async def send(message):
        sent.append(message)

    async with outbox(send) as box:
        for frame in (b"1", b"2", b"3"):
            box.push(frame)
        before = list(sent)
        await asyncio.sleep(0)

    assert (before, sent) == ([], [b"1\n2\n3"])


async def test_a_message_is_sent_as_if_in_the_task_of_the_outbox():
    tasks = []

    async def send(message):
        tasks.append(asyncio.current_task())
        if message == b"waits":
            await asyncio.sleep(0)
        tasks.append(asyncio.current_task())

    async with outbox(send) as box:
        box.push(b"at once")
        await asyncio.sleep(0)
        box.push(b"waits")
        await until(lambda: len(tasks) == 4)

    assert len(set(tasks)) == 1
    assert tasks[0] is not asyncio.current_task()


async def test_frames_for_a_client_that_reads_slowly_wait_in_order():
    sent = []
    readable = asyncio.Event()

    async def send(message):
        sent.append(message)
        await readable.wait()

    async with outbox(send) as box:
        box.push(b"1")
        await asyncio.sleep(0)
        box.push(b"2")
        await asyncio.sleep(0)
        box.push(b"3")
        assert box.busy
        before = list(sent)
        readable.set()
        await until(lambda: not box.busy)

    assert (before, sent) == ([b"1"], [b"1", b"2\n3"])


async def test_a_client_that_is_drained_has_been_sent_everything():
    sent = []

    async def send(message):
        sent.append(message)

    async with outbox(send) as box:
        box.put(b"x" * 70_000)
        await asyncio.wait_for(box.drained(), 5)

    assert sent == [b"x" * 70_000]


async def test_nothing_more_is_sent_to_a_client_that_is_gone():
    sent = []

    async def send(message):
        sent.append(message)
        raise OSError

    async with outbox(send) as box:
        box.push(b"1")
        await asyncio.sleep(0)
        box.push(b"2")
        await asyncio.wait_for(box.finish(), 5)

    assert sent == [b"1"]


async def test_other_clients_are_sent_to_after_one_whose_server_fails():
    sent = []

    async def fail(message):
        raise OSError

    async def send(message):
        sent.append(message)

    async with outbox(fail) as one, outbox(send) as other:
        one.push(b"1")
        other.push(b"1")
        await asyncio.sleep(0)

    assert sent == [b"1"]
