"""The worked example of CONTRIBUTING.md, typed into a copy of the repository."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.pages.blocks import Block, blocks_of
from support.paths import ROOT

PAGE = "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def section() -> str:
    """The text of the section with the example."""
    text = (ROOT / PAGE).read_text("utf-8")
    return re.split(
        r"^## ", text.partition("## Your first change")[2], flags=re.MULTILINE
    )[0]


@pytest.fixture(scope="module")
def blocks(section) -> list[Block]:
    return blocks_of(section, PAGE)


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the files that the example uses, in a folder of its own."""
    for name in ("src", "tests", "scripts"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def named_file(section: str, before: str) -> str:
    """The last path in backquotes that stands before a block."""
    return re.findall(r"`((?:src|tests)/[\w/.]+)`", section.partition(before)[0])[-1]


def run_test(copy: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run the pytest that ``make test FAST=1 ARGS=…`` runs, on the code of the copy."""
    _, _, arguments = shlex.split(command)[-1].partition("ARGS=")
    pytest_command = (sys.executable, "-m", "pytest", "--fast", *arguments.split())
    return subprocess.run(
        [
            *pytest_command,
            "-p",
            "no:cacheprovider",
            "-o",
            "pythonpath=src tests scripts .",
        ],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_example_fails_before_its_change_and_passes_after_it(copy, section, blocks):
    [test] = [each.code for each in blocks if each.language == "python"]
    [change] = [each.code for each in blocks if each.language == "diff"]
    [command] = [each.code for each in blocks if "ARGS=" in each.code]
    test_file = copy / named_file(section, test)
    changed_file = copy / named_file(section, change)
    old, new = (
        "".join(line[1:] + "\n" for line in change.splitlines() if line[0] == sign)
        for sign in "-+"
    )

    with test_file.open("a", encoding="utf-8") as file:
        file.write(f"\n\n{test}")
    before = run_test(copy, command)
    source = changed_file.read_text("utf-8")
    changed_file.write_text(source.replace(old, new), "utf-8")
    after = run_test(copy, command)

    assert source.count(old) == 1
    assert "AssertionError" in before.stdout, before.stdout + before.stderr
    assert "1 failed" in before.stdout
    assert "1 passed" in after.stdout, after.stdout + after.stderr
    ruff = (sys.executable, "-m", "ruff")
    for arguments in (("format", "--check"), ("check",)):
        subprocess.run(
            [*ruff, *arguments, test_file, changed_file], cwd=copy, check=True
        )


def test_the_commands_of_the_example_are_targets_of_the_makefile(blocks):
    targets = re.findall(
        r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE
    )
    code = "".join(each.code for each in blocks if each.language == "bash")
    called = set(re.findall(r"^make (\w+)", code, re.MULTILINE))

    assert called == {"test", "check"} <= set(targets)
