"""How much processor time and how much latency does an echo through a consumer take?

First at the maximum rate: fifty sockets, each of which sends after each echo. Then at a
tenth of that rate, whether or not echoes have arrived, for the latency.
"""

from __future__ import annotations

import time

from benchmarks.contenders import Contender, served
from benchmarks.load_generator import LoadGenerator
from benchmarks.plan import Plan
from benchmarks.report import Figure, Question

__all__ = ["QUESTIONS", "run"]

THROUGHPUT = Question("echo", "Echoes per second of server processor time", "per cpu-s")
LATENCY = Question(
    "latency",
    "Round trip of an echo at a tenth of what the server can do",
    "ms",
    more_is_better=False,
    baseline="bare",
)
QUESTIONS = (THROUGHPUT, LATENCY)
QUICK = ("bare", "channels", "tiderace", "tiderace-server")
CONTENDERS = (
    "bare",
    "channels",
    "tiderace",
    "tiderace-server",
    "node",
    "litestar",
    "socketio",
)
SOCKETS = 50


async def run(plan: Plan) -> None:
    for contender in plan.alternate(QUICK if plan.quick else CONTENDERS):
        await measure(plan, contender)


async def measure(plan: Plan, contender: Contender) -> None:
    assert contender.echo is not None
    with served(contender) as server:
        generator = LoadGenerator(contender.echo, server.ports, shared=False)
        try:
            await generator.connect(SOCKETS)
            await generator.echo(min(plan.seconds, 0.5))
            before, delivered = server.cpu_seconds(), generator.deliveries
            started = time.perf_counter()
            await generator.echo(plan.seconds)
            passed = time.perf_counter() - started
            used = server.cpu_seconds() - before
            count = generator.deliveries - delivered
            plan.report.add(
                Figure(
                    THROUGHPUT.name,
                    contender.name,
                    f"{SOCKETS} sockets",
                    count / used,
                    {"per s": count / passed},
                )
            )
            latencies = await generator.echo(plan.seconds, rate=count / passed / 10)
            for name, share in (("median", 0.5), ("99th percentile", 0.99)):
                value = latencies.quantile(share) * 1000
                plan.report.add(Figure(LATENCY.name, contender.name, name, value))
        finally:
            generator.close()
