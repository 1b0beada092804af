"""Who is measured: how each contender is started, and how a client speaks to it.

It knows processes and their processor time; nothing of what is asked of a contender.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import nats, peers
from benchmarks.load_generator import Failed, Script

__all__ = ["CONTENDERS", "Contender", "Server", "is_idle", "pin", "served"]

# Those we may use; taken before any process is pinned to one of them.
CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
SITES = Path(__file__).resolve().parent / "sites"
# The protocol class every Python contender runs on, unless it is about another one.
PROTOCOL = "websockets-sansio"
OURS = "tiderace.server:WebSocketProtocol"

FAN = Script("/fan/")
ONCE = Script("/once/")
ECHO = Script("/echo/")


@dataclass(frozen=True, slots=True)
class Contender:
    """One line of a table.

    Attributes:
        name: its short name.
        title: what it is, for the table.
        runtime: the installation it needs; a function of ``peers`` makes it.
        site: the module of its site; unused where a site is no ASGI application.
        protocol: uvicorn's WebSocket protocol class.
        layer: the channel layer of a Django site.
        fan: how a client speaks to it in a fan-out.
        echo: the same where each client hears itself; None where it cannot.
    """

    name: str
    title: str
    runtime: str
    site: str = "django_site"
    protocol: str = PROTOCOL
    layer: str = "memory"
    fan: Script = FAN
    echo: Script | None = ECHO

    @property
    def needs_redis(self) -> bool:
        return self.layer != "memory"

    def require(self) -> None:
        """Install what it needs.

        Raises:
            Unavailable: when that is not possible, with the reason.
        """
        peers.require(self.runtime)
        if self.needs_redis:
            peers.valkey_program()
        if self.protocol == OURS:
            peers.require_ours(
                "from tiderace.server import WebSocketProtocol",
                "tiderace.server has no WebSocketProtocol",
            )
        if self.fan is ONCE:
            peers.require_ours(
                "from tiderace.layers.base import BaseChannelLayer as Layer; "
                "Layer.group_broadcast",
                "the layers have no group_broadcast",
            )

    def command(self, port: int) -> list[str]:
        """What starts it on ``port``."""
        if self.runtime == "node":
            node = shutil.which("node") or "node"
            return [node, str(SITES / "node_site.js"), str(peers.NODE), str(port)]
        if self.runtime == "limit":
            return [str(peers.LIMIT), str(port)]
        if self.runtime == "nats":
            return peers.nats_command(port, free_port())
        return [
            str(peers.python(self.runtime)), "-m", "uvicorn",
            f"{self.site}:application", "--port", str(port), "--ws", self.protocol,
            "--log-level", "warning", "--lifespan", "auto", "--backlog", "4096",
            # A ping in the middle of a run would be measured with it.
            "--ws-ping-interval", "3600", "--ws-ping-timeout", "3600",
        ]  # fmt: skip

    def variables(self, redis: str | None) -> dict[str, str]:
        """The environment it is started in."""
        variables = {**os.environ, "LAYER": self.layer, "PYTHONWARNINGS": "ignore"}
        variables["CONTENDER"] = "tiderace" if self.runtime == "ours" else self.runtime
        # One core for every server, which Go is to know before it begins.
        variables["GOMAXPROCS"] = "1"
        if redis:
            variables["REDIS_URL"] = redis
        return variables


def _socketio(event: str) -> Script:
    return Script(
        "/socket.io/?EIO=4&transport=websocket",
        greeting=(("0", "40"), ("40", "")),
        envelope=f'42["{event}",%s]',
    )


def _topic(name: str) -> Script:
    return Script(
        f"/{name}/",
        greeting=(('{"id":1', ""), ('{"id":2', "")),
        envelope='{"send":{"data":%s}}',
    )


CONTENDERS: Mapping[str, Contender] = {
    each.name: each
    for each in (
        Contender("channels", "Channels", "channels"),
        Contender("tiderace", "Tiderace", "ours"),
        Contender("tiderace-server", "Tiderace, its protocol", "ours", protocol=OURS),
        Contender("tiderace-once", "Tiderace, group_broadcast", "ours", fan=ONCE),
        Contender(
            "tiderace-once-server",
            "Tiderace, both",
            "ours",
            protocol=OURS,
            fan=ONCE,
        ),
        Contender(
            "tiderace-topic-server",
            "Tiderace, a topic, its protocol",
            "ours",
            site="topics_site",
            protocol=OURS,
            fan=_topic("passing"),
            echo=None,
        ),
        Contender(
            "tiderace-history-server",
            "Tiderace, a topic with history, its protocol",
            "ours",
            site="topics_site",
            protocol=OURS,
            fan=_topic("kept"),
            echo=None,
        ),
        Contender("bare", "uvicorn, a bare loop", "ours", site="bare_site"),
        Contender("litestar", "Litestar channels", "peers", site="litestar_site"),
        Contender(
            "socketio",
            "python-socketio",
            "peers",
            site="socketio_site",
            fan=_socketio("say"),
            echo=_socketio("echo"),
        ),
        Contender("node", "Node ws", "node"),
        Contender(
            "nats",
            "nats-server, its protocol over WebSocket",
            "nats",
            fan=Script("/", greeting=(("INFO", nats.CONNECT), ("PONG", "")), nats=True),
            echo=None,
        ),
        Contender("limit", "C, epoll: the limit", "limit", echo=None),
        Contender("channels-core", "channels_redis core", "channels", layer="core"),
        Contender(
            "channels-pubsub", "channels_redis pubsub", "channels", layer="pubsub"
        ),
        Contender("tiderace-redis", "Tiderace, Redis", "ours", layer="core"),
        Contender(
            "tiderace-redis-server",
            "Tiderace, Redis, its protocol",
            "ours",
            layer="core",
            protocol=OURS,
        ),
        Contender(
            "tiderace-redis-once-server",
            "Tiderace, Redis, both",
            "ours",
            layer="core",
            protocol=OURS,
            fan=ONCE,
        ),
    )
}


@dataclass(slots=True)
class Server:
    """A contender that runs, in one process or several."""

    ports: list[int] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    redis: str | None = None

    def cpu_seconds(self) -> float:
        """The processor seconds its processes have used so far, all threads counted."""
        return sum(cpu_seconds(process.pid) for process in self.processes)

    def resident_bytes(self) -> int:
        """The memory its processes hold now."""
        return sum(resident_bytes(process.pid) for process in self.processes)


@contextlib.contextmanager
def served(contender: Contender, processes: int = 1) -> Iterator[Server]:
    """Run ``contender`` on free ports of the loopback interface.

    Raises:
        Failed: when it does not start.
    """
    server = Server()
    with contextlib.ExitStack() as stack:
        if contender.needs_redis:
            server.redis = stack.enter_context(valkey())
        for _ in range(processes):
            port = free_port()
            process = subprocess.Popen(
                contender.command(port),
                cwd=SITES,
                env=contender.variables(server.redis),
            )
            stack.callback(end, process)
            if is_idle():
                pin(process.pid, 0)
            wait_for(process, port, contender.title)
            server.ports.append(port)
            server.processes.append(process)
        yield server


@contextlib.contextmanager
def valkey() -> Iterator[str]:
    """A Valkey of one's own; yields its URL."""
    program = peers.valkey_program()
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tiderace-bench-") as folder:
        process = subprocess.Popen(
            [program, "--bind", "127.0.0.1", "--port", str(port), "--save", ""],
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
        try:
            if is_idle():
                pin(process.pid, -1)
            wait_for(process, port, "Valkey")
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a process; what it has still to say to its clients does not matter."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def wait_for(process: subprocess.Popen[bytes], port: int, name: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.02)
    raise Failed(f"{name} did not start")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@functools.cache
def is_idle() -> bool:
    """Whether the machine had nothing else to do when we began.

    Where it has, a core of one's own would be one shared with a stranger.
    """
    return os.getloadavg()[0] < 1


def pin(pid: int, core: int) -> None:
    """Give a process one core where the system can, so the two sides do not compete."""
    if sys.platform == "linux" and len(CORES) > 1:
        os.sched_setaffinity(pid, {CORES[core]})


def cpu_seconds(pid: int) -> float:
    """The processor seconds a process has used, as the system counts them."""
    if sys.platform == "linux":
        # After the name, which is in brackets and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    parts = ask("ps", "-o", "time=", "-p", str(pid)).replace("-", ":").split(":")
    return sum(float(part) * 60**power for power, part in enumerate(reversed(parts)))


def resident_bytes(pid: int) -> int:
    """The memory of a process that is not swapped out."""
    return int(ask("ps", "-o", "rss=", "-p", str(pid))) * 1024


def ask(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
