"""How much time does a publish over Redis take in sync code?

Measured in a command without an event loop, as in Celery's workers, and in a sync view
under ASGI. One socket of the server is in the group and receives the messages.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import urllib.request

from benchmarks import peers
from benchmarks.contenders import SITES, Contender, Server, served
from benchmarks.load_generator import LoadGenerator
from benchmarks.plan import Plan
from benchmarks.report import Figure, Question

__all__ = ["QUESTION", "run"]

QUESTION = Question(
    "publish",
    "Microseconds of the caller's time for one publish over Redis",
    "µs",
    more_is_better=False,
    baseline="channels-core",
)
ASYNC = "async_to_sync"
SYNC = "layer.sync"
CONTENDERS = ("channels-core", "channels-pubsub", "tiderace-redis")


async def run(plan: Plan) -> None:
    count = 100 if plan.quick else 500
    for contender in plan.alternate(CONTENDERS):
        with served(contender) as server:
            # The site sends these messages itself, so the generator cannot check them.
            generator = LoadGenerator(contender.fan, server.ports)
            try:
                await generator.connect(1)
                generator.unchecked = True
                for how in ("async", "sync")[: 2 if contender.runtime == "ours" else 1]:
                    await measure(plan, contender, server, how, count)
            finally:
                generator.close()


async def measure(
    plan: Plan, contender: Contender, server: Server, how: str, count: int
) -> None:
    name = contender.name + ("-sync" if how == "sync" else "")
    title = contender.title + (", layer.sync" if how == "sync" else "")
    plan.report.titles.setdefault(name, title)
    for case, ask in (("command", in_command), ("sync view", in_view)):
        times = await asyncio.to_thread(ask, contender, server, how, count)
        # The first calls open connections.
        value = statistics.median(times[count // 10 :])
        plan.report.add(Figure(QUESTION.name, name, case, value))


def in_command(
    contender: Contender, server: Server, how: str, count: int
) -> list[float]:
    output = subprocess.run(
        [peers.python(contender.runtime), "django_site.py", how, str(count)],
        cwd=SITES,
        env=contender.variables(server.broker),
        check=True,
        capture_output=True,
    ).stdout
    return numbers(output)


def in_view(contender: Contender, server: Server, how: str, count: int) -> list[float]:
    url = f"http://127.0.0.1:{server.ports[0]}/publish/{how}/{count}/"
    with urllib.request.urlopen(url, timeout=120) as answer:
        return numbers(answer.read())


def numbers(output: bytes) -> list[float]:
    return [float(each) for each in json.loads(output)["times"]]
