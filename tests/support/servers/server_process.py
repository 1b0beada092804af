"""A server that tests start as a process of its own, with its faults."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support.servers.ports import free_port
from support.waiting import wait_until

__all__ = ["HOST", "ServerProcess"]

HOST = "127.0.0.1"


class ServerProcess:
    """``with ServerProcess() as server``: it answers on ``server.port`` of ``HOST``.

    It has a folder of its own for its files, which is removed at the end. Subclasses say
    which command runs it and when it answers.
    """

    name: str
    """Its kind, for messages and for the name of its folder."""

    errors: tuple[type[BaseException], ...] = ()
    """The errors of ``is_answering`` while the server does not answer yet."""

    options: dict[str, Any] = {}
    """The arguments of ``subprocess.Popen``, such as the user that runs it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name.lower()}-"))
        self.process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()

    def command(self) -> Sequence[str | Path]:
        """Return the command that runs the server in the foreground."""
        raise NotImplementedError

    def is_answering(self) -> bool:
        """Return whether the server answers."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the server with its files, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self.options,
            )
        atexit.register(self._kill_mine)
        wait_until(
            self._has_started,
            what=f"{self.name} on port {self.port} answering",
            ignored=self.errors,
        )

    def _has_started(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended: {self.output()}")
        return self.is_answering()

    def output(self) -> str:
        """The log of the server so far."""
        return (self.folder / "log").read_text(errors="replace")

    # Faults

    def kill(self) -> None:
        """Kill the server with its child processes; its files remain."""
        if self.process is not None:
            children = self._stop()
            self.process.kill()
            for pid in children:
                _send(pid, signal.SIGKILL)
            self.process.wait()
            for pid in children:
                wait_until(
                    lambda pid=pid: _state(pid) in "ZX", what=f"the end of {pid}"
                )
            self.process = None
            atexit.unregister(self._kill_mine)

    def pause(self) -> None:
        """Stop the server and its child processes: connections stay open, without replies."""
        self._stop()

    def resume(self) -> None:
        """Continue the stopped processes."""
        assert self.process is not None
        for pid in (*_children(self.process.pid), self.process.pid):
            _send(pid, signal.SIGCONT)

    def restart(self, *, down: float = 0) -> None:
        """Kill the server and start it ``down`` seconds later."""
        self.kill()
        time.sleep(down)
        self.start()

    def close(self) -> None:
        """Kill the server and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _stop(self) -> list[int]:
        """Stop its processes and wait until they are; return its child processes."""
        assert self.process is not None
        if self.process.poll() is not None:
            return []
        # The parent first, which then starts no more of them.
        _stop(self.process.pid)
        children = _children(self.process.pid)
        for pid in children:
            _stop(pid)
        return children

    def _kill_mine(self) -> None:
        # A forked child inherits the exit handlers but not the server.
        if self.process is not None and os.getpid() == self._owner:
            self.process.kill()


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended
        os.kill(pid, number)


def _stop(pid: int) -> None:
    _send(pid, signal.SIGSTOP)
    # Signals are delivered later, and not to one that has ended.
    wait_until(lambda: _state(pid) in "TZX", what=f"process {pid} stopping")


def _children(pid: int) -> list[int]:
    try:
        return list(
            map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        )
    except FileNotFoundError:  # not Linux, or it has ended
        return []


def _state(pid: int) -> str:
    """Return the letter of a process's state; X where there is none, or no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "X"
