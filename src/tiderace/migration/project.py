"""Reads the files of a whole project, and writes all edits to them."""

from __future__ import annotations

import ast
import difflib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tiderace.migration.code import consumer_names, examine_code
from tiderace.migration.imports import examine_imports
from tiderace.migration.packages import PACKAGES, examine_texts
from tiderace.migration.settings_file import examine_settings
from tiderace.migration.source import (
    ReportLine,
    SourceFile,
    Unreadable,
    Verdict,
    files,
)

__all__ = ["NotWritten", "Project"]

_ALIAS = "import tiderace\n\ntiderace.install_as_channels()\n"


class NotWritten(RuntimeError):
    """Files that cannot be written, with the reason; nothing was written."""


@dataclass(slots=True)
class Project:
    """The files of a project that concern Channels.

    Attributes:
        path: its folder, or one file.
        sources: its Python files.
        findings: the lines of the report by file.
        advice: what the user has to do besides, in sentences.
    """

    path: Path
    sources: list[SourceFile] = field(default_factory=list)
    findings: dict[Path, list[ReportLine]] = field(default_factory=dict)
    advice: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Project:
        """Read a project; none of its code is imported."""
        project = cls(path)
        for file in files(path, "*.py"):
            try:
                project.sources.append(SourceFile.read(file))
            except Unreadable as error:
                if error.mentions_channels:
                    unreadable = ReportLine(
                        1, Verdict.UNSUPPORTED, f"cannot be read: {error}"
                    )
                    project.findings[file] = [unreadable]
        consumers = consumer_names(project.sources)
        needing: set[str] = set()
        for source in project.sources:
            seen = examine_settings(source)
            examine_imports(source, seen)
            examine_code(source, consumers)
            needing |= _examine_packages(source)
        project._add_alias(needing)
        for source in project.sources:
            if source.findings:
                project.findings[source.path] = source.findings
        for file, found in examine_texts(path):
            project.findings.setdefault(file, []).extend(found)
        return project

    def lines(self) -> Iterator[tuple[Path, ReportLine]]:
        """Yield the lines of the report: by file, and in the order of the file."""
        for path in sorted(self.findings):
            for finding in sorted(self.findings[path], key=lambda each: each.line):
                yield path, finding

    def diff(self) -> str:
        """Return what ``write()`` changes, as a unified diff."""
        return "".join(
            line if line.endswith("\n") else f"{line}\n"
            for source in self._edited()
            for line in difflib.unified_diff(
                source.text.splitlines(keepends=True),
                source.rewritten().splitlines(keepends=True),
                str(source.path),
                str(source.path),
            )
        )

    def write(self) -> None:
        """Write all edits, or none.

        Raises:
            NotWritten: a file has changes that are not committed, or cannot be written.
        """
        edited = self._edited()
        problems = _uncommitted([source.path for source in edited])
        for source in edited:
            try:
                ast.parse(source.rewritten())
            except SyntaxError as error:
                problems.append(f"{source.path} would not be valid Python: {error}")
        if problems:
            raise NotWritten("\n".join(problems))
        for source in edited:
            source.write()

    def _edited(self) -> list[SourceFile]:
        return [source for source in self.sources if source.edits]

    def _add_alias(self, needing: set[str]) -> None:
        """Insert ``install_as_channels()`` if packages need it and it is not called."""
        if not needing or any(_calls_alias(source) for source in self.sources):
            return
        names = ", ".join(sorted(needing))
        package = self._project_package()
        if package is None:
            self.advice.append(
                f"Call tiderace.install_as_channels() before anything imports Channels, "
                f"in the __init__.py of the package of your settings, for {names}."
            )
            return
        at = _first_statement(package)
        package.replace(at, at, f"{_ALIAS}\n" if package.text[at:].strip() else _ALIAS)
        package.findings.append(
            ReportLine(1, Verdict.CHANGES, f"needs install_as_channels(), for {names}")
        )

    def _project_package(self) -> SourceFile | None:
        """Return the ``__init__.py`` of the package of the settings."""
        by_path = {source.path.resolve(): source for source in self.sources}
        for source in self.sources:
            for node in ast.walk(source.tree):
                if not isinstance(node, ast.Call):
                    continue
                values = [a.value for a in node.args if isinstance(a, ast.Constant)]
                if len(values) == 2 and values[0] == "DJANGO_SETTINGS_MODULE":
                    top = str(values[1]).partition(".")[0]
                    file = source.path.resolve().parent / top / "__init__.py"
                    if file in by_path:
                        return by_path[file]
        return None


def _examine_packages(source: SourceFile) -> set[str]:
    """Report imports of packages that import Channels; return what needs the alias."""
    needing = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules = [node.module or ""]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # An app in the settings, which are reported elsewhere.
            if (app := PACKAGES.get(node.value)) and app.needs_alias:
                needing.add(app.name)
            continue
        else:
            continue
        for module in modules:
            package = PACKAGES.get(module.partition(".")[0])
            if package is not None and _concerns_channels(module):
                source.report(node, package.verdict, package.sentence)
                if package.needs_alias:
                    needing.add(package.name)
    return needing


def _concerns_channels(module: str) -> bool:
    """Return whether an import is of the part of a package that imports Channels."""
    return not module.startswith("strawberry") or module.startswith(
        "strawberry.channels"
    )


def _calls_alias(source: SourceFile) -> bool:
    return any(
        isinstance(node, ast.Attribute | ast.Name)
        and getattr(node, "attr", getattr(node, "id", "")) == "install_as_channels"
        for node in ast.walk(source.tree)
    )


def _first_statement(source: SourceFile) -> int:
    """Return the offset behind the docstring and imports from ``__future__``."""
    at = 0
    for node in source.tree.body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(
            node.value, ast.Constant
        )
        is_future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
        if not (is_docstring or is_future):
            break
        _, end = source.span(node)
        at = source.line_of(end)[1]
    return at


def _uncommitted(paths: list[Path]) -> list[str]:
    """Return a sentence for each file in a git repository whose changes would mix."""
    git = shutil.which("git")
    problems = []
    for path in paths if git else ():
        command = [str(git), "status", "--porcelain", "--ignored", "--", path.name]
        done = subprocess.run(  # noqa: S603
            command, cwd=path.parent, capture_output=True, text=True, check=False
        )
        if done.returncode == 0 and done.stdout.strip():
            problems.append(
                f"{path} has changes that are not committed; commit them first, so that "
                "you can see and undo what is written"
            )
    return problems
