"""Units of the guides, started and stopped as systemd does."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["Unit"]


class Unit:
    """A unit whose process runs until ``stop()`` or ``kill()``.

    Args:
        text: the unit file.
        run: the folder that stands for ``/run``.
        command: returns what is run for the words of ``ExecStart``.
        cwd: the folder that stands for the unit's own.
        env: the environment of the process.
        instance: ``%i`` of a template.
    """

    def __init__(
        self,
        text: str,
        run: Path,
        command: Callable[[list[str]], list[str]],
        *,
        cwd: Path,
        env: Mapping[str, str],
        instance: str = "",
    ) -> None:
        text = text.replace("%i", instance).replace("/run/", f"{run}/")
        self._options = dict(re.findall(r"^(\w+)=(.*)$", text, flags=re.MULTILINE))
        self._folder = run / self._options["RuntimeDirectory"]
        self._command = command
        self._cwd = cwd
        self._env = env
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the process; return when ``ExecStartPost`` has succeeded."""
        # systemd removes the folder when the unit stops.
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(int(self._options["RuntimeDirectoryMode"], 8))
        line = self._command(shlex.split(self._options["ExecStart"]))
        self._process = await asyncio.create_subprocess_exec(
            *line, cwd=self._cwd, env=self._env
        )
        if probe := self._options.get("ExecStartPost"):
            ready = await asyncio.create_subprocess_exec(*shlex.split(probe))
            assert await ready.wait() == 0, "the process is not ready"

    async def stop(self) -> None:
        """Stop the process within the unit's time, 90 s by default."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(float(self._options.get("TimeoutStopSec", 90))):
            await self._process.wait()

    async def kill(self) -> None:
        """Kill the process if it runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
