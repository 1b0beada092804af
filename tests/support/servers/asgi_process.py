"""An ASGI server as a child process on a free port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from types import TracebackType
from typing import Self

from support.paths import TESTS
from support.servers.ports import free_port
from support.waiting import wait_until

SERVERS = ("uvicorn", "hypercorn", "granian", "daphne")


class AsgiProcess:
    """``with AsgiProcess("uvicorn", "site.asgi:application") as server``: it listens.

    ``server.http`` and ``server.ws`` are its addresses without a trailing slash.
    """

    folder = TESTS
    """The folder in which it runs."""

    patience = 30.0
    """Seconds in which it has to listen."""

    def __init__(
        self,
        server: str,
        application: str,
        *,
        env: dict[str, str] | None = None,
        port: int | None = None,
    ) -> None:
        self.server = server
        self.port = port or free_port()
        self.http = f"http://127.0.0.1:{self.port}"
        self.ws = f"ws://127.0.0.1:{self.port}"
        self._command = self._line(application)
        outer = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
        self._env = {**outer, "PYTHONPATH": str(TESTS), **(env or {})}

    def _line(self, application: str) -> list[str]:
        port = str(self.port)
        address = {
            "uvicorn": ("--host", "127.0.0.1", "--port", port),
            "tiderace": ("--host", "127.0.0.1", "--port", port),
            "hypercorn": ("--bind", f"127.0.0.1:{port}", "--graceful-timeout", "2"),
            "granian": ("--interface", "asgi", "--host", "127.0.0.1", "--port", port),
            "daphne": ("--bind", "127.0.0.1", "--port", port),
        }[self.server]
        if self.server == "tiderace":
            address += ("--ws", "tiderace.server:WebSocketProtocol")
        module = "uvicorn" if self.server == "tiderace" else self.server
        python = (sys.executable, "-W", "default", "-m", module)
        return [*python, *address, application]

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile("w+")
        try:
            self.start()
        except BaseException:
            self._log.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            print(self.output())  # pytest shows it with the failure
        self.kill()
        self._log.close()

    def start(self) -> None:
        """Start the server, also again on the same port, and wait until it listens."""
        self.process = subprocess.Popen(
            self._command,
            env=self._env,
            cwd=self.folder,
            text=True,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            # Its own process group, to end the workers too.
            start_new_session=True,
        )
        try:
            wait_until(
                self._listens, timeout=self.patience, what=f"{self.server} listening"
            )
        except BaseException:
            self.kill()
            raise

    def _listens(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"{self.server} ended: {self.output()}")
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def terminate(self, *, timeout: float = 15) -> int:
        """Send SIGTERM, wait, and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=timeout)

    def kill(self) -> None:
        """Kill the server."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def output(self) -> str:
        """Return the output of the server so far."""
        return os.pread(self._log.fileno(), 1_000_000, 0).decode(errors="replace")


class RunserverProcess(AsgiProcess):
    """``manage.py runserver`` of the project with this settings module."""

    def __init__(
        self, settings: str, *, env: dict[str, str], port: int | None = None
    ) -> None:
        env = {**env, "DJANGO_SETTINGS_MODULE": settings}
        super().__init__("runserver", settings, env=env, port=port)

    def _line(self, application: str) -> list[str]:
        python = (sys.executable, "-W", "default", "-m", "django")
        return [*python, "runserver", "--noreload", f"127.0.0.1:{self.port}"]
