"""The workflows, issue forms and hooks agree with what a contributor runs."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
import yaml

from support.paths import ROOT

FOLDER = ROOT / ".github/workflows"
WORKFLOWS = [path.name for path in sorted(FOLDER.glob("*.yml"))]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def load(path: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / path).read_text("utf-8"))
    return content


def workflow(name: str) -> dict[str, Any]:
    return load(f".github/workflows/{name}")


def versions_of(classifier: str) -> set[str]:
    """The versions that the package's classifiers name below this one."""
    return {
        each.rpartition(" :: ")[2]
        for each in PYPROJECT["project"]["classifiers"]
        if re.fullmatch(rf"{re.escape(classifier)} :: \d+\.\d+", each)
    }


def steps_of(name: str) -> list[dict[str, Any]]:
    return [step for job in workflow(name)["jobs"].values() for step in job["steps"]]


def test_the_matrix_has_every_python_and_django_of_the_classifiers():
    matrix = workflow("ci.yml")["jobs"]["versions"]["strategy"]["matrix"]

    assert set(matrix["python"]) == versions_of("Programming Language :: Python")
    assert set(matrix["django"]) == versions_of("Framework :: Django")


def test_the_matrix_leaves_out_the_pairs_that_make_matrix_leaves_out():
    noxfile = (ROOT / "noxfile.py").read_text("utf-8")
    oldest = dict(
        re.findall(r'^ +"([\d.]+)": \("[^"]+", "([\d.]+)"\),$', noxfile, re.MULTILINE)
    )
    matrix = workflow("ci.yml")["jobs"]["versions"]["strategy"]["matrix"]

    impossible = [
        {"python": python, "django": django}
        for python in matrix["python"]
        for django in matrix["django"]
        if python < oldest[django]
    ]

    assert matrix["exclude"] == impossible


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_make_targets_of_a_workflow_exist(name):
    targets = set(
        re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    )
    text = (FOLDER / name).read_text("utf-8")
    called = set(re.findall(r"- run: make (\w+)", text))
    if "make ${{ matrix.command }}" in text:
        called |= set(
            workflow(name)["jobs"]["commands"]["strategy"]["matrix"]["command"]
        )

    assert called
    assert called <= targets


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned_by_commit_with_their_version_beside(name):
    text = (FOLDER / name).read_text("utf-8")
    lines = re.findall(r"uses: (.+)", text)

    assert len(lines) == len([each for each in steps_of(name) if "uses" in each])
    for line in lines:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_only_read_and_has_deadlines(name):
    content = workflow(name)

    assert content["permissions"] == {"contents": "read"}
    assert "concurrency" in content
    assert all("timeout-minutes" in job for job in content["jobs"].values())


def test_only_the_job_that_publishes_may_ask_for_an_identity():
    jobs = workflow("release.yml")["jobs"]

    assert {name: job.get("permissions") for name, job in jobs.items()} == {
        "build": None,
        "publish": {"id-token": "write"},
    }
    assert jobs["publish"]["needs"] == "build"


@pytest.mark.parametrize("name", ["bug.yml", "idea.yml"])
def test_an_issue_form_asks_for_the_output_of_tiderace_doctor(name):
    form = load(f".github/ISSUE_TEMPLATE/{name}")

    assert {"name", "description", "body"} <= form.keys()
    [doctor] = [each for each in form["body"] if each.get("id") == "doctor"]
    assert "python manage.py tiderace_doctor" in doctor["attributes"]["description"]


def test_the_hooks_run_the_ruff_of_make_check():
    [ruff] = [
        each
        for each in PYPROJECT["dependency-groups"]["check"]
        if isinstance(each, str) and each.startswith("ruff")
    ]
    hooks = load(".pre-commit-config.yaml")["repos"][0]["hooks"]

    assert re.fullmatch(r"ruff==[\d.]+", ruff)
    assert {each["id"] for each in hooks} == {"ruff-format", "ruff-check"}
    for each in hooks:
        assert each["additional_dependencies"] == [ruff]
