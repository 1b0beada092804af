"""Run drills and print their table; the exit status is 1 if one of Tiderace's failed.

The soak, and the fuzzers with the drills of the outbox, run beside the others.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from . import table
from .ledger import Row
from .registry import Drill, drills

STACKS = ("tiderace", "channels")


def main() -> int:
    """Run the drills named on the command line, by default all."""
    known = drills()
    options = _arguments(known)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    names = options.names or [*known]
    groups = side_by_side(names)
    if len(groups) == 1:
        rows = _run_all(names, options)
    else:
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(len(groups), mp_context=context) as processes:
            done = processes.map(partial(_run_all, options=options), groups)
            rows = [row for some in done for row in some]
        rows.sort(key=lambda row: names.index(row.drill))
    print(f"\n{table.text(rows)}")
    if options.page:
        titles = {name: drill.title for name, drill in known.items()}
        table.write_page(options.page, rows, titles)
    return table.exit_status(rows)


def side_by_side(names: Iterable[str]) -> list[list[str]]:
    """Return drills in groups that run at the same time, so that the soak can be long."""
    groups: dict[str, list[str]] = {}
    for name in names:
        kind = name.partition("-")[0]
        group = {"soak": "soak", "fuzz": "more", "outbox": "more"}.get(kind, "faults")
        groups.setdefault(group, []).append(name)
    return [*groups.values()]


def _arguments(known: dict[str, Drill]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drills")
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(known))
    parser.add_argument(
        "--stack", action="append", choices=STACKS, help="by default tiderace alone"
    )
    parser.add_argument("--soak", type=float, default=600, help="seconds of the soak")
    parser.add_argument("--fuzz", type=float, default=60, help="seconds of each fuzzer")
    parser.add_argument(
        "--transactions", type=int, default=1000,
        help="of each drill of the outbox, in which a process is killed for every 100",
    )  # fmt: skip
    parser.add_argument("--page", type=Path, help="write the table into this page")
    options = parser.parse_args()
    if unknown := set(options.names) - set(known):
        parser.error(
            f"no drill is called {', '.join(unknown)}; there are {', '.join(known)}"
        )
    return options


def _run_all(names: list[str], options: argparse.Namespace) -> list[Row]:
    known = drills()
    return [
        _run(drill, stack, options)
        for drill in map(known.__getitem__, names)
        for stack in options.stack or STACKS[:1]
        if stack in drill.stacks
    ]


def _run(drill: Drill, stack: str, options: argparse.Namespace) -> Row:
    print(f"\n{drill.name}, {stack}: {drill.title}", flush=True)
    seconds = options.fuzz if drill.name.startswith("fuzz") else options.soak
    row = drill.run(stack, seconds, options.transactions)
    print(table.text([row]))
    for note in row.notes:
        print(f"    {note}", flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())
