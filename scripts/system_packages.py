"""Find the browser, Node, nginx and PgBouncer that the tests run, and install what is missing.

``noxfile.py`` uses it; only ``apt_install`` changes the machine, after a line of output.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

__all__ = [
    "NODE_MINIMUM",
    "apt_install",
    "can_apt",
    "find_browser",
    "find_nginx",
    "find_node",
    "find_pgbouncer",
    "find_playwright_browser",
]

NODE_MINIMUM = 20

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
PLAYWRIGHT_BROWSER = (
    "from playwright.sync_api import sync_playwright as start\n"
    "with start() as playwright: print(playwright.chromium.executable_path)"
)


def find_browser() -> str | None:
    """Return the path of a Chromium or Chrome: $CHROME, then the usual names.

    Raises:
        RuntimeError: $CHROME is set and cannot be run.
    """
    if chosen := os.environ.get("CHROME"):
        if not _runs(chosen):
            raise RuntimeError(
                f"CHROME={chosen} cannot be run; correct it or leave it unset"
            )
        return shutil.which(chosen)
    return next((shutil.which(name) for name in BROWSERS if _runs(name)), None)


def find_playwright_browser(python: Path) -> str | None:
    """Return the Chromium that Playwright has downloaded for an environment, or None.

    Args:
        python: the interpreter of an environment that has Playwright.
    """
    path = _output(str(python), "-c", PLAYWRIGHT_BROWSER)
    return path if path and _runs(path) else None


def find_node(*folders: Path) -> str | None:
    """Return the path of a Node that is new enough and has npm beside it, or None.

    Args:
        folders: where to look before PATH.
    """
    path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")])
    node, npm = shutil.which("node", path=path), shutil.which("npm", path=path)
    if not node or not npm:
        return None
    version = _output(node, "--version").lstrip("v")
    new_enough = version and int(version.partition(".")[0]) >= NODE_MINIMUM
    return node if new_enough else None


def find_nginx() -> str | None:
    """Return the path of nginx, or None."""
    return _find_of_root("nginx")


def find_pgbouncer() -> str | None:
    """Return the path of PgBouncer, or None."""
    return _find_of_root("pgbouncer")


def can_apt() -> bool:
    """Return whether Debian packages can be installed: there is apt, and we are root."""
    return bool(shutil.which("apt-get")) and os.geteuid() == 0


def apt_install(package: str) -> bool:
    """Install a Debian package, if that is possible here; return whether it was."""
    if not can_apt():
        return False
    print(f"installing with apt: {package}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--yes", "--no-install-recommends", package]
    # A failed update leaves the package lists of an earlier one, which may do.
    subprocess.run(["apt-get", "update", "-qq"], env=environment, check=False)
    return subprocess.run(install, env=environment, check=False).returncode == 0


def _find_of_root(program: str) -> str | None:
    """Return the path of a program that Debian keeps outside of a user's PATH."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _runs(browser: str) -> bool:
    """Return whether a browser starts: it may be a stub for a snap, or lack a library."""
    return bool(shutil.which(browser) and _output(browser, "--version"))


def _output(*command: str) -> str:
    """Return what a command prints, or "" when it cannot be run or fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode else done.stdout.strip()
