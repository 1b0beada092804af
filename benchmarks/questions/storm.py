"""How long does a reconnect storm of a thousand sockets take?

Measured from the disconnection of all sockets until the last one has joined its group
again and received a message.
"""

from __future__ import annotations

import time

from benchmarks.contenders import served
from benchmarks.load_generator import LoadGenerator
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
    for contender in plan.alternate(QUICK if plan.quick else CONTENDERS):
        with served(contender) as server:
            first = LoadGenerator(contender.fan, server.ports)
            try:
                await first.connect(SIZE)
                await first.fan_out(1, 0)
            finally:
                first.close()
            before, started = server.cpu_seconds(), time.perf_counter()
            again = LoadGenerator(contender.fan, server.ports)
            try:
                await again.connect(SIZE, at_once=SIZE)
                await again.fan_out(1, 0, least=1)
                passed = time.perf_counter() - started
                used = server.cpu_seconds() - before
            finally:
                again.close()
        plan.report.add(
            Figure(
                QUESTION.name,
                contender.name,
                f"{SIZE:,} sockets",
                passed,
                {"cpu-s": used},
            )
        )
