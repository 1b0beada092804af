"""A project of a few files, read and rewritten by the migration."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

from tiderace.migration.project import Project

__all__ = ["lay_out", "report_of", "rewritten"]


def lay_out(folder: Path, files: dict[str, str]) -> Path:
    """Write the files, their indentation removed; return the folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dedent(text).encode())
    return folder


def report_of(folder: Path, text: str, name: str = "code.py") -> list[str]:
    """Return the lines of the report of one file, as ``"3 same: …"``."""
    project = Project.read(lay_out(folder, {name: text}))
    return [
        f"{finding.line} {finding.verdict}: {finding.text}"
        for _, finding in project.lines()
    ]


def rewritten(folder: Path, text: str, name: str = "code.py") -> str:
    """Return what one file is after ``--write``, its indentation removed."""
    project = Project.read(lay_out(folder, {name: text}))
    project.write()
    return (folder / name).read_bytes().decode()
