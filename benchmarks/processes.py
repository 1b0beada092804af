"""The same fan-out over two processes and Redis: what does a delivery cost there?

Half of the sockets are connected to each process; who speaks is in one of them. The
processor time of both counts, that of Redis does not.
"""

from __future__ import annotations

from benchmarks import fanout
from benchmarks.contenders import served
from benchmarks.plan import Plan
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
)


async def run(plan: Plan) -> None:
    for contender in plan.turns(QUICK if plan.quick else CONTENDERS):
        with served(contender, processes=2) as server:
            await fanout.measure(plan, QUESTION, contender, server, 1000)
