"""Which browser, Node and nginx the sessions of ``noxfile.py`` take."""

from __future__ import annotations

import pytest

import system_packages


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Make programs that print a line; PATH holds nothing else."""
    monkeypatch.delenv("CHROME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    # An absolute path is tried wherever PATH leads.
    monkeypatch.setattr(system_packages, "BROWSERS", ("chromium", "google-chrome"))

    def make(**lines: str):
        for name, line in lines.items():
            program = tmp_path / name.replace("_", "-")
            program.write_text(f"#!/bin/sh\n{line}\n")
            program.chmod(0o755)
        return tmp_path

    return make


@pytest.mark.parametrize(("version", "found"), [("v20.1.0", True), ("v18.20.0", False)])
def test_a_node_counts_only_if_it_is_new_enough(programs, version, found):
    programs(node=f"echo {version}", npm="echo 10.0.0")

    assert (system_packages.find_node() is not None) is found


def test_a_node_counts_only_with_npm_beside_it(programs):
    programs(node="echo v22.0.0")

    assert system_packages.find_node() is None


def test_a_node_in_a_folder_comes_before_that_on_the_path(programs, monkeypatch):
    folder = programs(node="echo v22.0.0", npm="echo 10.0.0")
    monkeypatch.setenv("PATH", "/nowhere")

    assert system_packages.find_node(folder) == str(folder / "node")


def test_a_browser_that_does_not_start_is_not_taken(programs):
    folder = programs(chromium="exit 1", google_chrome="echo Chrome 1")

    assert system_packages.find_browser() == str(folder / "google-chrome")


def test_without_a_browser_none_is_found(programs):
    programs(chromium="exit 1")

    assert system_packages.find_browser() is None


def test_a_browser_named_by_the_variable_comes_first(programs, monkeypatch):
    folder = programs(chromium="echo Chromium 1", mine="echo Chrome 1")
    monkeypatch.setenv("CHROME", str(folder / "mine"))

    assert system_packages.find_browser() == str(folder / "mine")


def test_a_browser_named_by_the_variable_must_exist(programs, monkeypatch):
    monkeypatch.setenv("CHROME", str(programs() / "mine"))

    with pytest.raises(RuntimeError, match="cannot be run"):
        system_packages.find_browser()


def test_debian_packages_are_installed_only_by_root(programs, monkeypatch):
    programs(apt_get="exit 0")
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    assert system_packages.apt_install("nginx") is False
