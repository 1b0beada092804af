"""Forks writers and relays, which have then loaded Django and Tiderace already.

A process reads orders from its input, one JSON object a line: ``{"writer": {...}}`` or
``{"relay": {}}``. For each it prints the id of a process that carries it out, and the
same id again, negative, when that process has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from typing import Any

from benchmarks.drills.processes import Process

__all__ = ["Child", "Forks"]


class Child:
    """A process that was forked."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.ended = asyncio.Event()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return not self.ended.is_set()

    async def kill(self) -> bool:
        """Kill it and wait for its end; return whether it was running."""
        return await self._end(signal.SIGKILL)

    async def stop(self) -> bool:
        """Ask it to end and wait for that; return whether it was running."""
        return await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> bool:
        running = self.running
        if running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
            async with asyncio.timeout(60):
                await self.ended.wait()
        return running


class Forks:
    """The process that forks, as the drill sees it.

    Args:
        process: runs this module.
    """

    def __init__(self, process: Process) -> None:
        assert process.process is not None
        self._process = process.process
        self._started: asyncio.Queue[int] = asyncio.Queue()
        self._children: dict[int, Child] = {}
        self._reading = asyncio.create_task(self._read())

    async def start(self, order: dict[str, Any]) -> Child:
        """Let a process carry out ``order``."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        child = Child(await asyncio.wait_for(self._started.get(), 60))
        self._children[child.pid] = child
        return child

    async def close(self) -> None:
        """Kill all processes."""
        for child in list(self._children.values()):
            await child.kill()
        self._reading.cancel()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            pid = int(line)
            if pid > 0:
                self._started.put_nowait(pid)
                # Its end is read after the task that waits for it has run.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            else:
                self._children.pop(-pid).ended.set()


def carry_out(order: dict[str, Any]) -> None:
    """Write or relay, until the process is told to end."""
    from django.core.management import call_command

    from benchmarks.drills.outbox.writer import write

    if "writer" in order:
        write(**order["writer"])
    else:
        call_command("tiderace_relay", stdout=sys.stderr)


def main() -> None:
    from django.conf import settings
    from django.utils.module_loading import import_string

    from benchmarks.drills import site  # noqa: F401 (sets Django up)

    # What each of the processes would import when it publishes or relays.
    import_string(settings.CHANNEL_LAYERS["default"]["BACKEND"])
    from tiderace.management.commands import tiderace_relay  # noqa: F401

    def reap(*_: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                os.write(1, b"%d\n" % -pid)

    signal.signal(signal.SIGCHLD, reap)
    for line in iter(sys.stdin.readline, ""):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        if pid := os.fork():
            os.write(1, b"%d\n" % pid)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        carry_out(json.loads(line))
        os._exit(0)


if __name__ == "__main__":
    main()
