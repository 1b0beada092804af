"""The command ``tiderace migrate``: prints the report, and with ``--write`` the diff."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from tiderace.migration.project import NotWritten, Project
from tiderace.migration.source import Verdict

__all__ = ["add_arguments", "migrate"]

_NEXT = (
    "Next: python -m pip uninstall channels channels_redis, install "
    '"tiderace[server,redis]", and run: python manage.py check'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "path", type=Path, help="the folder of the project, or one file"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="rewrite imports and settings, and print the diff; without it nothing is "
        "written",
    )


def migrate(path: Path, *, write: bool) -> int:
    """Print the report, and write if asked to; return the exit status.

    Args:
        path: the project.
        write: whether files are written.

    Returns:
        0, or 1 when something is unsupported or nothing could be written.
    """
    if not path.exists():
        return _failed(f"{path} does not exist; name the folder of a project")
    project = Project.read(path)
    counts: Counter[Verdict] = Counter()
    for file, finding in project.lines():
        counts[finding.verdict] += 1
        _say(f"{file}:{finding.line}: {finding.verdict}: {finding.text}")
    if not counts:
        _say(f"nothing in {path} uses Channels")
        return 0
    _say(", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict))
    for sentence in project.advice:
        _say(sentence)
    if write:
        try:
            project.write()
        except NotWritten as error:
            return _failed(f"nothing was written:\n{error}")
        diff = project.diff()
        _say(f"{diff}\n{_NEXT}" if diff else "There is nothing to rewrite.")
    return 1 if counts[Verdict.UNSUPPORTED] else 0


def _say(line: str) -> None:
    print(line)  # noqa: T201


def _failed(sentence: str) -> int:
    print(sentence, file=sys.stderr)  # noqa: T201
    return 1
