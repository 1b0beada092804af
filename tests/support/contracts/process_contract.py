"""The contract of a layer over a database that several processes use, and their forks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from typing import Any

import pytest

from support.waiting import until, within
from tiderace.layers import Retention
from tiderace.testing.layer_contract import RecordingListener

__all__ = ["KEEP", "LayerSetup", "ProcessContract", "listen", "programs", "publish"]

KEEP = Retention(10_000, 3600)

TOPIC = "tide"

# A program that uses a layer; the setup is its first argument.
PROGRAM = """
import asyncio, json, os, signal, sys
from django.conf import settings
setup = json.loads(sys.argv[1])
settings.configure(DATABASES={"default": setup["database"]})
from tiderace.layers import Retention
from tiderace.layers.database import DatabaseChannelLayer
layer = DatabaseChannelLayer(**setup["options"])
KEEP = Retention(10_000, 3600)
"""


@dataclass
class LayerSetup:
    """The database and the options with which another process uses the same layer."""

    database: dict[str, Any] = field(
        default_factory=lambda: {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": ":memory:",
        }
    )
    options: dict[str, Any] = field(default_factory=dict)

    def as_argument(self) -> str:
        """Return it for a command line."""
        return json.dumps({"database": self.database, "options": self.options})


@contextlib.contextmanager
def programs(setup: LayerSetup) -> Any:
    """Yield what starts a process that runs code with ``layer``; end all at the end."""
    with contextlib.ExitStack() as started:

        def start(code: str) -> subprocess.Popen[str]:
            process = started.enter_context(
                subprocess.Popen(
                    [
                        *(sys.executable, "-c", PROGRAM + textwrap.dedent(code)),
                        setup.as_argument(),
                    ],
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            started.callback(process.kill)
            return process

        yield start


async def listen(layer: Any, topic: str = TOPIC) -> RecordingListener:
    """Return a listener that is subscribed."""
    listener = RecordingListener()
    await layer.stream_subscribe(topic, listener)
    await until(lambda: layer.ready)
    return listener


async def publish(layer: Any, *items: object, topic: str = TOPIC) -> list[Any]:
    """Publish texts of ``items``, one after the other; return their positions."""
    return [
        await layer.stream_publish(topic, {"data": str(item)}, keep=KEEP)
        for item in items
    ]


class ProcessContract:
    """A subclass has the fixtures ``make_layer`` and ``layer_setup``, a ``LayerSetup``."""

    @pytest.fixture
    def start(self, layer_setup):
        with programs(layer_setup) as start:
            yield start

    async def test_a_process_receives_what_another_one_publishes(
        self, make_layer, start
    ):
        listener = await listen(make_layer())

        process = start(
            """
            for number in range(100):
                layer.sync.stream_publish("tide", {"data": str(number)}, keep=KEEP)
            """,
        )

        await until(lambda: len(listener.received) == 100)
        assert listener.data == [str(number) for number in range(100)]
        assert process.wait() == 0

    async def test_a_forked_child_uses_the_layer_of_its_parent(self, make_layer):
        layer = make_layer()
        listener = await listen(layer)
        await publish(layer, "parent")

        def run():
            layer.sync.stream_publish(TOPIC, {"data": "child"}, keep=KEEP)
            asyncio.run(publish(layer, "loop of child"))

        children = [
            multiprocessing.get_context("fork").Process(target=run) for _ in range(3)
        ]
        for child in children:
            child.start()
            await publish(layer, "between")
        await asyncio.to_thread(lambda: [child.join() for child in children])

        await until(lambda: len(listener.received) == 10)
        assert sorted(listener.data) == sorted(
            ["parent", *["child", "loop of child", "between"] * 3]
        )
        assert [child.exitcode for child in children] == [0, 0, 0]

    async def test_a_fork_during_publications_loses_none(self, make_layer):
        layer = make_layer()
        listener = await listen(layer)
        publishing = [asyncio.create_task(publish(layer, *range(50))) for _ in range(4)]

        for _ in range(5):
            child = multiprocessing.get_context("fork").Process(target=os.getpid)
            child.start()
            await asyncio.to_thread(child.join)

        await asyncio.gather(*publishing)
        await until(lambda: len(listener.received) == 200)
        assert listener.offsets == list(range(1, 201))

    async def test_publications_of_a_process_that_was_killed_are_kept(
        self, make_layer, start
    ):
        listener = await listen(make_layer())
        process = start(
            """
            for number in range(1_000_000):
                layer.sync.stream_publish("tide", {"data": str(number)}, keep=KEEP)
                print(number, flush=True)
            """,
        )
        await until(lambda: len(listener.received) > 50)

        process.kill()
        confirmed = [int(line) for line in process.stdout.read().split()]
        process.wait()

        await until(lambda: len(listener.received) >= len(confirmed))
        await publish(make_layer(), "next")
        await until(lambda: "next" in listener.data)
        *numbers, _ = listener.data
        assert [int(each) for each in numbers] == list(range(len(numbers)))
        assert len(numbers) - len(confirmed) in (0, 1)

    async def test_a_stopped_process_delays_no_publication_and_misses_none(
        self, make_layer, start
    ):
        process = start(
            """
            class Listener:
                groups = set()
                number = 0
                def on_publication(self, group, publication):
                    Listener.number += 1
                    assert publication.data == str(Listener.number), publication.data
                    if Listener.number == 2000:
                        print("all", flush=True)
                        os._exit(0)
                def on_gap(self, group):
                    os._exit(1)
            async def main():
                await layer.stream_subscribe("tide", Listener())
                while not layer.ready:
                    await asyncio.sleep(0.01)
                print("ready", flush=True)
                await asyncio.sleep(60)
            asyncio.run(main())
            """,
        )
        assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
        process.send_signal(signal.SIGSTOP)

        layer = make_layer(publish_timeout=60)
        # There are more commits than a socket holds wake-ups.
        for first in range(1, 2001, 3):
            together = range(first, min(first + 3, 2001))
            await within(asyncio.gather(*(publish(layer, each) for each in together)))

        process.send_signal(signal.SIGCONT)
        assert await asyncio.to_thread(process.stdout.read) == "all\n"
        assert process.wait() == 0

    async def test_four_processes_of_which_two_are_killed_publish_in_one_order(
        self, make_layer, start
    ):
        listeners = [await listen(make_layer()), await listen(make_layer())]
        code = """
            for number in range(150):
                data = f"{os.getpid()} {number}"
                layer.sync.stream_publish("tide", {"data": data}, keep=KEEP)
                print(data, flush=True)
            """
        processes = [start(code) for _ in range(4)]

        def run(process, lines):
            """Return what the process has published; kill it after so many lines."""
            first = [process.stdout.readline() for _ in range(lines)]
            if lines:
                process.kill()
            return [*first, *process.stdout]

        outputs = await asyncio.gather(
            *map(asyncio.to_thread, [run] * 4, processes, [20, 40, 0, 0])
        )
        await publish(make_layer(), "end")
        for each in listeners:
            await until(lambda: each.data[-1:] == ["end"])  # noqa: B023

        *data, _ = listeners[0].data
        assert listeners[1].data == listeners[0].data
        for process, output in zip(processes, outputs, strict=True):
            confirmed = [line.strip() for line in output]
            received = [each for each in data if each.startswith(f"{process.pid} ")]
            assert received[: len(confirmed)] == confirmed
            # One that was killed has committed one more than it could print.
            assert received == [f"{process.pid} {n}" for n in range(len(received))]
            assert len(received) - len(confirmed) in (0, 1)
