"""The start of ``scripts/dev``, and its messages when it fails."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.paths import ROOT

# The answers to what scripts/dev asks of an interpreter, which can make no environment.
PYTHON = """
case "$*" in
    *venv* | *ensurepip*) exit 1 ;;
    *sys.executable*) echo "$0" ;;
    *%d.%d*) echo 3.12 ;;
esac
"""


@pytest.fixture
def dev(tmp_path):
    """Run a copy of ``scripts/dev`` with programs of the test before those of PATH."""
    programs = tmp_path / "bin"
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/dev", tmp_path / "scripts/dev")

    def program(path: Path, lines: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{lines}\n")
        path.chmod(0o755)

    def run(*arguments: str, python: str = PYTHON, **variables: str):
        for name in ("uv", "pyenv"):
            program(programs / name, "exit 1")
        program(programs / "id", "echo 1000")
        program(programs / "python", python)
        variables["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
        variables["PYTHON"] = str(programs / "python")
        return subprocess.run(
            ["sh", str(tmp_path / "scripts/dev"), *arguments],
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )

    run.nox = lambda lines: (
        program(tmp_path / ".nox/bootstrap-3.12/bin/python", lines),
        (tmp_path / ".nox/bootstrap-3.12/complete").touch(),
    )
    return run


def test_the_help_names_every_target_of_the_makefile(dev):
    [targets] = re.findall(
        r"^\.PHONY: help (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE
    )

    chores = re.findall(r"scripts/dev (\w+)", dev("--help").stdout)

    assert set(targets.split()) == set(chores)


@pytest.mark.parametrize(
    ("arguments", "variables", "started"),
    [
        (["test"], {}, "-m nox --tags test --"),
        (["test", "-k", "hub"], {}, "-m nox --session tests -- -k hub"),
        (["test"], {"FAST": "1"}, "-m nox --session tests --"),
        (["test"], {"DJANGO": "6.0"}, "-m nox --session tests --"),
        (["matrix", "-k", "hub"], {}, "-m nox --session matrix -- -k hub"),
        (["check"], {}, "-m nox --tags check --"),
        (["package"], {}, "-m nox --tags package --"),
        (["demo", "--port", "1"], {}, "-m nox --session demo -- --port 1"),
    ],
)
def test_a_chore_starts_its_sessions(dev, arguments, variables, started):
    dev.nox('[ "$1" = -c ] || echo "$@"')

    assert dev(*arguments, **variables).stdout.strip() == started


def test_a_command_without_arguments_refuses_them(dev):
    assert "takes no arguments: --strict" in dev("check", "--strict").stderr


def test_without_venv_the_package_to_install_is_named(dev):
    done = dev("test")

    assert done.returncode == 1
    assert "apt-get install python3.12-venv" in done.stderr


def test_an_interpreter_that_is_too_old_is_named(dev):
    done = dev("test", python="exit 1")

    assert done.returncode == 1
    assert "is not a Python 3.11 or newer" in done.stderr
