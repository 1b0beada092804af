"""The code of a typed project passes mypy and pyright, and its mistakes do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent / "project"


@pytest.mark.parametrize(
    "checker",
    [["mypy", "."], ["pyright", "--pythonpath", sys.executable]],
    ids=["mypy", "pyright"],
)
def test_a_typed_project_passes_except_for_its_marked_mistakes(
    checker: list[str],
) -> None:
    # Both report marks without a mistake: pyright by an option of the project.
    done = subprocess.run(
        [sys.executable, "-m", *checker],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
