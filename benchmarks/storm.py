"""A thousand sockets are cut and all come back at once: when are all inside again?

From the cut until the last one has joined its group and heard a message.
"""

from __future__ import annotations

import time

from benchmarks.contenders import served
from benchmarks.load_generator import Crowd
from benchmarks.plan import Plan
from benchmarks.report import Figure, Question

__all__ = ["QUESTION", "run"]

QUESTION = Question(
    "storm",
    "Seconds until 1,000 disconnected sockets have reconnected and received a message",
    "s",
    more_is_better=False,
)
QUICK = ("channels", "tiderace-server")
CONTENDERS = (
    "channels",
    "tiderace",
    "tiderace-server",
    "bare",
    "node",
)
SIZE = 1000


async def run(plan: Plan) -> None:
    for contender in plan.turns(QUICK if plan.quick else CONTENDERS):
        with served(contender) as server:
            first = Crowd(contender.fan, server.ports)
            try:
                await first.enter(SIZE)
                await first.talk(1, 0)
            finally:
                first.leave()
            before, started = server.cpu_seconds(), time.perf_counter()
            again = Crowd(contender.fan, server.ports)
            try:
                await again.enter(SIZE, at_once=SIZE)
                await again.talk(1, 0, least=1)
                passed = time.perf_counter() - started
                used = server.cpu_seconds() - before
            finally:
                again.leave()
        plan.report.add(
            Figure(
                QUESTION.name,
                contender.name,
                f"{SIZE:,} sockets",
                passed,
                {"cpu-s": used},
            )
        )
