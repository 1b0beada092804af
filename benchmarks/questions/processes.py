"""How much processor time does a delivery take over two processes and Redis?

Half of the sockets are connected to each process; the sender to one of them. The
processor time of both processes counts, that of Redis does not.
"""

from __future__ import annotations

from benchmarks.contenders import served
from benchmarks.plan import Plan
from benchmarks.questions import fanout
from benchmarks.report import Question

__all__ = ["QUESTION", "run"]

QUESTION = Question(
    "processes",
    "Deliveries per second of server processor time, two processes over Redis",
    "per cpu-s",
    baseline="channels-core",
)
QUICK = ("channels-core", "tiderace-redis-server", "channels-pubsub")
CONTENDERS = (
    "channels-core",
    "channels-pubsub",
    "tiderace-redis",
    "tiderace-redis-server",
    "tiderace-redis-once-server",
    "tiderace-redis-history-server",
    "centrifugo-redis",
)


async def run(plan: Plan) -> None:
    for contender in plan.alternate(QUICK if plan.quick else CONTENDERS):
        with served(contender, processes=2) as server:
            await fanout.measure(plan, QUESTION, contender, server, 1000)
