"""How much memory does an idle socket take, with its consumer and one group?"""

from __future__ import annotations

import asyncio

from benchmarks.contenders import served
from benchmarks.load_generator import LoadGenerator
from benchmarks.plan import Plan
from benchmarks.report import Figure, Question

__all__ = ["QUESTION", "run"]

QUESTION = Question(
    "memory",
    "Resident memory per idle socket, with consumer and one group",
    "KB",
    more_is_better=False,
)
QUICK = ("channels", "tiderace-server")
CONTENDERS = (
    "channels",
    "tiderace",
    "tiderace-server",
    "bare",
    "node",
    "litestar",
    "socketio",
)


async def run(plan: Plan) -> None:
    size = 1000 if plan.quick else 3000
    for contender in plan.alternate(QUICK if plan.quick else CONTENDERS):
        with served(contender) as server:
            generator = LoadGenerator(contender.fan, server.ports)
            try:
                # Load and allocate first what does not depend on the number of sockets.
                await generator.connect(100)
                await generator.fan_out(1, 0, least=3)
                before = server.resident_bytes()
                await generator.connect(size)
                await asyncio.sleep(0.5)
                held = server.resident_bytes() - before
            finally:
                generator.close()
        plan.report.add(
            Figure(
                QUESTION.name, contender.name, f"{size:,} sockets", held / size / 1024
            )
        )
