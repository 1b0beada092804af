"""A Unix socket per process through which commands on the same machine control it.

``manage.py tiderace_drain`` uses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import logging
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from django.conf import settings
from django.utils.crypto import salted_hmac

from tiderace import conf
from tiderace.runtime.drain import Drain, drain_seconds, process_drain

__all__ = [
    "ControlSocket",
    "ask_to_drain",
    "control_sockets",
    "process_control_socket",
    "run_directory",
]

logger = logging.getLogger("tiderace.control")

# Seconds between two reports of a drain's progress.
_REPORT_EVERY = 1.0
# A socket's path may have 108 bytes on Linux, 104 elsewhere.
_LONGEST_PATH = 100


def run_directory() -> Path:
    """Return the folder of the control sockets of this project's processes.

    ``TIDERACE["RUN_DIR"]``, or else a temporary folder for this user and project.
    """
    if (chosen := conf.current().run_dir) is not None:
        return Path(chosen)
    module = getattr(settings, "SETTINGS_MODULE", "")
    # The secret key tells projects apart; the digest does not reveal it.
    project = salted_hmac("tiderace.control", module, algorithm="sha256").hexdigest()[
        :12
    ]
    user = os.geteuid() if hasattr(os, "geteuid") else getpass.getuser()
    return Path(tempfile.gettempdir()) / f"tiderace-{user}-{project}"


def control_sockets() -> list[Path]:
    """Return the control sockets; the processes of some may have ended."""
    return sorted(run_directory().glob("*.sock"))


class ControlSocket:
    """The control socket of one process, open from the server's start to its end.

    Only this user can connect. Where it cannot be opened (a read-only file system, no
    Unix sockets) the process runs without it. Opening it again closes the one before,
    which a server that ended without a shutdown may have left open.

    Args:
        drain: the drain that a command may begin.
    """

    def __init__(self, drain: Drain) -> None:
        self._drain = drain
        self._path: Path | None = None
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Accept commands from now on."""
        if (
            not hasattr(asyncio, "start_unix_server")
            # A server for tests runs in another thread of the process.
            or threading.current_thread() is not threading.main_thread()
            or not conf.configured()
        ):
            return
        await self.close()
        path = run_directory() / f"{os.getpid()}.sock"
        try:
            make_private(path.parent)
            if len(os.fsencode(path)) > _LONGEST_PATH:
                raise OSError(f"the path {path} is too long for a socket")
            path.unlink(missing_ok=True)
            # Bound here, because a server whose loop has ended cannot close its socket.
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.bind(str(path))
            # Whatever the umask; nothing can connect before the server listens.
            path.chmod(0o600)
            self._server = await asyncio.start_unix_server(
                self._answer, sock=self._socket
            )
        except OSError as error:
            await self.close()
            logger.info(
                "manage.py tiderace_drain cannot reach this process (%s); set "
                'TIDERACE["RUN_DIR"] to a folder of its own if you need that',
                error,
            )
            return
        self._path = path

    async def close(self) -> None:
        """Accept no more commands, and remove the socket."""
        server, self._server = self._server, None
        if server is not None and not server.get_loop().is_closed():
            server.close()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._path = None

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            if await reader.readline() != b"drain\n":
                return
            draining = self._drain.begin(drain_seconds(), conf.current().drain_grace)
            while not draining.done():
                writer.write(b"open %d\n" % self._drain.open)
                await writer.drain()
                await asyncio.wait([draining], timeout=_REPORT_EVERY)
            writer.write(b"done %d\n" % self._drain.open)
            await writer.drain()
        except ConnectionError:
            pass  # the command has ended; the drain goes on
        finally:
            writer.close()


async def ask_to_drain(path: Path, report: Callable[[int], object]) -> int | None:
    """Drain a process through its control socket.

    Args:
        path: the socket.
        report: called every second with the number of open connections.

    Returns:
        The number of connections that were left. None if no process listens there; then
        the socket is removed.

    Raises:
        ConnectionError: the process ended before its drain.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except (ConnectionRefusedError, FileNotFoundError):
        path.unlink(missing_ok=True)  # noqa: ASYNC240 (one local call)
        return None
    try:
        writer.write(b"drain\n")
        while line := await reader.readline():
            word, _, number = line.decode().partition(" ")
            if word == "done":
                return int(number)
            report(int(number))
    finally:
        writer.close()
    raise ConnectionError(f"the process behind {path.name} ended before its drain")


def make_private(directory: Path) -> None:
    """Make the directory if need be.

    Raises:
        OSError: when that cannot be done, or others may write there.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    # Windows has neither owners nor such a mode, but a temporary folder for each user.
    is_private = not hasattr(os, "geteuid") or (
        found.st_uid == os.geteuid() and not found.st_mode & 0o022
    )
    if not stat.S_ISDIR(found.st_mode) or not is_private:
        raise PermissionError(
            f"{directory} is not a folder of this user alone, so it is not trusted"
        )


process_control_socket = ControlSocket(process_drain)
"""The control socket of this process, open during its lifespan."""
