"""How many connections are accepted and joined to a group per second of processor time?

Each connection runs the handshake and a consumer's ``connect``, which joins a group.
"""

from __future__ import annotations

import time

from benchmarks.contenders import served
from benchmarks.load_generator import LoadGenerator
from benchmarks.plan import Plan
from benchmarks.report import Figure, Question

__all__ = ["QUESTION", "run"]

QUESTION = Question(
    "accepts",
    "Connections accepted and joined to a group per second of server processor time",
    "per cpu-s",
)
QUICK = ("channels", "tiderace", "tiderace-server")
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
    size = 1000 if plan.quick else 2000
    for contender in plan.alternate(QUICK if plan.quick else CONTENDERS):
        with served(contender) as server:
            generator = LoadGenerator(contender.fan, server.ports)
            try:
                await generator.connect(50)
                before, started = server.cpu_seconds(), time.perf_counter()
                await generator.connect(size)
                used = server.cpu_seconds() - before
                passed = time.perf_counter() - started
            finally:
                generator.close()
        figure = Figure(
            QUESTION.name,
            contender.name,
            f"{size:,} sockets",
            size / used,
            {"per s": size / passed},
        )
        plan.report.add(figure)
