"""Tests of the pytest plugin; the tests of the guide run with it, too."""

from __future__ import annotations

import subprocess
import sys
import tomllib

from support.paths import ROOT
from tiderace import pytest_plugin
from tiderace.testing import TopicsTestbed


def test_the_fixture_is_an_open_testbed(topics):
    assert isinstance(topics, TopicsTestbed)


def test_pytest_finds_the_plugin_by_its_entry_point():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert project["entry-points"]["pytest11"] == {
        # The same name, so that it is not loaded twice by pytest_plugins.
        pytest_plugin.__name__: pytest_plugin.__name__
    }


def test_the_plugin_loads_neither_django_nor_the_test_tools():
    code = (
        "import sys, tiderace.pytest_plugin; "
        "print({'django', 'tiderace.testing'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    assert done.stdout.strip() == "set()"
