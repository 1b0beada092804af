"""``python -m tiderace migrate``: a whole project, and what is not written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from support.migration import lay_out
from support.paths import TESTS
from tiderace.__main__ import main

FILES = {
    "manage.py": """\
        import os

        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
    """,
    "mysite/__init__.py": '"""The site."""\n\nfrom __future__ import annotations\n',
    "mysite/settings.py": 'INSTALLED_APPS = ["channels", "chat"]\n',
    "chat/consumers.py": "from channels.generic.http import AsyncHttpConsumer\n",
}


@pytest.fixture
def project(tmp_path):
    return lay_out(tmp_path / "project", FILES)


def test_without_write_nothing_is_written(project, capsys):
    before = {path: path.read_bytes() for path in project.rglob("*.py")}

    assert main(["migrate", str(project)]) == 0

    output = capsys.readouterr().out
    assert f"{project}/mysite/settings.py:1: changes: app" in output
    assert "1 same, 1 changes, 0 unsupported" in output
    assert {path: path.read_bytes() for path in project.rglob("*.py")} == before


def test_write_prints_the_diff_and_what_is_next(project, capsys):
    assert main(["migrate", str(project), "--write"]) == 0

    output = capsys.readouterr().out
    assert '-INSTALLED_APPS = ["channels", "chat"]' in output
    assert '+INSTALLED_APPS = ["tiderace", "chat"]' in output
    assert "pip uninstall channels channels_redis" in output
    assert (project / "chat/consumers.py").read_text().startswith("from tiderace.")


def test_a_second_write_has_nothing_to_do(project, capsys):
    main(["migrate", str(project), "--write"])
    capsys.readouterr()

    main(["migrate", str(project), "--write"])

    assert "nothing in" in capsys.readouterr().out


def test_the_exit_code_is_one_for_a_project_with_unsupported_code(project):
    lay_out(project, {"chat/old.py": "from channels.http import AsgiHandler"})

    assert main(["migrate", str(project)]) == 1


def test_a_path_that_does_not_exist_is_named(tmp_path, capsys):
    assert main(["migrate", str(tmp_path / "nowhere")]) == 1
    assert "nowhere does not exist" in capsys.readouterr().err


# The alias, for packages that import Channels


@pytest.fixture
def with_package(project):
    text = "from djangochannelsrestframework.decorators import action\n"
    return lay_out(project, {"chat/api.py": text})


def test_a_package_that_imports_channels_gets_the_alias(with_package, capsys):
    main(["migrate", str(with_package), "--write"])

    assert (with_package / "mysite/__init__.py").read_text() == (
        '"""The site."""\n\nfrom __future__ import annotations\n'
        "import tiderace\n\ntiderace.install_as_channels()\n"
    )
    assert "for djangochannelsrestframework" in capsys.readouterr().out


def test_the_alias_is_inserted_once(with_package):
    main(["migrate", str(with_package), "--write"])
    once = (with_package / "mysite/__init__.py").read_text()

    main(["migrate", str(with_package), "--write"])

    assert (with_package / "mysite/__init__.py").read_text() == once


def test_without_a_project_package_the_call_is_advised(with_package, capsys):
    (with_package / "manage.py").unlink()

    main(["migrate", str(with_package)])

    assert "Call tiderace.install_as_channels() before" in capsys.readouterr().out


# git


def git(folder, *arguments):
    author = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    subprocess.run(
        ["git", *author, *arguments], cwd=folder, check=True, capture_output=True
    )


@pytest.fixture
def repository(project):
    if shutil.which("git") is None:
        pytest.skip("no git")
    git(project, "init")
    git(project, "add", ".")
    git(project, "commit", "--message", "first")
    return project


def test_a_committed_project_is_written(repository):
    assert main(["migrate", str(repository), "--write"]) == 0

    assert "tiderace" in (repository / "mysite/settings.py").read_text()


def test_a_file_with_changes_is_refused_and_nothing_is_written(repository, capsys):
    settings = repository / "mysite/settings.py"
    settings.write_text(f"{settings.read_text()}DEBUG = True\n")

    assert main(["migrate", str(repository), "--write"]) == 1

    error = capsys.readouterr().err
    assert f"nothing was written:\n{settings} has changes that are not commit" in error
    assert "channels" in (repository / "chat/consumers.py").read_text()


def test_changes_in_a_file_that_stays_as_it_is_do_not_matter(repository):
    lay_out(repository, {"chat/models.py": "x = 1"})

    assert main(["migrate", str(repository), "--write"]) == 0


# Sites of this suite, written for Channels


@pytest.mark.parametrize("site", ["guide_site", "servers_site"])
def test_a_rewritten_site_runs_without_the_alias(site, tmp_path):
    """Its checks pass, and its application can be imported."""
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites/__init__.py").touch()
    folder = tmp_path / "sites" / site
    shutil.copytree(TESTS / "sites" / site, folder)
    package = folder / "__init__.py"
    package.write_text(
        package.read_text().replace("tiderace.install_as_channels()", "")
    )

    assert main(["migrate", str(folder), "--write"]) == 0

    env = {
        "PYTHONPATH": str(tmp_path),
        "DJANGO_SETTINGS_MODULE": f"sites.{site}.settings",
    }
    for command in (
        ["-m", "django", "check", "--fail-level", "ERROR"],
        ["-c", f"import sys, sites.{site}.asgi; assert 'channels' not in sys.modules"],
    ):
        done = subprocess.run(
            [sys.executable, *command],
            env={**os.environ, **env},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
