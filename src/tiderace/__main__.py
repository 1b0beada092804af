"""``python -m tiderace``: what the package can do without a project around it.

It knows the command line and the environment; what a command does is elsewhere.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import socket
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Args:
        arguments: the command and its options; by default those of this process.
    """
    options = _parser().parse_args(arguments)
    return _demo(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tiderace")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="run the demo site: a chat to open in two windows",
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
    return parser


def _demo(options: argparse.Namespace) -> int:
    for module in ("uvicorn", "websockets"):
        if importlib.util.find_spec(module) is None:
            return _failed(
                f"the demo needs {module}, which is not installed; "
                "run: python -m pip install 'tiderace[server]'"
            )
    os.environ["DJANGO_SETTINGS_MODULE"] = "tiderace.demo.settings"
    hosts = [os.environ.get("TIDERACE_DEMO_HOSTS", ""), *options.allowed_host]
    hosts += [options.host, socket.gethostname()]
    os.environ["TIDERACE_DEMO_HOSTS"] = ",".join(host for host in hosts if host)

    from tiderace.demo.serve import serve

    try:
        serve(options.host, options.port)
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
