"""The harness of drills: processes of the site, a sending process and many sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import websockets

from .sequence import SequenceCheck, Summary

__all__ = [
    "ROOT",
    "Harness",
    "Listeners",
    "SenderProcess",
    "SiteProcess",
    "harness",
    "log_file",
]

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from support.brokers import free_port  # noqa: E402


class SiteProcess:
    """One uvicorn with the site; a second ``start`` runs its successor."""

    def __init__(
        self,
        config: dict[str, Any],
        application: str = "benchmarks.drills.site:application",
        **env: str,
    ) -> None:
        self.port = free_port()
        self.env = {**os.environ, "DRILL_CONFIG": json.dumps(config), **env}
        self._application = application
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "uvicorn", self._application),
            *("--port", str(self.port), "--log-level", "warning"),
            *("--ws-ping-interval", "60", "--ws-ping-timeout", "60"),
            cwd=ROOT,
            env=self.env,
            stderr=log_file(),
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return self
            if self.process.returncode is not None:
                raise RuntimeError(f"a process of the site ended; see {LOG}")
            await asyncio.sleep(0.02)
        raise RuntimeError("a process of the site did not start")

    def measurements(self) -> dict[str, int]:
        """Return the measurements of this process since its start."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/") as answer:
            values: dict[str, int] = json.load(answer)
        return values

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)

    async def end(self) -> None:
        """Kill the process and wait for its end."""
        self.kill()
        if self.process is not None:
            await self.process.wait()


class SenderProcess:
    """The process that sends numbers to rooms."""

    def __init__(
        self,
        config: dict[str, Any],
        rooms: list[str],
        rate: float,
        *,
        clock: bool = False,
    ) -> None:
        self._spec = {"config": config, "rooms": rooms, "rate": rate, "clock": clock}
        self.process: asyncio.subprocess.Process | None = None
        self.last: dict[str, int] = {}
        self.refused = 0
        self.slowest = 0.0

    async def start(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.drills.sender"),
            json.dumps(self._spec),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log_file(),
            start_new_session=True,
        )
        return self

    async def stop(self) -> None:
        """Stop the process and read its results."""
        assert self.process is not None
        output, _ = await asyncio.wait_for(self.process.communicate(b"\n"), 60)
        if self.process.returncode:
            raise RuntimeError(f"the sender failed; see {LOG}")
        results = json.loads(output)
        self.last = results["last"]
        self.refused, self.slowest = results["refused"], results["slowest"]

    async def end(self) -> None:
        """Kill the process."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@dataclass
class Listeners:
    """Sockets that receive the messages of rooms."""

    checks: list[SequenceCheck] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def open(
        self, port: int, room: str, next_number: Callable[[], int] | None = None
    ) -> tuple[SequenceCheck, Any]:
        """Open a socket and wait until it has joined; then call ``next_number``."""
        socket = await websockets.connect(
            f"ws://127.0.0.1:{port}/{room}/",
            compression=None,
            max_queue=None,
            ping_interval=None,
            open_timeout=30,
        )
        check = SequenceCheck(room)
        word, _, channel = str(await socket.recv()).partition(" ")
        if word != "joined":
            raise RuntimeError(f"a socket received {word!r} before it had joined")
        self.channels.append(channel)
        self.checks.append(check)
        if next_number is not None:
            check.joined_at = next_number()
        task = asyncio.create_task(self._listen(socket, check))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return check, socket

    async def _listen(self, socket: Any, check: SequenceCheck) -> None:
        try:
            async for text in socket:
                if text.startswith("gap"):
                    check.record_gap()
                else:
                    check.record(int(text))
            check.closed = check.closed or "ended"
        except websockets.ConnectionClosed as error:
            check.closed = check.closed or str(error)

    async def wait_for_last(self, last: dict[str, int], *, timeout: float = 20) -> None:
        """Wait until every open socket has received the last number, or for ``timeout``."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if all(t.closed or t.next_number > last[t.room] for t in self.checks):
                break
            await asyncio.sleep(0.05)
        for check in self.checks:
            if not check.closed:
                check.end(last[check.room])

    def close(self) -> None:
        """Stop receiving."""
        for task in self._tasks:
            task.cancel()


class Harness:
    """Two site processes, sockets in rooms over both, and a sender."""

    def __init__(
        self, config: dict[str, Any], *, sockets: int, rooms: int, rate: float
    ) -> None:
        # All processes receive this configuration as JSON.
        self.config = {"prefix": "drill", "publish_timeout": 10, **config}
        self.rooms = [f"room-{number}" for number in range(rooms)]
        self.sites = [SiteProcess(self.config) for _ in range(2)]
        self.listeners = Listeners()
        self._sockets = sockets
        self._rate = rate
        self.sender = SenderProcess(self.config, self.rooms, rate)

    async def open(self, *, clock: bool = False) -> None:
        """Start everything, and wait until all sockets have joined and receive numbers."""
        await asyncio.gather(*(site.start() for site in self.sites))
        for site in self.sites:
            for number in range(self._sockets):
                await self.listeners.open(
                    site.port, self.rooms[number % len(self.rooms)], lambda: 0
                )
        self.sender = SenderProcess(self.config, self.rooms, self._rate, clock=clock)
        await self.sender.start()
        await self.wait_for_delivery()

    async def wait_for_delivery(self, *, timeout: float = 30) -> None:
        """Wait until every open socket has received a new message."""
        before = [check.received for check in self.listeners.checks]
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if all(
                check.received > count or check.closed
                for check, count in zip(self.listeners.checks, before, strict=True)
            ):
                return
            await asyncio.sleep(0.02)
        silent = sum(
            check.received == count and not check.closed
            for check, count in zip(self.listeners.checks, before, strict=True)
        )
        print(f"    {silent} sockets received nothing for {timeout} s")

    async def finish(self, *, timeout: float = 20) -> Summary:
        """Stop sending, wait for messages in flight, and sum up."""
        await self.sender.stop()
        await self.listeners.wait_for_last(self.sender.last, timeout=timeout)
        sent = sum(number + 1 for number in self.sender.last.values())
        return Summary.of(self.listeners.checks, sent)

    async def close(self) -> None:
        """End everything."""
        self.listeners.close()
        await self.sender.end()
        for site in self.sites:
            await site.end()


@contextlib.asynccontextmanager
async def harness(
    config: dict[str, Any],
    *,
    sockets: int,
    rooms: int,
    rate: float,
    clock: bool = False,
) -> AsyncIterator[Harness]:
    """Open a harness, and close it at the end."""
    built = Harness(config, sockets=sockets, rooms=rooms, rate=rate)
    try:
        await built.open(clock=clock)
        yield built
    finally:
        await built.close()


LOG = Path(os.environ.get("DRILL_LOG", "/dev/null"))


def log_file() -> Any:
    """Open the log of the processes: ``$DRILL_LOG``, by default /dev/null."""
    return LOG.open("ab")
