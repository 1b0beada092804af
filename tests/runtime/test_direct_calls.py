"""Calls through async_to_sync that need no event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from asgiref.sync import AsyncToSync, async_to_sync, sync_to_async

from tiderace.layers import InMemoryChannelLayer
from tiderace.runtime import direct_calls

pytestmark = pytest.mark.skipif(
    direct_calls._Context is None, reason="this asgiref makes a loop for each call"
)

MESSAGE = {"type": "said"}


def in_a_thread(function):
    """Return what a function returns in a thread without an event loop."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(function).result()


def refuse(*args, **kwargs):
    raise AssertionError("an event loop was made")


def current_context():
    return AsyncToSync.async_single_thread_context.get(None)


def test_a_message_is_sent_without_an_event_loop(monkeypatch):
    layer = InMemoryChannelLayer()
    monkeypatch.setattr(asyncio, "run", refuse)

    def send():
        async_to_sync(layer.send)("work", MESSAGE)
        async_to_sync(layer.group_send)("room", MESSAGE)
        async_to_sync(layer.group_broadcast)("room", text_data="said")
        return current_context()

    assert in_a_thread(send) is None
    monkeypatch.undo()
    assert asyncio.run(layer.receive("work")) == MESSAGE


def test_an_error_is_raised_to_the_caller_and_later_calls_are_made():
    layer = InMemoryChannelLayer()

    def send():
        with pytest.raises(TypeError, match="Group name must be"):
            async_to_sync(layer.group_send)("no name!", MESSAGE)
        async_to_sync(layer.send)("work", MESSAGE)
        return async_to_sync(layer.receive)("work")

    assert in_a_thread(send) == MESSAGE


def test_a_coroutine_is_run_where_it_is_awaited():
    layer = InMemoryChannelLayer()

    def send():
        asyncio.run(layer.send("work", MESSAGE))
        coroutine = layer.send("work", MESSAGE)
        waiting = len(layer.channels)
        coroutine.close()
        return waiting

    assert in_a_thread(send) == 1
    assert asyncio.iscoroutinefunction(layer.send)


async def test_code_below_an_event_loop_uses_that_loop():
    loops = []

    class Layer(InMemoryChannelLayer):
        async def group_send(self, *args, **kwargs):
            loops.append(asyncio.get_running_loop())
            await super().group_send(*args, **kwargs)

    await sync_to_async(async_to_sync(Layer().group_send))("room", MESSAGE)
    await sync_to_async(async_to_sync(InMemoryChannelLayer().group_send))("a", MESSAGE)

    assert loops == [asyncio.get_running_loop()]


def test_another_call_after_an_interrupted_one_has_a_loop_of_its_own():
    async def running():
        return asyncio.get_running_loop().is_running()

    def call():
        interrupted = direct_calls._finished(None)
        interrupted.close()
        return [async_to_sync(running)() for _ in range(2)]

    assert in_a_thread(call) == [True, True]
