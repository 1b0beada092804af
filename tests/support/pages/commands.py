"""Checks of the command lines in the documentation, without running them."""

from __future__ import annotations

import json
import re
import shlex
import tomllib

from django.core.management import get_commands

from support.paths import ROOT

__all__ = ["complaint_about"]


def _make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _npm_scripts() -> set[str]:
    return set(json.loads((ROOT / "clients/js/package.json").read_text())["scripts"])


def _extras() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return set(project["optional-dependencies"])


def complaint_about(command: str) -> str:
    """Return the fault of a command line of the documentation; "" without one."""
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if not words:
        return ""
    program, *rest = words
    plain = [word for word in rest if not word.startswith("-") and "=" not in word]
    first = plain[0] if plain else ""
    match program:
        case "make":
            unknown = set(plain) - _make_targets()
            return f"no make target {sorted(unknown)}" if unknown else ""
        case "python" | "python3":
            return _complaint_about_python(rest)
        case "pip":
            return _complaint_about_pip(rest)
        case "uvx" | "pipx":
            script = rest[rest.index("tiderace") :] if "tiderace" in rest else []
            return _complaint_about_pip(rest) or _complaint_about_python(
                ["-m", *script]
            )
        case "npm":
            script = plain[1] if first == "run" else first
            known = _npm_scripts() | {"ci", "install"}
            return "" if script in known else f"no npm script {script!r}"
        case "scripts/dev":
            return "" if first in _make_targets() else f"no chore {first!r}"
        case (
            "cd"
            | "export"
            | "source"
            | "git"
            | "uvicorn"
            | "hypercorn"
            | "granian"
            | "daphne"
            | "django-admin"
        ):
            return ""
        case _:
            return f"unknown program {program!r}; add it to tests/support/pages/commands.py"


def _complaint_about_python(words: list[str]) -> str:
    match words:
        case ["-m", "pip", *rest]:
            return _complaint_about_pip(rest)
        case ["-m", "tiderace", command, *_]:
            source = (ROOT / "src/tiderace/__main__.py").read_text()
            return "" if f'"{command}"' in source else f"no command {command!r}"
        case ["-m", "benchmarks.drills", *names]:
            folder = ROOT / "benchmarks/drills/scenarios"
            known = {path.stem.replace("_", "-") for path in folder.glob("*.py")}
            unknown = [name for name in names if name not in known]
            return f"no drill {unknown[0]!r}" if unknown else ""
        case ["-m", "benchmarks", question, *_]:
            known = (ROOT / "benchmarks/questions" / f"{question}.py").is_file()
            return "" if known else f"no benchmark {question!r}"
        case ["-m", "venv" | "pytest" | "uvicorn" | "django", *_]:
            return ""
        case ["manage.py", command, *_]:
            known = {*get_commands(), "collectstatic"}  # of an app that tests leave out
            return "" if command in known else f"no manage.py {command}"
        case [script, *_]:
            return "" if (ROOT / script).is_file() else f"no file {script}"
        case _:
            return "says nothing"


def _complaint_about_pip(words: list[str]) -> str:
    named = [match for word in words if (match := re.match(r"tiderace\[(.+?)\]", word))]
    asked = {extra for match in named for extra in match[1].split(",")}
    unknown = asked - _extras()
    return f"no extra {sorted(unknown)}" if unknown else ""
