"""Packages that import Channels, and the files that name packages and processes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tiderace.migration.source import ReportLine, Verdict, files

__all__ = ["PACKAGES", "Package", "examine_texts"]


@dataclass(frozen=True, slots=True)
class Package:
    """A package of a third party.

    Attributes:
        name: on the package index.
        verdict: whether it runs.
        sentence: for the report.
    """

    name: str
    verdict: Verdict
    sentence: str

    @property
    def needs_alias(self) -> bool:
        """Whether it runs only with ``install_as_channels()``."""
        return self.verdict is Verdict.SAME


def _runs(name: str) -> Package:
    return Package(
        name,
        Verdict.SAME,
        f"{name} imports Channels: it runs with install_as_channels()",
    )


def _fails(name: str, why: str) -> Package:
    return Package(name, Verdict.UNSUPPORTED, f"{name} {why}")


# Packages by the name that is imported. The suite of each that runs was run with
# install_as_channels().
PACKAGES: dict[str, Package] = {
    "channels_graphql_ws": _runs("django-channels-graphql-ws"),
    "channelsmultiplexer": _runs("channelsmultiplexer"),
    "djangochannelsrestframework": _runs("djangochannelsrestframework"),
    "strawberry": _runs("strawberry-graphql"),
    "channels_jsonrpc": _fails(
        "django-channels-jsonrpc", "imports modules that only Channels 1 had"
    ),
}

_REQUIREMENT = re.compile(
    r"""^\s*(?:dependencies\s*=\s*\[\s*|install_requires\s*=\s*)?["']?
    (?P<name>channels|channels[-_]redis|daphne)
    \s*(?:\[[\w,\s-]*\])?\s*(?:[=<>~!@;,"'#].*)?$""",
    re.VERBOSE | re.IGNORECASE,
)
_RUNS_DAPHNE = re.compile(
    r"""(?:^|[\s"'/\[&|=:])daphne["']?,?\s+["']?(?:-|[\w.]+:\w)"""
)
_REQUIREMENT_FILES = (
    "*requirements*.txt",
    "*.in",
    "pyproject.toml",
    "setup.cfg",
    "setup.py",
    "Pipfile",
)
_PROCESS_FILES = (
    "Procfile*",
    "Dockerfile*",
    "Makefile",
    "*.yml",
    "*.yaml",
    "*.sh",
    "*.service",
    "*.conf",
)
_ADVICE = {
    "channels": 'becomes "tiderace[server]"',
    "channels-redis": 'becomes "tiderace[redis]"',
    "daphne": "is not needed unless it serves your production; uvicorn comes with "
    '"tiderace[server]"',
}


def examine_texts(path: Path) -> Iterator[tuple[Path, list[ReportLine]]]:
    """Yield the files that name packages of Channels or start daphne, with their lines."""
    for patterns, examine in (
        (_REQUIREMENT_FILES, _requirement),
        (_PROCESS_FILES, _process),
    ):
        for file in sorted({f for pattern in patterns for f in files(path, pattern)}):
            lines = file.read_text("utf-8", errors="replace").splitlines()
            findings = [
                ReportLine(number, Verdict.CHANGES, text)
                for number, line in enumerate(lines, 1)
                if (text := examine(line))
            ]
            if findings:
                yield file, findings


def _requirement(line: str) -> str:
    found = _REQUIREMENT.match(line)
    if found is None:
        return ""
    name = found["name"].lower().replace("_", "-")
    return f"the package {name} {_ADVICE[name]}"


def _process(line: str) -> str:
    if _RUNS_DAPHNE.search(line) is None:
        return ""
    return (
        "daphne still serves the application, without backpressure; better: uvicorn, "
        "with --ws tiderace.server:WebSocketProtocol"
    )
