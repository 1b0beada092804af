"""What does a message through a consumer and back cost, and how long does it take?

First as many as the server takes: fifty sockets, each speaks again when it has heard
itself. Then a tenth of that rate, whether or not answers come, for the latency.
"""

from __future__ import annotations

import time

from benchmarks.contenders import Contender, served
from benchmarks.load_generator import Crowd
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
    for contender in plan.turns(QUICK if plan.quick else CONTENDERS):
        await measure(plan, contender)


async def measure(plan: Plan, contender: Contender) -> None:
    assert contender.echo is not None
    with served(contender) as server:
        crowd = Crowd(contender.echo, server.ports, together=False)
        try:
            await crowd.enter(SOCKETS)
            await crowd.echo(min(plan.seconds, 0.5))
            before, heard = server.cpu_seconds(), crowd.deliveries
            started = time.perf_counter()
            await crowd.echo(plan.seconds)
            passed = time.perf_counter() - started
            used = server.cpu_seconds() - before
            count = crowd.deliveries - heard
            plan.report.add(
                Figure(
                    THROUGHPUT.name,
                    contender.name,
                    f"{SOCKETS} sockets",
                    count / used,
                    {"per s": count / passed},
                )
            )
            latencies = await crowd.echo(plan.seconds, rate=count / passed / 10)
            for name, share in (("median", 0.5), ("99th percentile", 0.99)):
                value = latencies.quantile(share) * 1000
                plan.report.add(Figure(LATENCY.name, contender.name, name, value))
        finally:
            crowd.leave()
