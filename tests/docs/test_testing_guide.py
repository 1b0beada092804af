"""The tests of the testing guide, run by ``manage.py test`` and by pytest.

Each in the project that ``startproject`` makes, with the guide's files.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from support.pages.blocks import blocks_in

BLOCKS = [block for block in blocks_in("docs/guides/testing.md") if block.file]
CODE = "".join(block.code for block in BLOCKS)
# Methods of test cases, and functions.
METHODS = len(re.findall(r"^    (?:async )?def test_", CODE, re.MULTILINE))
FUNCTIONS = len(re.findall(r"^(?:async )?def test_", CODE, re.MULTILINE))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The guide's project."""
    folder = tmp_path_factory.mktemp("guide")
    run(folder, "-m", "django", "startproject", "mysite", ".")
    (folder / "chat").mkdir()
    (folder / "chat/__init__.py").touch()
    for block in BLOCKS:
        path = folder / block.file
        with path.open("a" if path.name == "settings.py" else "w") as file:
            file.write("\n" + block.code)
    return folder


def run(folder, *arguments):
    # Neither this suite's settings nor its plugins' options.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "DJANGO_SETTINGS_MODULE" and not name.startswith("PYTEST_")
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_guides_tests_pass_under_manage_py_test(project):
    done = run(project, "manage.py", "test")

    assert f"Ran {METHODS} tests" in done.stderr
    assert "skipped" not in done.stderr


def test_the_guides_tests_pass_under_pytest(project):
    # Named, in case the package was installed before it had an entry point.
    done = run(
        project, "-m", "pytest", "-p", "tiderace.pytest_plugin", "-p", "no:asyncio"
    )

    assert f" {METHODS + FUNCTIONS} passed in " in done.stdout
