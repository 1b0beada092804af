"""How many deliveries does one second of server processor time buy, in a fan-out?

N sockets are in one group; one of them speaks, all N hear it, then it speaks again. The
consumer (fanout_site.py) is the same file for Tiderace and for the real Channels, which
is installed beside us with the same versions of everything else. Every socket checks
that it hears each message once and in order; a run that loses one is an error, not a
figure. Runs of both alternate, so that a noisy minute hits both.

Processor time is counted rather than wall time, because it hardly depends on what else
the machine does. Read the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOOLS = HERE.parent / ".tools"
# What both sides share; the comparison is only of what stands above.
SHARED = ("Django", "asgiref", "uvicorn", "websockets", "httptools", "uvloop")
CHANNELS = "channels==4.3.2"
# With its frame a message is about the size of a line of chat.
TEXT = "x" * 120


class Failed(Exception):
    """A run is no measurement: something was lost, doubled, late or out of order."""


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement; `rate` is deliveries per processor second of the server."""

    contender: str
    sockets: int
    messages: int
    cpu_seconds: float
    rate: float
    slowest_ms: float


@dataclass(frozen=True, slots=True)
class Median:
    """Both contenders at one size; `ratio` is how much more Tiderace delivers."""

    sockets: int
    channels: float
    tiderace: float
    ratio: float


