"""The processes of a drill: sites, senders, and nginx before the sites."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks import peers

from .ledger import Sent

__all__ = ["ROOT", "Process", "Sender", "Site"]

ROOT = Path(__file__).resolve().parents[2]


class Process:
    """A Python process of one stack; a second ``start`` runs its successor.

    Args:
        spec: the site's, see ``site.py``.
        command: the arguments for Python.
        log: its standard error is appended here.
    """

    stdout = asyncio.subprocess.PIPE

    def __init__(self, spec: dict[str, Any], command: list[str], log: Path) -> None:
        self._spec = spec
        self._command = command
        self._log = log
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the process."""
        runtime = "ours" if self._spec["stack"] == "tiderace" else "channels"
        with self._log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                str(peers.python(runtime)),
                *self._command,
                cwd=ROOT,
                env={**os.environ, "DRILL_SITE": json.dumps(self._spec)},
                stdin=asyncio.subprocess.PIPE,
                stdout=self.stdout,
                stderr=log,
                start_new_session=True,
                limit=1 << 26,
            )

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.returncode is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    async def wait(self, timeout: float = 60) -> int:
        """Wait for the end of the process and return its exit status."""
        assert self.process is not None
        return await asyncio.wait_for(self.process.wait(), timeout)

    async def output(self, text: bytes = b"") -> bytes:
        """Send ``text``, wait for the end of the process and return its output.

        Raises:
            RuntimeError: the process failed.
        """
        assert self.process is not None
        output, _ = await asyncio.wait_for(self.process.communicate(text), 60)
        if self.process.returncode:
            raise RuntimeError(f"{self._command} failed; see {self._log}")
        return output

    async def kill(self) -> None:
        """Kill the process and wait for its end."""
        if self.running:
            self.signal(signal.SIGKILL)
            await self.wait()


class Site(Process):
    """uvicorn with the site of the drills."""

    stdout = asyncio.subprocess.DEVNULL

    def __init__(
        self, spec: dict[str, Any], port: int, log: Path, *options: str
    ) -> None:
        protocol = "websockets-sansio"
        if spec["stack"] == "tiderace":
            protocol = "tiderace.server:WebSocketProtocol"
        command = ["-m", "uvicorn", "benchmarks.drills.site:application"]
        command += ["--port", str(port), "--ws", protocol, "--backlog", "4096"]
        command += ["--log-level", "warning", "--timeout-graceful-shutdown", "3"]
        super().__init__(spec, [*command, *options], log)
        self.port = port

    async def start(self) -> None:
        """Start the process and wait until it listens."""
        await super().start()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.running:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return
            await asyncio.sleep(0.05)
        raise RuntimeError(f"the site did not start; see {self._log}")

    async def get(self, *path: str) -> Any:
        """Return a value of the process, see ``site.py``."""
        url = f"http://127.0.0.1:{self.port}/drill/{'/'.join(path)}"

        def fetch() -> Any:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)

        return await asyncio.to_thread(fetch)

    async def status(self, path: str) -> int:
        """Return the status of the response to a GET."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(
            f"GET /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
        )
        line = await asyncio.wait_for(reader.readline(), 30)
        writer.transport.abort()
        return int(line.split()[1])

    async def measurements(self) -> dict[str, int]:
        """Return the measurements of the process."""
        values: dict[str, int] = await self.get("measurements")
        return values


class Sender(Process):
    """A process that sends numbers, see ``sender.py``."""

    def __init__(self, spec: dict[str, Any], orders: dict[str, Any], log: Path) -> None:
        command = ["-m", "benchmarks.drills.sender", json.dumps(orders)]
        super().__init__(spec, command, log)
        self.slowest = 0.0

    async def stop(self) -> dict[str, Sent]:
        """Let the process finish; return what it has sent."""
        result = json.loads(await self.output(b"\n"))
        self.slowest = result["slowest"]
        return {
            stream: Sent(sent["total"], set(sent["raised"]), sent["times"])
            for stream, sent in result["sent"].items()
        }
