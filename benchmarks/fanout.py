"""How many deliveries does one second of server processor time buy, in a fan-out?

N sockets are in one group of one process; one of them speaks and all N hear it. A
number of messages is kept on their way: with one, a server can only send each at once;
with more it may join what a socket is to get into one write.
"""

from __future__ import annotations

from benchmarks.contenders import Contender, Server, served
from benchmarks.load_generator import Crowd, Failed
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
    "tiderace",
    "tiderace-server",
    "tiderace-once-server",
    "tiderace-topic-server",
    "tiderace-history-server",
    "node",
    "nats",
    "limit",
    "tiderace-once",
    "bare",
)
OTHERS = ("litestar", "socketio", "channels-core", "channels-pubsub")
# Where one message takes Channels a second or more, these are measured with one alone.
SLOW = frozenset({"channels", "channels-core", "channels-pubsub", "socketio"})


async def run(plan: Plan) -> None:
    sizes = plan.sizes or ([1000] if plan.quick else [100, 1000, 5000])
    names = OURS if plan.quick else OURS[:1] + OTHERS + OURS[1:]
    for size in sizes:
        for contender in plan.turns(names):
            if contender.layer == "core" and size > 1000:
                continue  # it fails: its members' queues overflow
            with served(contender) as server:
                await measure(plan, QUESTION, contender, server, size)


async def measure(
    plan: Plan, question: Question, contender: Contender, server: Server, size: int
) -> None:
    """Let ``size`` sockets in, and talk with 1, 4 and 32 messages on their way."""
    crowd = Crowd(contender.fan, server.ports)
    try:
        await crowd.enter(size)
        await crowd.talk(1, 0, least=1 if size > 1000 else 3)
        for in_flight in (1, 4, 32):
            slow = contender.name in SLOW
            if slow and (
                (in_flight > 1 and size > 1000) or (in_flight > 4 and plan.quick)
            ):
                continue
            before, heard = server.cpu_seconds(), crowd.deliveries
            latencies = await crowd.talk(in_flight, plan.seconds)
            used = server.cpu_seconds() - before
            if used < 0.05:
                raise Failed(f"{used} s of processor time are too few for a figure")
            figure = Figure(
                question.name,
                contender.name,
                f"{size:,} sockets, {in_flight} in flight",
                (crowd.deliveries - heard) / used,
                {
                    "p50 ms": latencies.quantile(0.5) * 1000,
                    "p99 ms": latencies.quantile(0.99) * 1000,
                },
            )
            plan.report.add(figure)
    finally:
        crowd.leave()
