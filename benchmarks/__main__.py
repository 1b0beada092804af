"""Run benchmarks, print their tables and write their figures as JSON."""

from __future__ import annotations

import argparse
import math
import os
import resource
import shlex
import sys
import time
from pathlib import Path

import uvloop

from benchmarks.contenders import CONTENDERS, is_idle, pin
from benchmarks.frames import RunFailed
from benchmarks.peers import TOOLS
from benchmarks.plan import Plan
from benchmarks.questions import (
    accepts,
    echo,
    engines,
    fanout,
    growing,
    memory,
    newest,
    processes,
    publish,
    rooms,
    startup,
    storm,
    streams,
    topic_clients,
    workers,
)
from benchmarks.report import Report

QUESTIONS = {
    "fanout": (fanout.run, (fanout.QUESTION,)),
    "streams": (streams.run, (streams.QUESTION,)),
    "processes": (processes.run, (processes.QUESTION,)),
    "workers": (workers.run, (workers.QUESTION,)),
    "echo": (echo.run, echo.QUESTIONS),
    "accepts": (accepts.run, (accepts.QUESTION,)),
    "memory": (memory.run, (memory.QUESTION,)),
    "storm": (storm.run, (storm.QUESTION,)),
    "publish": (publish.run, (publish.QUESTION,)),
    "rooms": (rooms.run, rooms.QUESTIONS),
    "startup": (startup.run, startup.QUESTIONS),
    "engines": (engines.run, engines.QUESTIONS),
    "topic_clients": (topic_clients.run, topic_clients.QUESTIONS),
    "newest": (newest.run, (newest.QUESTION,)),
    "growing": (growing.run, growing.QUESTIONS),
}

# In a quick run a question starts no further measurement when this many seconds have
# passed since the start of the run, so a slow machine skips some of each question. The
# last measurement of a question may take ten seconds.
QUICK_SECONDS = {
    "fanout": 52,
    "streams": 62,
    "processes": 72,
    "workers": 78,
    "echo": 90,
    "accepts": 96,
    "memory": 101,
    "storm": 106,
    "publish": 114,
    "rooms": 123,
    "startup": 127,
    "engines": 140,
    "topic_clients": 150,
    "newest": 158,
    "growing": 165,
}


def main() -> int:
    options = arguments()
    raise_file_limit()
    if is_idle():
        pin(os.getpid(), -1)
    report = Report()
    plan = Plan(
        report,
        quick=options.quick,
        rounds=options.rounds or (1 if options.quick else 3),
        seconds=options.seconds or (1 if options.quick else 3),
        only=frozenset(options.contenders),
        sizes=options.sizes,
    )
    failed = []
    begun = time.monotonic()
    for name in options.questions or QUESTIONS:
        run, questions = QUESTIONS[name]
        for question in questions:
            report.questions[question.name] = question
        print(f"\n{name}: {questions[0].text}", flush=True)
        started = time.monotonic()
        plan.question = name
        plan.until = begun + QUICK_SECONDS[name] if plan.quick else math.inf
        try:
            uvloop.run(run(plan))
        except KeyboardInterrupt:
            report.skipped[f"{name} and after"] = "interrupted"
            break
        except RunFailed as error:
            failed.append(f"{name}: {error}")
            print(f"  no measurement: {error}", file=sys.stderr)
        print(f"  ({time.monotonic() - started:.0f} s)", flush=True)
    print("\nmedians, and how many times better than the line with 1.0x\n")
    print(report.tables())
    for name, why in report.skipped.items():
        print(f"\nleft out: {name} ({why})")
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    report.write(options.output, command)
    if options.page:
        report.update(options.page, command)
    print(f"\nwritten to {options.output}")
    for failure in failed:
        print(f"no measurement: {failure}", file=sys.stderr)
    return 1 if failed else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "questions", nargs="*", metavar="question", help=", ".join(QUESTIONS)
    )
    parser.add_argument("--quick", action="store_true", help="fewer, shorter runs")
    parser.add_argument("--rounds", type=int, help="how often each is measured")
    parser.add_argument("--seconds", type=float, help="length of one measurement")
    parser.add_argument("--sizes", type=int, nargs="+", default=[], help="for fanout")
    parser.add_argument(
        "--contenders", nargs="+", default=[], choices=list(CONTENDERS), metavar="name",
        help=", ".join(CONTENDERS),
    )  # fmt: skip
    parser.add_argument("--page", type=Path, help="a page to write the figures into")
    parser.add_argument("--output", type=Path, default=TOOLS / "bench.json")
    options = parser.parse_args()
    for name in options.questions:
        if name not in QUESTIONS:
            parser.error(
                f"no question is called {name}; there are {', '.join(QUESTIONS)}"
            )
    return options


def raise_file_limit() -> None:
    """Raise the limit of open files as far as allowed, here and in the servers."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    sys.exit(main())
