"""The chores' own decisions; what they start is tried by starting them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from workshop import machine
from workshop.environment import Environment, group_requirements
from workshop.machine import Interpreter
from workshop.report import Report, Skipped
from workshop.tasks import Tools, read_results


def test_a_dependency_group_brings_the_groups_it_includes():
    project = {
        "dependency-groups": {
            "test": ["pytest>=8"],
            "dev": [{"include-group": "test"}, "ruff"],
        }
    }

    assert group_requirements(project, "dev") == ["pytest>=8", "ruff"]


def test_a_failed_step_fails_the_run_and_lets_the_others_run():
    report = Report()

    with report.step("first"):
        raise RuntimeError("broken")
    with report.step("second"):
        pass

    assert [(row.step, row.outcome) for row in report.rows] == [
        ("first", "failed"),
        ("second", "passed"),
    ]
    assert report.exit_code == 1


@pytest.mark.parametrize(("strict", "code"), [(False, 0), (True, 1)])
def test_a_skipped_step_fails_the_run_only_in_ci(strict, code):
    report = Report(strict=strict)

    with report.step("browser"):
        raise Skipped("none here")

    assert report.exit_code == code


def test_the_table_gives_the_reason_of_a_skipped_step(capsys):
    report = Report(strict=True)
    with report.step("browser"):
        raise Skipped("none here")

    report.print()

    line = capsys.readouterr().out.splitlines()[-2]
    assert line.split() == ["browser", "skipped", "0.0", "s", "none", "here"]


def test_results_count_what_passed_failed_and_was_skipped(tmp_path):
    results = tmp_path / "results.xml"
    results.write_text(
        "<testsuites><testsuite>"
        "<testcase name='a'/><testcase name='b'/>"
        "<testcase name='c'><failure/></testcase>"
        "<testcase name='d'><skipped type='pytest.skip' message='no disc'/></testcase>"
        "</testsuite></testsuites>"
    )

    assert read_results(results) == ("2 passed, 1 failed, 1 skipped", ["d (no disc)"])


@pytest.mark.parametrize(
    ("value", "expected"), [("true", True), ("0", False), ("", False)]
)
def test_ci_is_told_by_its_variable(monkeypatch, value, expected):
    monkeypatch.setenv("CI", value)

    assert machine.in_ci() is expected


def test_the_running_interpreter_is_found():
    version = (sys.version_info.major, sys.version_info.minor)

    found = machine.find_interpreter((2, 4), version)

    assert found is not None
    assert found.version == version


def test_a_version_that_is_not_here_is_not_found():
    assert machine.find_interpreter((2, 4)) is None


@pytest.fixture
def programs(tmp_path):
    """Make a program of a name that answers with a line, in a folder of its own."""

    def make(**answers: str) -> Path:
        for name, answer in answers.items():
            program = tmp_path / name
            program.write_text(f"#!/bin/sh\necho '{answer}'\n")
            program.chmod(0o755)
        return tmp_path

    return make


@pytest.mark.parametrize(("version", "found"), [("v20.1.0", True), ("v18.20.0", False)])
def test_a_node_counts_only_if_it_is_new_enough(programs, version, found):
    folder = programs(node=version, npm="10.0.0")

    assert (machine.find_node(folder) == folder) is found


def test_a_node_counts_only_with_npm_beside_it(programs):
    assert machine.find_node(programs(node="v22.0.0")) is None


def test_a_browser_named_by_the_variable_must_exist(monkeypatch, tmp_path):
    monkeypatch.setenv("CHROME", str(tmp_path / "chrome"))

    with pytest.raises(RuntimeError, match="cannot be run"):
        machine.find_browser()


def test_an_environment_comes_before_node_on_the_path(tmp_path):
    environment = Environment(tmp_path, Interpreter(Path(sys.executable), (3, 11)))

    path = Tools(node=Path("/opt/node/bin")).variables(environment)["PATH"]

    assert path.split(":")[:2] == [str(tmp_path / "bin"), "/opt/node/bin"]


def test_a_browser_that_does_not_start_is_not_taken(monkeypatch, tmp_path):
    stub = tmp_path / "chromium"
    stub.write_text("#!/bin/sh\nexit 1\n")
    stub.chmod(0o755)
    monkeypatch.delenv("CHROME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine, "MAC_BROWSERS", ())

    assert machine.find_browser() is None


def test_without_venv_the_package_to_install_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("workshop.environment.run", lambda *args, **kwargs: 1)
    monkeypatch.setattr("workshop.environment.find_uv", lambda: None)
    monkeypatch.setattr("workshop.environment.apt_install", lambda *packages: False)
    monkeypatch.setattr("sys.platform", "linux")
    environment = Environment(tmp_path / "venv", Interpreter(Path("python3"), (3, 12)))

    with pytest.raises(RuntimeError, match=r"apt-get install python3\.12-venv"):
        environment.ensure(extras=("server",))
