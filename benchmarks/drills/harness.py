"""Processes of the site, a sending process and many sockets, ready to be hurt.

It knows how they are started and what they say, and nothing of what is done to them.
"""

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

from .sequence import Figures, Tally

__all__ = ["ROOT", "Ears", "SenderProcess", "SiteProcess", "Stage", "log_file", "stage"]

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from support.brokers import free_port  # noqa: E402


class SiteProcess:
    """One uvicorn with the drilled site; ``start`` again is its successor."""

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

    def counted(self) -> dict[str, int]:
        """What this process has counted since it started."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/") as answer:
            values: dict[str, int] = json.load(answer)
        return values

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)

    async def end(self) -> None:
        """End it and wait for that."""
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
        """Let it end, and note what it says it has sent."""
        assert self.process is not None
        output, _ = await asyncio.wait_for(self.process.communicate(b"\n"), 60)
        if self.process.returncode:
            raise RuntimeError(f"the sender failed; see {LOG}")
        said = json.loads(output)
        self.last = said["last"]
        self.refused, self.slowest = said["refused"], said["slowest"]

    async def end(self) -> None:
        """End it at once."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@dataclass
class Ears:
    """Sockets that listen to rooms."""

    tallies: list[Tally] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def open(
        self, port: int, room: str, next_number: Callable[[], int] | None = None
    ) -> tuple[Tally, Any]:
        """Open one and wait until it has joined; ``next_number`` is asked then."""
        socket = await websockets.connect(
            f"ws://127.0.0.1:{port}/{room}/",
            compression=None,
            max_queue=None,
            ping_interval=None,
            open_timeout=30,
        )
        tally = Tally(room)
        word, _, channel = str(await socket.recv()).partition(" ")
        if word != "joined":
            raise RuntimeError(f"a socket said {word!r} before it had joined")
        self.channels.append(channel)
        self.tallies.append(tally)
        if next_number is not None:
            tally.joined_at = next_number()
        task = asyncio.create_task(self._listen(socket, tally))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return tally, socket

    async def _listen(self, socket: Any, tally: Tally) -> None:
        try:
            async for text in socket:
                if text.startswith("gap"):
                    tally.hear_gap()
                else:
                    tally.hear(int(text))
            tally.closed = tally.closed or "ended"
        except websockets.ConnectionClosed as error:
            tally.closed = tally.closed or str(error)

    async def hear_out(self, last: dict[str, int], *, timeout: float = 20) -> None:
        """Wait until every open socket has heard the last number, or for ``timeout``."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if all(t.closed or t.expects > last[t.room] for t in self.tallies):
                break
            await asyncio.sleep(0.05)
        for tally in self.tallies:
            if not tally.closed:
                tally.end(last[tally.room])

    def close(self) -> None:
        """Stop listening."""
        for task in self._tasks:
            task.cancel()


class Stage:
    """Two site processes, sockets in rooms over both, and a sender."""

    def __init__(
        self, config: dict[str, Any], *, sockets: int, rooms: int, rate: float
    ) -> None:
        # What is told to a process must be there in both, through the same JSON.
        self.config = {"prefix": "drill", "publish_timeout": 10, **config}
        self.rooms = [f"room-{number}" for number in range(rooms)]
        self.sites = [SiteProcess(self.config) for _ in range(2)]
        self.ears = Ears()
        self._sockets = sockets
        self._rate = rate
        self.sender = SenderProcess(self.config, self.rooms, rate)

    async def open(self, *, clock: bool = False) -> None:
        """Start everything; when it returns all sockets have joined and numbers flow."""
        await asyncio.gather(*(site.start() for site in self.sites))
        for site in self.sites:
            for number in range(self._sockets):
                await self.ears.open(
                    site.port, self.rooms[number % len(self.rooms)], lambda: 0
                )
        self.sender = SenderProcess(self.config, self.rooms, self._rate, clock=clock)
        await self.sender.start()
        await self.flowing()

    async def flowing(self, *, timeout: float = 30) -> None:
        """Wait until every open socket hears something new."""
        before = [tally.received for tally in self.ears.tallies]
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if all(
                tally.received > count or tally.closed
                for tally, count in zip(self.ears.tallies, before, strict=True)
            ):
                return
            await asyncio.sleep(0.02)
        silent = sum(
            tally.received == count and not tally.closed
            for tally, count in zip(self.ears.tallies, before, strict=True)
        )
        print(f"    {silent} sockets heard nothing for {timeout} s")

    async def finish(self, *, timeout: float = 20) -> Figures:
        """Stop sending, hear out what is on its way, and add up."""
        await self.sender.stop()
        await self.ears.hear_out(self.sender.last, timeout=timeout)
        sent = sum(number + 1 for number in self.sender.last.values())
        return Figures.of(self.ears.tallies, sent)

    async def close(self) -> None:
        """End everything."""
        self.ears.close()
        await self.sender.end()
        for site in self.sites:
            await site.end()


@contextlib.asynccontextmanager
async def stage(
    config: dict[str, Any],
    *,
    sockets: int,
    rooms: int,
    rate: float,
    clock: bool = False,
) -> AsyncIterator[Stage]:
    """A stage that is open and flows."""
    built = Stage(config, sockets=sockets, rooms=rooms, rate=rate)
    try:
        await built.open(clock=clock)
        yield built
    finally:
        await built.close()


LOG = Path(os.environ.get("DRILL_LOG", "/dev/null"))


def log_file() -> Any:
    """Where the processes' complaints go: ``$DRILL_LOG``, by default nowhere."""
    return LOG.open("ab")
