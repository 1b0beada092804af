"""The tests that the threat model names exist."""

from __future__ import annotations

import ast
import re

from support.paths import ROOT, TESTS

PAGE = TESTS.parent / "docs/project/threat-model.md"


def defined() -> set[str]:
    """The names of all tests of the suite."""
    return {
        node.name
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def rows() -> list[str]:
    """The rows of the page that name a defence."""
    return [
        line
        for line in PAGE.read_text("utf-8").splitlines()
        if line.startswith("| ") and not line.startswith(("| attack", "| ---"))
    ]


def test_every_test_that_the_threat_model_names_exists():
    named = {name for row in rows() for name in re.findall(r"`(test_\w+)(\.py)?`", row)}
    tests = {name for name, file in named if not file}
    files = {f"{name}.py" for name, file in named if file}

    assert tests - defined() == set()
    assert files - {path.name for path in TESTS.rglob("test_*.py")} == set()


JAVASCRIPT_TEST = re.compile(r"`(clients/js/test/[\w.]+)`: `([^`]+)`")


def test_every_javascript_test_that_the_threat_model_names_exists():
    named = [match for row in rows() for match in JAVASCRIPT_TEST.findall(row)]

    missing = [
        title for file, title in named if title not in (ROOT / file).read_text("utf-8")
    ]

    assert named
    assert not missing


def test_every_defence_in_the_threat_model_names_a_test():
    python_test = re.compile(r"`test_\w+(\.py)?`")

    unproved = [
        row
        for row in rows()
        if not (python_test.search(row) or JAVASCRIPT_TEST.search(row))
    ]

    assert not unproved
    assert len(rows()) > 20
