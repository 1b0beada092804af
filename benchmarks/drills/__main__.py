"""Run drills by name and report the failed ones."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable

from django.conf import settings

settings.configure()

from . import deploy, interruptions, memory, traffic  # noqa: E402

DRILLS: dict[str, Callable[[bool], Awaitable[bool]]] = {
    drill.__name__: drill
    for drill in (
        interruptions.cuts,
        interruptions.cluster,
        interruptions.takeover,
        interruptions.resharding,
        interruptions.restart,
        interruptions.emptied,
        interruptions.failover,
        interruptions.pause,
        interruptions.process,
        traffic.churn,
        traffic.sharded,
        traffic.clocks,
        memory.memory,
        deploy.deploy,
    )
}


def main() -> int:
    """Run the drills named on the command line, by default all; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drills")
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(DRILLS))
    parser.add_argument("--quick", action="store_true", help="smaller numbers")
    options = parser.parse_args()
    unknown = set(options.names) - set(DRILLS)
    if unknown:
        parser.error(
            f"no drill is called {', '.join(unknown)}; there are {', '.join(DRILLS)}"
        )
    logging.getLogger("tiderace").setLevel(logging.CRITICAL)
    failed = [
        name for name in options.names or DRILLS if not _run(name, quick=options.quick)
    ]
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall passed")
    return 1 if failed else 0


def _run(name: str, *, quick: bool) -> bool:
    drill = DRILLS[name]
    print(f"\n{name}: {drill.__doc__}", flush=True)
    begun = time.monotonic()
    passed = asyncio.run(drill(quick))
    verdict = "passed" if passed else "FAILED"
    print(f"    {verdict} in {time.monotonic() - begun:.0f} s", flush=True)
    return passed


if __name__ == "__main__":
    sys.exit(main())
