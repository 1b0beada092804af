"""The contenders: their processes, their client protocols, and their processor time."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import centrifugo, databases, peers
from benchmarks.client_protocols import (
    ECHO,
    FAN,
    NATS,
    ONCE,
    Script,
    our_events,
    our_http_stream,
    our_topic,
    socketio,
    their_events,
    their_http_stream,
    their_topic,
)
from benchmarks.frames import RunFailed
from benchmarks.unpacking import Lines

__all__ = ["CONTENDERS", "Contender", "Server", "is_idle", "pin", "served"]

# The usable cores, read before any process is pinned to one of them.
CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
SITES = Path(__file__).resolve().parent / "sites"
# The protocol class of the Python contenders, unless they measure another one.
PROTOCOL = "websockets-sansio"
OURS = "tiderace.server:WebSocketProtocol"
OUR_HTTP = "tiderace.server:HttpProtocol"

# Seconds between two pings where they are not to be measured.
NO_PING = 3600.0


@dataclass(frozen=True, slots=True)
class Contender:
    """One line of a table.

    Attributes:
        name: its name on the command line.
        title: its name in tables.
        runtime: the installation that it needs, made by ``peers.require``.
        site: the module of its ASGI application; unused for other servers.
        protocol: uvicorn's WebSocket protocol class.
        layer: the channel layer of a Django site.
        fan: the client protocol of the fan-out.
        echo: the client protocol of the echo; None if it has no echo.
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
        return self.layer in ("core", "pubsub")

    def require(self) -> None:
        """Install the requirements.

        Raises:
            Unavailable: if that is not possible, with the reason.
        """
        peers.require(self.runtime)
        if self.needs_redis:
            peers.valkey_program()
        if self.layer == "postgresql":
            databases.require_postgresql()
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

    def command(self, port: int, ping: float = NO_PING) -> list[str]:
        """Return the command that starts it on ``port``.

        Args:
            port: where to listen.
            ping: seconds between two pings of topics; a server of Python sends its own a
                little more often, as by default.
        """
        if self.runtime == "node":
            node = shutil.which("node") or "node"
            return [node, str(SITES / "node_site.js"), str(peers.NODE), str(port)]
        if self.runtime == "limit":
            return [str(peers.LIMIT), str(port)]
        if self.runtime == "nats":
            return peers.nats_command(port, free_port())
        if self.runtime == "centrifugo":
            program = centrifugo.program() or "centrifugo"
            return centrifugo.command(program, peers.TOOLS, port, ping)
        seconds = str(ping * 0.8)
        return [
            str(peers.python(self.runtime)), "-m", "uvicorn",
            f"{self.site}:application", "--port", str(port), "--ws", self.protocol,
            "--log-level", "warning", "--lifespan", "auto", "--backlog", "4096",
            "--ws-ping-interval", seconds, "--ws-ping-timeout", seconds,
            "--http", OUR_HTTP if self.protocol == OURS else "auto",
        ]  # fmt: skip

    def variables(self, broker: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of its processes, with that of its broker."""
        variables = {**os.environ, "LAYER": self.layer, "PYTHONWARNINGS": "ignore"}
        # Else the start of a server compiles what pip has compiled for the others.
        variables["PYTHONDONTWRITEBYTECODE"] = ""
        variables["CONTENDER"] = "tiderace" if self.runtime == "ours" else self.runtime
        # Every server uses one core; Go reads this when it starts.
        variables["GOMAXPROCS"] = "1"
        if self.runtime == "centrifugo":
            variables.update(centrifugo.variables(broker.get("REDIS_URL")))
        return {**variables, **broker}


def _engine(name: str, title: str, layer: str) -> Contender:
    return Contender(
        f"engine-{name}",
        title,
        "ours",
        site="engines_site",
        protocol=OURS,
        layer=layer,
        echo=None,
    )


def _our_streams(name: str, title: str, fan: Script) -> tuple[Contender, Contender]:
    """Return the contenders on uvicorn's HTTP protocol and on ours."""
    theirs = Contender(name, title, "ours", site="topics_site", fan=fan, echo=None)
    title = f"{title}, its protocol"
    return theirs, replace(theirs, name=f"{name}-server", title=title, protocol=OURS)


def _centrifugo(name: str, title: str, fan: Script, layer: str = "memory") -> Contender:
    return Contender(
        name, title, "centrifugo", protocol="", layer=layer, fan=fan, echo=None
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
            fan=our_topic("passing"),
            echo=None,
        ),
        Contender(
            "tiderace-history-server",
            "Tiderace, a topic with history, its protocol",
            "ours",
            site="topics_site",
            protocol=OURS,
            fan=our_topic("kept"),
            echo=None,
        ),
        Contender(
            "tiderace-history",
            "Tiderace, a topic with history",
            "ours",
            site="topics_site",
            # Other servers join what is waiting for a client to one message.
            fan=replace(our_topic("kept"), unpacker=Lines),
            echo=None,
        ),
        Contender(
            "tiderace-newest-server",
            "Tiderace, a topic with Latest, its protocol",
            "ours",
            site="topics_site",
            protocol=OURS,
            fan=our_topic("newest"),
            echo=None,
        ),
        Contender(
            "tiderace-growing-server",
            "Tiderace, messages that grow, its protocol",
            "ours",
            site="topics_site",
            protocol=OURS,
            echo=None,
        ),
        Contender(
            "tiderace-clients-server",
            "Tiderace, clients of topics, its protocol",
            "ours",
            site="topics_site",
            protocol=OURS,
            fan=Script("/clients/websocket"),
            echo=None,
        ),
        _centrifugo("centrifugo-topic", "Centrifugo, a topic", their_topic("passing")),
        _centrifugo(
            "centrifugo", "Centrifugo, a topic with history", their_topic("kept")
        ),
        _centrifugo(
            "centrifugo-redis",
            "Centrifugo, Redis, a topic with history",
            their_topic("kept"),
            layer="core",
        ),
        *_our_streams(
            "tiderace-events",
            "Tiderace, server-sent events",
            our_events("kept"),
        ),
        *_our_streams(
            "tiderace-http-stream",
            "Tiderace, http_stream",
            our_http_stream("kept"),
        ),
        _centrifugo(
            "centrifugo-events",
            "Centrifugo, server-sent events",
            their_events("kept"),
        ),
        _centrifugo(
            "centrifugo-http-stream",
            "Centrifugo, http_stream",
            their_http_stream("kept"),
        ),
        Contender(
            "tiderace-redis-history-server",
            "Tiderace, Redis, a topic with history, its protocol",
            "ours",
            site="topics_site",
            protocol=OURS,
            layer="core",
            fan=our_topic("kept"),
            echo=None,
        ),
        Contender("bare", "uvicorn, a bare loop", "ours", site="bare_site"),
        Contender("litestar", "Litestar channels", "peers", site="litestar_site"),
        Contender(
            "socketio",
            "python-socketio",
            "peers",
            site="socketio_site",
            fan=socketio("say"),
            echo=socketio("echo"),
        ),
        Contender("node", "Node ws", "node"),
        Contender(
            "nats",
            "nats-server, its protocol over WebSocket",
            "nats",
            fan=NATS,
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
        _engine("memory", "In memory, published in the process itself", "memory"),
        _engine("redis", "Redis", "core"),
        _engine("sqlite", "SQLite", "sqlite"),
        _engine("postgresql", "PostgreSQL", "postgresql"),
    )
}


