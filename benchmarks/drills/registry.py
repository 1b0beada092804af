"""The drills by name: one module of ``scenarios`` each."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import time
import traceback
from dataclasses import dataclass
from types import ModuleType

from benchmarks import peers

from . import scenarios
from .harness import Harness
from .ledger import Row

__all__ = ["Drill", "Unavailable", "drills"]

Unavailable = peers.Unavailable


@dataclass(frozen=True)
class Drill:
    """A module with a ``drill`` function and the ``STACKS`` that can run it."""

    name: str
    module: ModuleType

    @property
    def title(self) -> str:
        """The first line of the module's docstring."""
        return (self.module.__doc__ or "").strip().splitlines()[0]

    @property
    def stacks(self) -> tuple[str, ...]:
        """The stacks that can run it."""
        stacks: tuple[str, ...] = self.module.STACKS
        return stacks

    def run(self, stack: str, seconds: float, transactions: int) -> Row:
        """Run it; an error of the drill itself is a failure of its row."""
        begun = time.monotonic()
        row = asyncio.run(self._row(stack, seconds, transactions))
        row.drill, row.stack = self.name, stack
        row.seconds = time.monotonic() - begun
        return row

    async def _row(self, stack: str, seconds: float, transactions: int) -> Row:
        try:
            peers.require("ours" if stack == "tiderace" else stack)
            async with Harness(self.name, stack, seconds, transactions) as harness:
                row: Row = await self.module.drill(harness)
        except Unavailable as error:
            return Row(skipped=str(error))
        except Exception as error:
            traceback.print_exc()
            return Row(failures=[f"the drill did not finish: {error!r}"])
        return row


def drills() -> dict[str, Drill]:
    """Return all drills by name."""
    found = {}
    for info in pkgutil.iter_modules(scenarios.__path__):
        module = importlib.import_module(f"{scenarios.__name__}.{info.name}")
        name = info.name.replace("_", "-")
        found[name] = Drill(name, module)
    return found
