"""How many events does a server deliver to HTTP streams per second of processor time?

The fan-out of a topic with a history to clients that read a response without an end:
server-sent events of one topic, and the transport ``http_stream`` of topic clients.
"""

from __future__ import annotations

from benchmarks.contenders import served
from benchmarks.plan import Plan
from benchmarks.questions import fanout
from benchmarks.report import Question

__all__ = ["QUESTION", "run"]

QUESTION = Question(
    "streams",
    "Deliveries per second of server processor time, fan-out to HTTP streams",
    "per cpu-s",
    baseline="tiderace-events",
)
QUICK = ("tiderace-events", "tiderace-events-server", "centrifugo-events")
CONTENDERS = (
    *QUICK,
    "tiderace-http-stream",
    "tiderace-http-stream-server",
    "centrifugo-http-stream",
)


async def run(plan: Plan) -> None:
    for size in plan.sizes or ([1000] if plan.quick else [500, 2000]):
        for contender in plan.alternate(QUICK if plan.quick else CONTENDERS):
            with served(contender) as server:
                await fanout.measure(plan, QUESTION, contender, server, size)
