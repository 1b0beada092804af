"""The pages of the documentation, and the code blocks in them.

A block whose first line is a path in a comment (``# chat/consumers.py``) is that file of the
reader's project. A block may be exempt from every check, only with a reason in a comment
above it: ``<!-- not run: needs a second machine -->``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from support.paths import ROOT

__all__ = ["PAGES", "Block", "blocks_in", "blocks_of"]

PAGES = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("benchmarks/*.md"),
    ]
    if "_build" not in path.parts
)

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<language>\S*)(?P<rest>.*)$"
)
_EXEMPT = re.compile(r"^<!-- not run: (?P<reason>\S.*) -->$")
_FILE = re.compile(r"^(?:#|//|<!--) (?P<file>[\w./-]+\.\w+)(?: -->)?$")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: its place, its language, its content and why it is exempt."""

    page: str
    line: int
    language: str
    code: str
    exempt: str = ""

    @property
    def file(self) -> str:
        """The path in its first line, or nothing."""
        match = _FILE.match(self.code.partition("\n")[0])
        return match["file"] if match else ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(text: str, page: str) -> list[Block]:
    """Return the fenced blocks of a page, in order.

    Raises:
        ValueError: for a block that is never closed.
    """
    found: list[Block] = []
    lines = text.splitlines()
    number, exempt = 0, ""
    while number < len(lines):
        line = lines[number]
        opening = _FENCE.match(line)
        if not opening:
            mark = _EXEMPT.match(line.strip())
            exempt = mark["reason"] if mark else exempt if not line.strip() else ""
            number += 1
            continue
        start = number + 1
        number = start
        closing = re.compile(rf"^ *{re.escape(opening['fence'])}+ *$")
        while number < len(lines) and not closing.match(lines[number]):
            number += 1
        if number == len(lines):
            raise ValueError(f"{page}:{start}: this block is never closed")
        indent = len(opening["indent"])
        code = "\n".join(line[indent:] for line in lines[start:number])
        found.append(Block(page, start + 1, opening["language"], code + "\n", exempt))
        number, exempt = number + 1, ""
    return found


def blocks_in(page: Path | str) -> list[Block]:
    """Return the blocks of a page: its path, or its name relative to the repository."""
    path = ROOT / page
    return blocks_of(path.read_text("utf-8"), str(path.relative_to(ROOT)))
