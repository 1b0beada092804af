"""A virtual environment with this project in it, made once and kept current.

It knows pyproject.toml and two installers (uv, else pip), nothing about tests.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .machine import Interpreter, apt_install, describe, find_uv, run

__all__ = ["ROOT", "Environment", "group_requirements"]

ROOT = Path(__file__).resolve().parents[2]


def group_requirements(project: dict[str, Any], group: str) -> list[str]:
    """The requirements of one of pyproject.toml's dependency groups, includes resolved.

    We resolve them ourselves because the pip that comes with Python 3.11 cannot.

    Raises:
        KeyError: there is no such group.
    """
    found: list[str] = []
    for entry in project["dependency-groups"][group]:
        if isinstance(entry, dict):
            found += group_requirements(project, entry["include-group"])
        else:
            found.append(entry)
    return found


@dataclass
class Environment:
    """One virtual environment.

    Args:
        folder: where it lives; removed and made anew when its Python no longer runs.
        interpreter: the Python it is made from.
        django: a version limit for Django, such as "Django>=6.0,<7", or "" for none.
    """

    folder: Path
    interpreter: Interpreter
    django: str = ""

    @property
    def bin(self) -> Path:
        """The folder of its programs."""
        return self.folder / "bin"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.bin / "python"

    @property
    def variables(self) -> dict[str, str]:
        """What to add to the environment so that its programs are found first."""
        return {
            "VIRTUAL_ENV": str(self.folder),
            "PATH": f"{self.bin}{os.pathsep}{os.environ.get('PATH', '')}",
        }

    def ensure(self, *, extras: tuple[str, ...], groups: tuple[str, ...] = ()) -> None:
        """Make it hold the project with these extras and groups; quick when it does.

        What was asked for earlier is kept, so `demo` after `test` installs nothing.

        Raises:
            RuntimeError: it cannot be made, with what to do about it.
        """
        text = (ROOT / "pyproject.toml").read_bytes()
        source = hashlib.sha256(text + self.django.encode()).hexdigest()
        had = self._stamp() if self._usable() else {}
        current = had.get("source") == source
        if current and {*extras} <= {*had["extras"]} and {*groups} <= {*had["groups"]}:
            return
        if not self._usable():
            self._create()
        extras = tuple(sorted({*extras, *had.get("extras", ())}))
        groups = tuple(sorted({*groups, *had.get("groups", ())}))
        project = tomllib.loads(text.decode())
        wanted = ["--editable", f"{ROOT}[{','.join(extras)}]"]
        wanted += [self.django] if self.django else []
        for group in groups:
            wanted += group_requirements(project, group)
        self.install(*wanted)
        stamp = {"source": source, "extras": extras, "groups": groups}
        self._stamp_file.write_text(json.dumps(stamp), encoding="utf-8")

    def install(self, *requirements: str) -> None:
        """Install requirements with uv, or with pip where uv is missing or fails.

        Raises:
            RuntimeError: neither could.
        """
        uv = find_uv()
        if uv:
            target = f"--python={self.python}"
            command = [uv, "pip", "install", "--quiet", target, *requirements]
            # As pip does: behind a company's proxy only the system knows its certificate.
            if run(command, env={"UV_SYSTEM_CERTS": "true"}) == 0:
                return
            print("uv could not install; trying pip", flush=True)
        quiet = ("--quiet", "--disable-pip-version-check")
        if run([self.python, "-m", "pip", "install", *quiet, *requirements]):
            raise RuntimeError(
                "the packages could not be installed; the lines above say which and why "
                "(is there a network or a package mirror?)"
            )

    @property
    def _stamp_file(self) -> Path:
        return self.folder / "tiderace-installed.json"

    def _stamp(self) -> dict[str, Any]:
        try:
            stamp: dict[str, Any] = json.loads(self._stamp_file.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return stamp

    def _usable(self) -> bool:
        found = describe(self.python) if self.python.exists() else None
        return found is not None and found.version == self.interpreter.version

    def _create(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        python = self.interpreter.path
        if run([python, "-m", "venv", self.folder]) == 0:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        uv = find_uv()
        if uv and run([uv, "venv", "--seed", "--python", python, self.folder]) == 0:
            return
        # Debian and Ubuntu keep the half of `venv` that brings pip in its own package.
        major, minor = self.interpreter.version
        package = f"python{major}.{minor}-venv"
        if apt_install(package) and run([python, "-m", "venv", self.folder]) == 0:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        line = f"sudo apt-get install {package}"
        hint = line if sys.platform == "linux" else "install uv or a complete Python"
        raise RuntimeError(
            f"{self.interpreter} cannot make a virtual environment: {hint}"
        )
