"""What this machine offers: interpreters, Node, a browser, a way to install them.

It looks and it asks; only `apt_install` changes the machine, and it says so first.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "NODE_MINIMUM",
    "Interpreter",
    "apt_install",
    "ask",
    "can_apt",
    "describe",
    "find_browser",
    "find_interpreter",
    "find_nginx",
    "find_node",
    "find_uv",
    "in_ci",
    "run",
    "runs",
]

NODE_MINIMUM = 20

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
)
MAC_BROWSERS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python on this machine; `version` is (major, minor)."""

    path: Path
    version: tuple[int, int]

    def __str__(self) -> str:
        return f"Python {self.version[0]}.{self.version[1]}"


def in_ci() -> bool:
    """Whether this is a CI run: the variable CI is set to anything but nothing or 0."""
    return os.environ.get("CI", "").lower() not in {"", "0", "false"}


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    timeout: float | None = None,
) -> int:
    """Show a command, run it with the terminal's own output, return its exit code.

    Args:
        env: variables added to the present ones.
        timeout: seconds; a command that is cut off counts as exit code 124.
    """
    words = [str(word) for word in command]
    print("$", " ".join(words), flush=True)
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        return 127
    except subprocess.TimeoutExpired:
        return 124
    return done.returncode


def ask(*command: str | Path) -> str:
    """The first line a command answers, or "" when it cannot be run or fails."""
    try:
        done = subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    if done.returncode:
        return ""
    return done.stdout.strip().partition("\n")[0].strip()


def find_uv() -> str | None:
    """The uv on PATH, if it really runs (a shim may answer without a uv behind it)."""
    uv = shutil.which("uv")
    return uv if uv and ask(uv, "--version").startswith("uv ") else None


def describe(python: str | Path) -> Interpreter | None:
    """Ask an interpreter who it is; None if it does not run."""
    code = "import sys; print(sys.executable, *sys.version_info[:2], sep='|')"
    parts = ask(python, "-c", code).split("|")
    if len(parts) != 3:
        return None
    return Interpreter(Path(parts[0]), (int(parts[1]), int(parts[2])))


def find_interpreter(*wanted: tuple[int, int]) -> Interpreter | None:
    """The first of the wanted versions found here: running, on PATH, pyenv's, uv's.

    Nothing is downloaded.
    """
    pyenv_root = ask("pyenv", "root") if shutil.which("pyenv") else ""
    uv = find_uv()
    for major, minor in wanted:
        version = f"{major}.{minor}"
        places: list[str | Path] = [sys.executable, f"python{version}"]
        if pyenv_root:
            folders = Path(pyenv_root, "versions").glob(f"{version}.*/bin/python")
            newest_first = sorted(folders, key=patch_number, reverse=True)
            places.extend(newest_first)
        if uv:
            places.append(ask(uv, "python", "find", "--no-python-downloads", version))
        for place in places:
            found = describe(place) if str(place) else None
            if found and found.version == (major, minor):
                return found
    return None


def patch_number(python: Path) -> list[int]:
    """Sort key for pyenv's folders: 3.13.10 is newer than 3.13.9."""
    return [int(number) for number in re.findall(r"\d+", python.parts[-3])]


def find_node(folder: Path | None = None) -> Path | None:
    """The folder of a Node that is new enough and has npm beside it, or None.

    Args:
        folder: where to look instead of PATH.
    """
    place = str(folder) if folder else None
    node, npm = shutil.which("node", path=place), shutil.which("npm", path=place)
    if not node or not npm:
        return None
    version = ask(node, "--version").lstrip("v")
    if not version or int(version.partition(".")[0]) < NODE_MINIMUM:
        return None
    return Path(node).parent


def find_browser() -> str | None:
    """A Chromium or Chrome: $CHROME, then PATH, then where macOS keeps it."""
    chosen = os.environ.get("CHROME")
    if chosen:
        if not runs(chosen):
            raise RuntimeError(
                f"CHROME={chosen} cannot be run; correct it or leave it unset"
            )
        return shutil.which(chosen)
    for name in (*BROWSERS, *MAC_BROWSERS):
        if runs(name):
            return shutil.which(name)
    return None


def find_nginx() -> str | None:
    """The nginx of this machine; Debian keeps it where only root looks."""
    return shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def runs(browser: str) -> bool:
    """Whether a browser starts: not a stub for a snap, no library missing."""
    return bool(shutil.which(browser) and ask(browser, "--version"))


def can_apt() -> bool:
    """Whether Debian packages can be installed: there is apt, and we are root."""
    return bool(shutil.which("apt-get")) and os.geteuid() == 0


def apt_install(*packages: str) -> bool:
    """Install Debian packages if we are root on a machine with apt; say so first."""
    if not can_apt():
        return False
    print(f"installing with apt: {' '.join(packages)}", flush=True)
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    if run(["apt-get", "update", "-qq"], env=quiet, timeout=300):
        print("apt-get update failed; trying the lists that are there", flush=True)
    return run(install, env=quiet, timeout=600) == 0