@dataclass(slots=True)
class Server:
    """The running processes of a contender."""

    ports: list[int] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    broker: dict[str, str] = field(default_factory=dict)
    """The environment of the processes, by which they find what carries messages."""
    database: databases.Database | None = None

    def cpu_seconds(self) -> float:
        """Return the processor seconds of its processes so far, over all threads."""
        return sum(cpu_seconds(process.pid) for process in self.processes)

    def resident_bytes(self) -> int:
        """Return the resident memory of its processes."""
        return sum(resident_bytes(process.pid) for process in self.processes)


@contextlib.contextmanager
def served(
    contender: Contender, processes: int = 1, *, ping: float = NO_PING
) -> Iterator[Server]:
    """Run ``contender`` on free ports of the loopback interface.

    Args:
        contender: what to run.
        processes: how many of them.
        ping: seconds between two pings of topics.

    Raises:
        RunFailed: if it does not start.
    """
    server = Server(broker={"PING": str(ping)})
    with contextlib.ExitStack() as stack:
        if contender.needs_redis:
            server.broker["REDIS_URL"] = stack.enter_context(valkey())
        if contender.layer in databases.OPENERS:
            database = stack.enter_context(databases.OPENERS[contender.layer]())
            server.database = database
            server.broker["DATABASE"] = json.dumps(database.settings)
            prepare = [str(peers.python("ours")), f"{contender.site}.py", "migrate"]
            environment = contender.variables(server.broker)
            subprocess.run(prepare, cwd=SITES, env=environment, check=True)
        for _ in range(processes):
            port = free_port()
            process = subprocess.Popen(
                contender.command(port, ping),
                cwd=SITES,
                env=contender.variables(server.broker),
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
    """Run a private Valkey and yield its URL."""
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
    """Kill a process and wait for its end."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def wait_for(process: subprocess.Popen[bytes], port: int, name: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.02)
    raise RunFailed(f"{name} did not start")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@functools.cache
def is_idle() -> bool:
    """Return whether the machine was idle at the start of the run.

    On a busy machine processes are not pinned, since they would share their core with
    other programs.
    """
    return os.getloadavg()[0] < 1


def pin(pid: int, core: int) -> None:
    """Pin a process to one core, if possible, so that both sides do not compete."""
    if sys.platform == "linux" and len(CORES) > 1:
        os.sched_setaffinity(pid, {CORES[core]})


def cpu_seconds(pid: int) -> float:
    """Return the processor seconds that a process has used."""
    if sys.platform == "linux":
        # The fields after the name, which is in brackets and may contain any character.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    parts = ask("ps", "-o", "time=", "-p", str(pid)).replace("-", ":").split(":")
    return sum(float(part) * 60**power for power, part in enumerate(reversed(parts)))


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    return int(ask("ps", "-o", "rss=", "-p", str(pid))) * 1024


def ask(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
