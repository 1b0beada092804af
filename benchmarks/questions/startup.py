"""How long does it take to import what a site needs, and to start a server?

The imports are those of a consumer with groups and of a topic, after Django has been set
up, and the server is a site of each; only the processor time of one process counts.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time

from benchmarks import peers
from benchmarks.contenders import SITES, Contender, served
from benchmarks.plan import Plan
from benchmarks.report import Figure, Question

__all__ = ["QUESTIONS", "run"]

IMPORTS = Question(
    "imports",
    "Processor time to import what a site needs, after Django",
    "ms",
    more_is_better=False,
)
START = Question(
    "start",
    "Processor time of a server until it accepts connections",
    "ms",
    more_is_better=False,
)
QUESTIONS = (IMPORTS, START)
CONTENDERS = ("channels", "tiderace-server", "tiderace-history-server")
CONSUMERS = ("auth", "generic.websocket", "layers", "routing")
# After a first import, which writes the bytecode.
PROGRAM = """
import time, django
from django.conf import settings
settings.configure(INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"])
django.setup()
started = time.process_time()
import {modules}
print(time.process_time() - started)
"""


async def run(plan: Plan) -> None:
    for contender in plan.alternate(CONTENDERS):
        await asyncio.to_thread(import_time, contender)
        seconds = await asyncio.to_thread(import_time, contender)
        add(plan, IMPORTS, contender, seconds)
        started = time.perf_counter()
        with served(contender) as server:
            passed = time.perf_counter() - started
            add(plan, START, contender, server.cpu_seconds(), passed)


def import_time(contender: Contender) -> float:
    """Return the processor seconds of the imports in a new process."""
    package = "channels" if contender.runtime == "channels" else "tiderace"
    modules = [f"{package}.{name}" for name in CONSUMERS]
    if contender.site == "topics_site":
        modules = ["tiderace.topics"]
    command = [str(peers.python(contender.runtime)), "-c"]
    command.append(PROGRAM.format(modules=", ".join(modules)))
    run = subprocess.run(
        command,
        cwd=SITES,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
        check=True,
        capture_output=True,
    )
    return float(run.stdout)


def add(
    plan: Plan,
    question: Question,
    contender: Contender,
    seconds: float,
    passed: float | None = None,
) -> None:
    more = {} if passed is None else {"ms passed": passed * 1000}
    case = "topics" if contender.site == "topics_site" else "consumers"
    figure = Figure(question.name, contender.name, case, seconds * 1000, more)
    plan.report.add(figure)
