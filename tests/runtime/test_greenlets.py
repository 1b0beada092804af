"""Sync code calls coroutines from greenlets, which share one thread."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def run_patched(code: str) -> str:
    """Return what the code prints in a process whose threads are gevent's greenlets."""
    patch = "from gevent import monkey; monkey.patch_all()\n"
    process = subprocess.run(
        [sys.executable, "-c", patch + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_greenlets_call_the_bridge_while_another_one_runs_an_event_loop():
    printed = run_patched(
        """
        import asyncio, threading
        import gevent
        from gevent.event import Event
        from tiderace.runtime import sync_bridge

        async def aecho(number):
            await asyncio.sleep(0.001)
            return number

        ended = Event()

        async def wait():
            started.set()
            task = asyncio.current_task()
            while not ended.is_set():
                await asyncio.sleep(0.001)
                gevent.sleep(0.001)  # in the middle of a task's step
                assert asyncio.current_task() is task
            return "waited"

        started = Event()
        other = gevent.spawn(asyncio.run, wait())
        started.wait()
        for _ in range(3):
            calls = [gevent.spawn(sync_bridge.call, aecho, n) for n in range(4)]
            gevent.joinall(calls, raise_error=True)
            print([call.value for call in calls])
        ended.set()
        print(other.get())
        """
    )

    assert printed.splitlines() == [*["[0, 1, 2, 3]"] * 3, "waited"]


def test_each_greenlet_may_use_async_to_sync():
    printed = run_patched(
        """
        import asyncio
        import gevent
        from asgiref.sync import async_to_sync
        import tiderace.layers

        async def echo(number):
            await asyncio.sleep(0.001)
            return number

        calls = [gevent.spawn(async_to_sync(echo), n) for n in range(4)]
        gevent.joinall(calls, raise_error=True)
        print([call.value for call in calls])
        """
    )

    assert printed == "[0, 1, 2, 3]\n"


def test_a_greenlet_that_runs_an_event_loop_is_refused_as_a_thread_is():
    printed = run_patched(
        """
        import asyncio
        from tiderace.runtime import sync_bridge

        async def nothing():
            pass

        async def main():
            try:
                sync_bridge.call(nothing)
            except RuntimeError as error:
                print(error)

        sync_bridge.call(nothing)
        asyncio.run(main())
        """
    )

    assert "nothing() was called where an event loop runs" in printed


def test_a_loop_closes_the_async_generators_of_its_own_greenlet_only():
    printed = run_patched(
        """
        import asyncio, sys
        import gevent
        from gevent.event import Event
        import tiderace.layers

        async def generate(name):
            try:
                yield
            finally:
                print(name, asyncio.get_running_loop() is loops[name])

        async def main(name, may_end):
            loops[name] = asyncio.get_running_loop()
            generators.append(generate(name))
            await anext(generators[-1])
            entered.append(name)
            may_end.wait()  # in the middle of the loop
            print(name, "ends")

        loops, generators, entered = {}, [], []
        first, second = Event(), Event()
        tasks = [
            gevent.spawn(asyncio.run, main("first", first)),
            gevent.spawn(asyncio.run, main("second", second)),
        ]
        while len(entered) < 2:
            gevent.sleep(0)
        first.set()
        tasks[0].get()
        second.set()
        tasks[1].get()
        print(sys.get_asyncgen_hooks().firstiter)
        """
    )

    assert printed.splitlines() == [
        *("first ends", "first True"),
        *("second ends", "second True"),
        "None",
    ]