class Member(asyncio.Protocol):
    """A WebSocket client that does nothing but read frames and check their order."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.buffer = b""
        self.heard = 0
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET /fan/ HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.open:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.crowd.fail(f"the handshake was refused: {head[:80]!r}")
            self.open, self.buffer = True, rest
            self.crowd.opened()
        while (payload := self.take_frame()) is not None:
            self.hear(json.loads(payload)["number"])

    def take_frame(self) -> bytes | None:
        """Cut one text frame (unmasked, as servers send) off the buffer."""
        if len(self.buffer) < 4:
            return None
        if self.buffer[0] != 0x81:
            self.crowd.fail(f"not a text frame: {self.buffer[:20]!r}")
        size, start = self.buffer[1], 2
        if size == 126:
            size, start = int.from_bytes(self.buffer[2:4]), 4
        if len(self.buffer) < start + size:
            return None
        payload = self.buffer[start : start + size]
        self.buffer = self.buffer[start + size :]
        return payload

    def hear(self, number: int) -> None:
        if number != self.heard + 1:
            self.crowd.fail(f"message {number} came after {self.heard}")
        self.heard = number
        self.crowd.delivered()

    def say(self, number: int) -> None:
        """Send one masked text frame; the mask is zero, which leaves the text as it is."""
        text = json.dumps({"number": number, "text": TEXT}).encode()
        head = bytes([0x81, 0x80 | 126]) + len(text).to_bytes(2) + bytes(4)
        self.transport.write(head + text)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.crowd.leaving:
            self.crowd.fail(f"a socket was closed: {error}")


class Crowd:
    """N members; knows when all are in, and when all have heard a message."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.members: list[Member] = []
        self.leaving = False
        self.spoken = 0
        self.missing = 0
        self.failure: Failed | None = None
        self.all_done: asyncio.Future[None]

    async def enter(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        self.missing, self.all_done = self.size, loop.create_future()
        for _ in range(self.size):
            _, member = await loop.create_connection(
                lambda: Member(self), "127.0.0.1", port
            )
            self.members.append(member)
        await self.wait("to enter")

    async def hear_one(self) -> float:
        """One member speaks, all hear; returns the seconds until the last one did."""
        self.missing = self.size
        self.all_done = asyncio.get_running_loop().create_future()
        self.spoken += 1
        started = time.perf_counter()
        self.members[0].say(self.spoken)
        await self.wait(f"to hear message {self.spoken}")
        return time.perf_counter() - started

    async def wait(self, what: str) -> None:
        try:
            await asyncio.wait_for(self.all_done, 60)
        except TimeoutError:
            raise Failed(
                f"{self.missing} of {self.size} sockets failed {what}"
            ) from None

    def opened(self) -> None:
        self.one_less()

    def delivered(self) -> None:
        self.one_less()

    def one_less(self) -> None:
        self.missing -= 1
        if self.missing == 0 and not self.all_done.done():
            self.all_done.set_result(None)

    def fail(self, why: str) -> None:
        """End the run; a fault between two messages is raised by `leave`."""
        self.failure = self.failure or Failed(why)
        if not self.all_done.done():
            self.all_done.set_exception(self.failure)

    def leave(self) -> None:
        self.leaving = True
        for member in self.members:
            member.transport.abort()
        if self.failure:
            raise self.failure


@contextmanager
def server(contender: str, python: Path) -> Iterator[int]:
    """A uvicorn process with the site on a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        str(python), "-m", "uvicorn", "fanout_site:application", "--port", str(port),
        "--ws", "websockets-sansio", "--log-level", "warning",
        # A ping in the middle of a run would be measured with it.
        "--ws-ping-interval", "3600", "--ws-ping-timeout", "3600",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=HERE, env={**os.environ, "CONTENDER": contender}
    )
    try:
        pin(process.pid, 0)
        deadline = time.monotonic() + 30
        while True:
            with suppress(OSError):
                cpu_seconds(port)
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"the server of {contender} did not start")
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def pin(pid: int, core: int) -> None:
    """Give a process one core where the system can, so the two sides do not compete."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(pid, {sorted(os.sched_getaffinity(0))[core]})


def cpu_seconds(port: int) -> float:
    """The processor seconds that the server says it has used."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        return float(answer.read())


async def measure(contender: str, port: int, sockets: int, seconds: float) -> Run:
    """Speak and hear for `seconds` of wall time, after a warm-up."""
    crowd = Crowd(sockets)
    try:
        await crowd.enter(port)
        for _ in range(3):
            await crowd.hear_one()
        before, spoken = await asyncio.to_thread(cpu_seconds, port), crowd.spoken
        times = []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            times.append(await crowd.hear_one())
        used = await asyncio.to_thread(cpu_seconds, port) - before
        if any(member.heard != crowd.spoken for member in crowd.members):
            raise Failed("not every socket heard every message")
    finally:
        crowd.leave()
    messages = crowd.spoken - spoken
    rate = messages * sockets / used
    return Run(contender, sockets, messages, used, rate, max(times) * 1000)


def channels_python() -> Path:
    """The Python of an environment with the real Channels, made on first use."""
    folder = TOOLS / "bench-channels"
    python = folder / "bin" / "python"
    wanted = [CHANNELS, *(f"{name}=={version(name)}" for name in SHARED)]
    stamp = folder / "installed.json"
    if not stamp.exists() or json.loads(stamp.read_text()) != wanted:
        print(f"installing {' '.join(wanted)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        quiet = ("--quiet", "--disable-pip-version-check")
        subprocess.run([python, "-m", "pip", "install", *quiet, *wanted], check=True)
        stamp.write_text(json.dumps(wanted))
    return python


def medians(runs: list[Run]) -> list[Median]:
    """The medians of both contenders per size, and their ratio."""
    found = []
    for size in sorted({run.sockets for run in runs}):
        channels, tiderace = (
            statistics.median(
                run.rate for run in runs if (run.contender, run.sockets) == (name, size)
            )
            for name in ("channels", "tiderace")
        )
        found.append(Median(size, channels, tiderace, tiderace / channels))
    return found


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer, shorter runs")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--runs", type=int, help="runs of each side and size")
    parser.add_argument("--seconds", type=float, help="seconds of one run")
    parser.add_argument("--output", type=Path, default=TOOLS / "fanout.json")
    chosen = parser.parse_args()
    chosen.runs = chosen.runs or (3 if chosen.quick else 7)
    chosen.seconds = chosen.seconds or (3 if chosen.quick else 6)
    return chosen


def main() -> int:
    chosen = options()
    pythons = {"channels": channels_python(), "tiderace": Path(sys.executable)}
    pin(os.getpid(), -1)
    runs: list[Run] = []
    for size in chosen.sizes:
        for _ in range(chosen.runs):
            for contender, python in pythons.items():
                with server(contender, python) as port:
                    run = asyncio.run(measure(contender, port, size, chosen.seconds))
                runs.append(run)
                print(
                    f"{contender:<9} {size:>5} sockets {run.messages:>6} messages "
                    f"{run.rate:>9,.0f} deliveries per cpu-s",
                    flush=True,
                )
    lines = medians(runs)
    print("\nmedians, deliveries per second of server processor time")
    print(f"{'sockets':>8} {'Channels':>10} {'Tiderace':>10} {'ratio':>7}")
    for line in lines:
        print(
            f"{line.sockets:>8} {line.channels:>10,.0f} {line.tiderace:>10,.0f} "
            f"{line.ratio:>6.1f}x"
        )
    report = {
        "question": "deliveries per second of server processor time, fan-out in one process",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": {
            "python": platform.python_version(),
            "tiderace": version("tiderace"),
            "channels": CHANNELS.partition("==")[2],
            **{name: version(name) for name in SHARED},
        },
        "medians": [asdict(line) for line in lines],
        "runs": [asdict(run) for run in runs],
    }
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\nwritten to {chosen.output}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        sys.exit(f"no measurement: {error}")
