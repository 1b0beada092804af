"""Does a delivery cost more when a site runs in two processes instead of one?

The same thousand sockets are connected to one process, or to two over Redis. What a
delivery costs is what growth with the number of cores depends on: where it is the same,
two cores deliver twice as much. The processor time of all processes counts, that of
Redis does not.
"""

from __future__ import annotations

from benchmarks.contenders import served
from benchmarks.load_generator import LoadGenerator
from benchmarks.plan import Plan
from benchmarks.report import Figure, Question

__all__ = ["QUESTION", "run"]

QUESTION = Question(
    "workers",
    "Deliveries per second of server processor time over Redis, 4 in flight",
    "per cpu-s",
    baseline="channels-core",
)
QUICK = ("tiderace-redis-history-server",)
CONTENDERS = ("channels-core", *QUICK, "centrifugo-redis")
SIZE = 1000
IN_FLIGHT = 4


async def run(plan: Plan) -> None:
    for contender in plan.alternate(QUICK if plan.quick else CONTENDERS):
        for processes in (1, 2):
            if not plan.has_time(contender, f"{processes} at once"):
                break
            with served(contender, processes=processes) as server:
                generator = LoadGenerator(contender.fan, server.ports)
                try:
                    await generator.connect(SIZE)
                    await generator.fan_out(1, 0, least=3)
                    before, delivered = server.cpu_seconds(), generator.deliveries
                    await generator.fan_out(IN_FLIGHT, plan.seconds)
                    used = server.cpu_seconds() - before
                    value = (generator.deliveries - delivered) / used
                finally:
                    generator.close()
            case = f"{SIZE:,} sockets, {processes} worker{'s' * (processes > 1)}"
            plan.report.add(Figure(QUESTION.name, contender.name, case, value))
