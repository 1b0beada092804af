"""The rules of a whole run; each test runs a suite of one module with them."""

from __future__ import annotations

import pytest

from support.paths import TESTS

pytest_plugins = ["pytester"]

RULES = TESTS / "support/run_rules.py"


@pytest.fixture
def suite(pytester, monkeypatch):
    """Run a test module under the rules, in a process of its own."""
    pytester.makeconftest(RULES.read_text())

    def run(function: str, *arguments: str, ci: str):
        monkeypatch.setenv("CI", ci)
        pytester.makepyfile(function)
        options = ("-p", "no:django", "-p", "no:randomly")
        return pytester.runpytest_subprocess(*options, *arguments)

    return run


SKIPPED = """
    import pytest

    def test_it():
        pytest.skip("no nginx")
"""


def test_a_skipped_test_fails_in_ci(suite):
    result = suite(SKIPPED, ci="true")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines("*CI does not allow*no nginx*")


def test_a_skipped_test_is_skipped_elsewhere(suite):
    suite(SKIPPED, ci="false").assert_outcomes(skipped=1)


def test_an_expected_failure_is_allowed_in_ci(suite):
    expected = "import pytest\n@pytest.mark.xfail\ndef test_it(): assert 0"

    suite(expected, ci="true").assert_outcomes(xfailed=1)


@pytest.mark.parametrize(
    "start",
    [
        "import subprocess; subprocess.run(['true'])",
        "import os; os.fork()",
        "import multiprocessing; multiprocessing.Process().start()",
    ],
)
def test_the_fast_run_skips_a_test_that_starts_a_process(suite, start):
    function = f"def test_it(): {start}"

    suite(function, "--fast", ci="").assert_outcomes(skipped=1)


def test_the_fast_run_leaves_out_browsers_and_servers(suite):
    function = """
        import pytest

        @pytest.mark.browser
        def test_page(): pass

        @pytest.mark.servers
        def test_server(): pass

        def test_it(): pass
    """

    suite(function, "--fast", ci="").assert_outcomes(passed=1, deselected=2)
