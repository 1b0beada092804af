"""``tiderace`` and ``python -m tiderace``: the commands that need no project."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from tiderace.demo.eject import Occupied, eject
from tiderace.demo.valkey import ServerMissing, private_server
from tiderace.migration.command import add_arguments, migrate

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Args:
        arguments: the command and its options; by default those of this process.
    """
    options = _parser().parse_args(arguments)
    if options.command == "migrate":
        return migrate(options.path, write=options.write)
    return _demo(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tiderace")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="run the demo site, to open in two windows",
        description="Run the demo site. Its data is kept in demo.sqlite3 in the "
        "current directory, or in the file that TIDERACE_DEMO_DATA names.",
    )
    demo.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    demo.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 is every one (default: %(default)s)",
    )
    demo.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further host name under which browsers reach it; may be repeated",
    )
    demo.add_argument(
        "--layer",
        choices=("memory", "database", "redis"),
        default="memory",
        help="what carries messages: this process's memory, a SQLite file beside the "
        "demo's, or the Redis or Valkey server that REDIS_URL names, by default a "
        "private one (default: %(default)s)",
    )
    demo.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="NUMBER",
        help="processes that serve it, with --layer database or redis "
        "(default: %(default)s)",
    )
    demo.add_argument(
        "--eject",
        type=Path,
        metavar="DIR",
        help="write the demo into this new folder as an ordinary Django project, and "
        "start nothing",
    )
    add_arguments(
        commands.add_parser(
            "migrate",
            help="list what changes for a project written for Channels",
            description="Read a project written for Channels, without importing it, and "
            "list what is the same, what changes, and what is unsupported.",
        )
    )
    return parser


def _eject(target: Path) -> int:
    try:
        eject(target)
    except (Occupied, OSError) as error:
        return _failed(str(error))
    print(f"The project is in {target}; its README.md says how to run it.")  # noqa: T201
    return 0


def _demo(options: argparse.Namespace) -> int:
    if options.eject:
        return _eject(options.eject)
    over_redis = options.layer == "redis"
    needed = dict.fromkeys(("uvicorn", "websockets", "nh3", "segno"), "demo")
    if over_redis:
        needed |= {"redis": "redis", "hiredis": "redis"}
    for module, extra in needed.items():
        if importlib.util.find_spec(module) is None:
            return _failed(
                f"the demo needs {module}, which is not installed; "
                f"run: python -m pip install 'tiderace[{extra}]'"
            )
    if options.workers > 1 and options.layer == "memory":
        return _failed(
            f"{options.workers} processes do not see each other's memory; "
            "add --layer database"
        )
    if options.workers < 1:
        return _failed(f"--workers is {options.workers}; use 1 or more")
    os.environ["DJANGO_SETTINGS_MODULE"] = "tiderace.demo.settings"
    hosts = [os.environ.get("TIDERACE_DEMO_HOSTS", ""), *options.allowed_host]
    hosts += [options.host, socket.gethostname()]
    os.environ["TIDERACE_DEMO_HOSTS"] = ",".join(host for host in hosts if host)
    os.environ["TIDERACE_DEMO_LAYER"] = options.layer

    try:
        with contextlib.ExitStack() as stack:
            if over_redis:
                url = os.environ.get("REDIS_URL")
                os.environ["TIDERACE_DEMO_REDIS"] = url or stack.enter_context(
                    private_server()
                )
            return _serve(options)
    except ServerMissing as error:
        return _failed(str(error))


def _serve(options: argparse.Namespace) -> int:
    from tiderace.demo.serve import serve

    try:
        serve(options.host, options.port, workers=options.workers)
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        return _failed(
            f"cannot listen on {options.host} port {options.port} ({error.strerror}); "
            "choose another with --port or --host"
        )
    return 0


def _failed(sentence: str) -> int:
    print(sentence, file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main())
