"""A Python file with its syntax tree, the lines of its report, and edits of tokens."""

from __future__ import annotations

import ast
import enum
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Edit", "ReportLine", "SourceFile", "Unreadable", "Verdict", "files"]

# Folders that hold no code of the project.
_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages", "build", "dist"})
_LINE_END = re.compile(r"\r\n|\r|\n")


class Verdict(enum.StrEnum):
    """Whether a line of the project works as before, has to change, or cannot work."""

    SAME = "same"
    CHANGES = "changes"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True)
class Edit:
    """A replacement of the characters from ``start`` to ``end``."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class ReportLine:
    """One line of the report."""

    line: int
    verdict: Verdict
    text: str


class Unreadable(ValueError):
    """A file that is not Python of this version, or not text.

    Attributes:
        mentions_channels: whether Channels is named in it, or it cannot be opened.
    """

    mentions_channels = True


@dataclass(slots=True)
class SourceFile:
    """A file of the project.

    Attributes:
        path: of the file.
        text: its characters, with its own line ends.
        tree: its syntax tree.
        findings: lines of the report.
        edits: what ``rewritten()`` replaces.
    """

    path: Path
    text: str
    tree: ast.Module
    _encoding: str
    _starts: list[int]
    findings: list[ReportLine] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> SourceFile:
        """Read and parse a file.

        Raises:
            Unreadable: it cannot be decoded or parsed, with the reason.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise Unreadable(str(error)) from error
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
            text = data.decode(encoding)
            tree = ast.parse(text)
        except (ValueError, RecursionError, SyntaxError) as error:
            unreadable = Unreadable(str(error))
            unreadable.mentions_channels = b"channels" in data or b"daphne" in data
            raise unreadable from error
        starts = [0, *(found.end() for found in _LINE_END.finditer(text))]
        return cls(path, text, tree, encoding, starts)

    def report(self, node: ast.AST, verdict: Verdict, text: str) -> None:
        """Add a line to the report."""
        self.findings.append(ReportLine(getattr(node, "lineno", 1), verdict, text))

    def same(self, node: ast.AST, text: str) -> None:
        """Report what works as before."""
        self.report(node, Verdict.SAME, text)

    def changes(self, node: ast.AST, text: str) -> None:
        """Report what has to change, or works in another way."""
        self.report(node, Verdict.CHANGES, text)

    def unsupported(self, node: ast.AST, text: str) -> None:
        """Report what cannot work."""
        self.report(node, Verdict.UNSUPPORTED, text)

    def span(self, node: ast.expr | ast.stmt | ast.alias) -> tuple[int, int]:
        """Return the offsets of the first character of a node and that after it."""
        assert node.end_lineno is not None  # noqa: S101 (for the type checker)
        assert node.end_col_offset is not None  # noqa: S101
        start = self._offset(node.lineno, node.col_offset)
        return start, self._offset(node.end_lineno, node.end_col_offset)

    def _offset(self, line: int, column: int) -> int:
        """Return the offset in ``text`` of a place in the tree, whose columns are bytes."""
        start = self._starts[line - 1]
        end = self._starts[line] if line < len(self._starts) else len(self.text)
        before = self.text[start:end].encode()[:column].decode()
        return start + len(before)

    def replace(self, start: int, end: int, text: str) -> None:
        """Replace characters; a second replacement of the same ones is left out."""
        edit = Edit(start, end, text)
        if edit not in self.edits:
            self.edits.append(edit)

    def replace_string(self, node: ast.Constant, value: str) -> bool:
        """Replace the content of a string literal; return whether that is possible.

        It is not where the literal has escapes or several parts.
        """
        old = str(node.value)
        start, end = self.span(node)
        literal = self.text[start:end]
        pattern = r"[bru]*('''|\"\"\"|'|\")" + re.escape(old) + r"\1"
        if not re.fullmatch(pattern, literal, re.IGNORECASE):
            return False
        at = start + literal.index(old)
        self.replace(at, at + len(old), value)
        return True

    def line_of(self, offset: int) -> tuple[int, int]:
        """Return the offsets of the line around ``offset``, its end included."""
        before = [start for start in self._starts if start <= offset]
        after = [start for start in self._starts if start > offset]
        return before[-1], after[0] if after else len(self.text)

    def rewritten(self) -> str:
        """Return the text with all edits."""
        text, at = [], 0
        for edit in sorted(self.edits, key=lambda each: (each.start, each.end)):
            text += [self.text[at : edit.start], edit.text]
            at = edit.end
        return "".join([*text, self.text[at:]])

    def write(self) -> None:
        """Write the text with all edits, in the file's own encoding."""
        self.path.write_bytes(self.rewritten().encode(self._encoding))


def files(path: Path, pattern: str) -> Iterator[Path]:
    """Yield the files of a project with such a name, or ``path`` itself.

    No folders of environments, packages or builds are read.
    """
    if path.is_file():
        if path.match(pattern):
            yield path
        return
    for child in sorted(path.iterdir()):
        if child.is_dir():
            foreign = child.name.startswith(".") or child.name in _SKIPPED
            if not (foreign or child.is_symlink() or (child / "pyvenv.cfg").exists()):
                yield from files(child, pattern)
        elif child.match(pattern):
            yield child
