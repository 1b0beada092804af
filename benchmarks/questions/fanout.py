"""How many messages does a fan-out deliver per second of the server's processor time?

N sockets are in one group of one process; one of them sends and all N receive. A fixed
number of messages is in flight: with one, a server has to write each message separately;
with more it can combine the messages for a socket in one write.
"""

from __future__ import annotations

from benchmarks.contenders import Contender, Server, served
from benchmarks.frames import RunFailed
from benchmarks.load_generator import LoadGenerator
from benchmarks.plan import Plan
from benchmarks.report import Figure, Question

__all__ = ["QUESTION", "measure", "run"]

QUESTION = Question(
    "fanout",
    "Deliveries per second of server processor time, fan-out in one process",
    "per cpu-s",
)
OURS = (
    "channels",
    "tiderace-once-server",
    "tiderace-history-server",
    "centrifugo",
    "node",
    "limit",
    "tiderace-server",
    "tiderace",
    "tiderace-topic-server",
    "tiderace-once",
    "nats",
    "bare",
    "centrifugo-topic",
)
OTHERS = (
    "litestar",
    "socketio",
    "channels-core",
    "channels-pubsub",
    "tiderace-history",
)
# These take a second or more for a message at some sizes, and are measured there with
# one message in flight only.
SLOW = frozenset({"channels", "channels-core", "channels-pubsub", "socketio"})


async def run(plan: Plan) -> None:
    sizes = plan.sizes or ([1000] if plan.quick else [100, 1000, 5000])
    names = OURS if plan.quick else OURS[:1] + OTHERS + OURS[1:]
    for size in sizes:
        for contender in plan.alternate(names):
            if contender.layer == "core" and size > 1000:
                continue  # its queues overflow
            with served(contender) as server:
                await measure(plan, QUESTION, contender, server, size)


async def measure(
    plan: Plan, question: Question, contender: Contender, server: Server, size: int
) -> None:
    """Connect ``size`` sockets and measure with 1, 4 and 32 messages in flight."""
    generator = LoadGenerator(contender.fan, server.ports)
    try:
        await generator.connect(size)
        await generator.fan_out(1, 0, least=1 if size > 1000 else 3)
        for in_flight in (1, 4, 32):
            slow = contender.name in SLOW
            if slow and (
                (in_flight > 1 and size > 1000) or (in_flight > 4 and plan.quick)
            ):
                continue
            if not plan.has_time(contender, f"{in_flight} in flight"):
                break
            before, delivered = server.cpu_seconds(), generator.deliveries
            latencies = await generator.fan_out(in_flight, plan.seconds)
            used = server.cpu_seconds() - before
            if used < 0.05:
                raise RunFailed(f"{used} s of processor time are too few to measure")
            figure = Figure(
                question.name,
                contender.name,
                f"{size:,} sockets, {in_flight} in flight",
                (generator.deliveries - delivered) / used,
                {
                    "p50 ms": latencies.quantile(0.5) * 1000,
                    "p99 ms": latencies.quantile(0.99) * 1000,
                },
            )
            plan.report.add(figure)
    finally:
        generator.close()
