"""``tiderace demo --eject``: the demo as a project of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.servers.demo_process import Visitor
from support.servers.ports import free_port
from support.waiting import wait_until
from tiderace import __main__ as command_line
from tiderace import __version__

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, with its database."""
    folder = tmp_path_factory.mktemp("eject") / "project"
    assert command_line.main(["demo", "--eject", str(folder)]) == 0
    for command in ("migrate", "seed"):
        done = manage(folder, command)
        assert done.returncode == 0, done.stderr
    return folder


def manage(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as the README says."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def environment() -> dict[str, str]:
    return {
        k: v for k, v in os.environ.items() if not re.match("DJANGO|TIDERACE|DEMO", k)
    }


@pytest.fixture(scope="module")
def url(project: Path) -> Iterator[str]:
    """The address of its development server."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "manage.py", "runserver", "--noreload", address]
    with subprocess.Popen(
        command, cwd=project, env=environment(), stdout=subprocess.DEVNULL
    ) as server:
        try:
            wait_until(
                lambda: httpx.get(f"http://{address}/login/").status_code == 200,
                timeout=60,
                what="the first page",
                ignored=httpx.TransportError,
            )
            yield f"http://{address}"
        finally:
            server.kill()


def test_the_project_runs_with_manage_py_runserver(url):
    alice = Visitor(url).log_in("alice")
    with alice.room("general") as window:
        window.say("from my own project", "ejected-1")
        said = window.publication()
    pages = ("/board/", "/poll/", "/devices/", "/operations/", "/break-it/", "/notify/")
    answers = [alice.http.get(path).status_code for path in pages]
    script = alice.http.get("/static/vendor/htmx.min.js").status_code
    source = alice.http.get("/source/chat/").text
    alice.close()

    assert said["text"] == "from my own project"
    assert answers == [200] * len(pages)
    assert script == 200
    assert "from demo.chat import rooms" in source


def test_the_project_passes_all_system_checks(project):
    checked = manage(project, "check", "--fail-level", "WARNING")

    assert checked.returncode == 0, checked.stderr


def test_the_project_names_the_demo_of_the_package_nowhere(project):
    texts = {
        path: path.read_text()
        for path in project.rglob("*")
        if path.suffix in (".py", ".html", ".js", ".css", ".md", ".txt")
    }

    assert len(texts) > 100
    named = re.compile(r"tiderace\.demo|tiderace/demo|TIDERACE_DEMO")
    assert [path for path, text in texts.items() if named.search(text)] == []


def test_its_requirements_are_this_release_with_the_extra_of_the_demo(project):
    requirements = (project / "requirements.txt").read_text()

    assert requirements == f"tiderace[demo]=={__version__}\n"


def test_a_folder_with_files_is_not_touched(tmp_path, capsys):
    (tmp_path / "mine").write_text("kept")

    assert command_line.main(["demo", "--eject", str(tmp_path)]) == 1

    assert "is not an empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
