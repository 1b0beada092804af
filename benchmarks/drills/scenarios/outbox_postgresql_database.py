"""Writers, relays and PostgreSQL are killed while transactions publish over it."""

from __future__ import annotations

from benchmarks.drills.harness import Harness
from benchmarks.drills.ledger import Row
from benchmarks.drills.outbox import trial

STACKS = ("tiderace",)


async def drill(harness: Harness) -> Row:
    return await trial.run(harness, database="postgresql", layer="database")
