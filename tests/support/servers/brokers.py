"""Real Redis or Valkey servers for tests and drills, and their faults.

A single server, Sentinel and a cluster can be started, disconnected, paused and killed.
A server starts in tens of milliseconds, in its own folder, on a free port of the
loopback interface.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import redis

from support.servers.server_process import HOST, ServerProcess
from support.waiting import PATIENCE, wait_until
from tiderace.demo.valkey import server_program
from tiderace.server.certificate import development_certificate

T = TypeVar("T")


def wait_for_server(
    condition: Callable[[], T], *, timeout: float = PATIENCE, what: str = "it"
) -> T:
    """``wait_until``; errors of the connection count as false."""
    return wait_until(
        condition, timeout=timeout, what=what, ignored=(redis.RedisError, OSError)
    )


class Server(ServerProcess):
    """``with Server() as server``: it answers at ``server.url``.

    Args:
        append_only: keep everything on disk, to have it back after ``kill()``.
        password: for the default user.
        user: name and password of a further one.
        unix_socket: listen on ``server.socket`` too.
        lines: further lines of its configuration.
        program_options: further arguments on its command line.
    """

    name = "Redis"
    errors = (redis.RedisError, OSError)

    def __init__(
        self,
        *,
        append_only: bool = False,
        password: str | None = None,
        user: tuple[str, str] | None = None,
        unix_socket: bool = False,
        lines: tuple[str, ...] = (),
        program_options: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.password = password
        self.socket = self.folder / "socket" if unix_socket else None
        self._config = self.folder / "server.conf"
        self._options = program_options
        settings = [f"bind {HOST}", f"port {self.port}", f"dir {self.folder}"]
        if "--sentinel" not in program_options:
            settings += ['save ""', f"appendonly {'yes' if append_only else 'no'}"]
        if password:
            settings += [f"requirepass {password}"]
        if user:
            settings += [f"user {user[0]} on >{user[1]} ~* &* +@all"]
        if self.socket:
            settings += [f"unixsocket {self.socket}"]
        self._config.write_text("\n".join([*settings, *lines, ""]))

    @property
    def url(self) -> str:
        """The URL, with the password of the default user."""
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}{HOST}:{self.port}/0"

    def command(self) -> list[str | Path]:
        return [server_program(), self._config, *self._options]

    def is_answering(self) -> bool:
        with socket.create_connection((HOST, self.port), timeout=1) as probe:
            probe.sendall(b"PING\r\n")
            answer = probe.recv(64)
        return bool(answer) and not answer.startswith((b"-LOADING", b"-MASTERDOWN"))

    def forget(self) -> None:
        """Remove the files of a stopped server."""
        assert self.process is None, "it still runs; kill() it first"
        shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)
        for path in self.folder.glob("*.[ar][od][fb]"):
            path.unlink()

    def client_kill(self, *kinds: str) -> int:
        """Close all connections of a kind (``normal``, ``pubsub``); return the number."""
        return sum(self.call("CLIENT", "KILL", "TYPE", kind) for kind in kinds)

    # Commands

    def call(self, *command: Any, db: int = 0) -> Any:
        """Run a command on a new connection."""
        client = redis.Redis(
            host=HOST, port=self.port, password=self.password, db=db, socket_timeout=10
        )
        with client:
            return client.execute_command(*command)

    def flush(self) -> None:
        """Delete all keys."""
        self.call("FLUSHALL")

    def keys(self, db: int = 0) -> set[str]:
        """Return all keys."""
        return {key.decode() for key in self.call("KEYS", "*", db=db)}


class SentinelSetup:
    """A primary, its replicas and the sentinels that watch them.

    Args:
        sentinels: how many.
        replicas: how many.
        password: for the sentinels themselves; None for none.
        server_password: for the servers; None for none.
        name: what the sentinels call the primary.
    """

    def __init__(
        self,
        *,
        sentinels: int = 1,
        replicas: int = 1,
        password: str | None = "guards",
        server_password: str | None = None,
        name: str = "main",
    ) -> None:
        self.name = name
        self.password = password
        self.server_password = server_password
        self.sentinels: list[Server] = []
        self.servers: list[Server] = []
        self._counts = (sentinels, replicas)

    @property
    def host(self) -> dict[str, Any]:
        """The entry for ``hosts``."""
        entry: dict[str, Any] = {
            "sentinels": [(HOST, sentinel.port) for sentinel in self.sentinels],
            "master_name": self.name,
        }
        if self.password:
            entry["sentinel_kwargs"] = {"password": self.password}
        if self.server_password:
            entry["password"] = self.server_password
        return entry

    def __enter__(self) -> Self:
        sentinels, replicas = self._counts
        try:
            for _ in range(1 + replicas):
                self._add_server()
            for replica in self.servers[1:]:
                wait_for_server(
                    lambda s=replica: self._is_linked(s), what="a replica in step"
                )
            for _ in range(sentinels):
                self._add_sentinel()
            wait_for_server(self._is_watched, what="the sentinels knowing each other")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop all servers."""
        for server in (*self.sentinels, *self.servers):
            server.close()

    def _add_server(self) -> None:
        # An empty replica is in sync within a second instead of five.
        lines = ["repl-diskless-sync-delay 0", "repl-ping-replica-period 1"]
        if self.server_password:
            lines.append(f"masterauth {self.server_password}")
        if self.servers:
            lines.append(f"replicaof {HOST} {self.servers[0].port}")
        server = Server(password=self.server_password, lines=tuple(lines))
        self.servers.append(server)
        server.start()

    def _add_sentinel(self) -> None:
        quorum = self._counts[0] // 2 + 1
        lines = [
            f"sentinel monitor {self.name} {HOST} {self.servers[0].port} {quorum}",
            f"sentinel down-after-milliseconds {self.name} 400",
            f"sentinel failover-timeout {self.name} 2000",
        ]
        if self.server_password:
            lines.append(f"sentinel auth-pass {self.name} {self.server_password}")
        if self.password:
            # Sentinels use the same password with each other.
            lines.append(f"sentinel sentinel-pass {self.password}")
        sentinel = Server(
            password=self.password,
            lines=tuple(lines),
            program_options=("--sentinel",),
        )
        self.sentinels.append(sentinel)
        sentinel.start()

    def _is_linked(self, replica: Server) -> bool:
        return b"master_link_status:up" in _raw(replica, "INFO", "replication")

    def _is_watched(self) -> bool:
        for sentinel in self.sentinels:
            state = _pairs(sentinel.call("SENTINEL", "MASTER", self.name))
            if int(state["num-other-sentinels"]) != len(self.sentinels) - 1:
                return False
            if int(state["num-slaves"]) != len(self.servers) - 1:
                return False
        return True

    def primary(self) -> Server:
        """Return the current primary."""
        _, port = self.sentinels[0].call(
            "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name
        )
        return next(server for server in self.servers if server.port == int(port))

    def fail_over(self) -> float:
        """Kill the primary; return the seconds until another accepts writes."""
        old = self.primary()
        begun = time.monotonic()
        old.kill()
        wait_for_server(
            lambda: self.primary() is not old and self._takes_writes(self.primary()),
            timeout=30,
            what="another primary",
        )
        return time.monotonic() - begun

    def _takes_writes(self, server: Server) -> bool:
        return b"role:master" in _raw(server, "INFO", "replication")


class Cluster:
    """Nodes that share the slots, three by default.

    Args:
        nodes: how many primaries.
        replicas: whether each has a replica, which takes over when it is killed.
        password: of all nodes; None for none.
    """

    SLOTS = 16384

    def __init__(
        self, *, nodes: int = 3, replicas: bool = False, password: str | None = None
    ) -> None:
        lines = ["cluster-enabled yes", "cluster-node-timeout 1000"]
        if password:
            lines.append(f"masterauth {password}")
        self.nodes = [
            Server(password=password, lines=tuple(lines)) for _ in range(nodes)
        ]
        self.replicas = [
            Server(password=password, lines=(*lines, "repl-diskless-sync-delay 0"))
            for _ in range(nodes if replicas else 0)
        ]

    @property
    def host(self) -> dict[str, Any]:
        """The entry for ``hosts``: one node; the others are discovered."""
        return {"address": self.nodes[0].url, "cluster": True}

    def __enter__(self) -> Self:
        try:
            everyone = [*self.nodes, *self.replicas]
            for node in everyone:
                node.start()
            self._divide()
            for node in everyone[1:]:
                self.nodes[0].call("CLUSTER", "MEET", HOST, node.port)
            for node in everyone:
                wait_for_server(
                    lambda n=node: self._is_whole(n), what="the cluster forming"
                )
            self._follow()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _divide(self) -> None:
        share = self.SLOTS // len(self.nodes) + 1
        for number, node in enumerate(self.nodes):
            node.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            first, last = number * share, min((number + 1) * share, self.SLOTS) - 1
            node.call("CLUSTER", "ADDSLOTSRANGE", first, last)

    def _follow(self) -> None:
        for primary, replica in zip(self.nodes, self.replicas, strict=False):
            replica.call("CLUSTER", "REPLICATE", primary.call("CLUSTER", "MYID"))
        for replica in self.replicas:
            wait_for_server(
                lambda r=replica: (
                    b"master_link_status:up" in _raw(r, "INFO", "replication")
                ),
                what="a replica in step",
            )

    def fail_over(self, number: int) -> float:
        """Kill a primary; return the seconds until its replica took over."""
        begun = time.monotonic()
        self.nodes[number].kill()
        heir = self.replicas[number]
        wait_for_server(
            lambda: b"role:master" in _raw(heir, "INFO", "replication"),
            timeout=40,
            what="the replica taking over",
        )
        return time.monotonic() - begun

    def move_slots(self, source: int, target: int) -> None:
        """Move most slots of one node to another, and wait (Valkey 9 and newer)."""
        share = self.SLOTS // len(self.nodes) + 1
        # The node keeps some: one without slots becomes a replica.
        first, last = source * share + 10, min((source + 1) * share, self.SLOTS) - 1
        node, heir = self.nodes[source], self.nodes[target]
        name = heir.call("CLUSTER", "MYID")
        node.call("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", name)
        wait_for_server(
            lambda: all(self._owner(each, last) == name for each in self.nodes),
            what="the slots moving",
        )

    def _owner(self, node: Server, slot: int) -> bytes:
        """Return the id of the node that owns a slot, according to ``node``."""
        for first, last, (_, _, name, *_), *_ in node.call("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return bytes(name)
        return b""

    def _is_whole(self, node: Server) -> bool:
        info = _raw(node, "CLUSTER", "INFO")
        count = len(self.nodes) + len(self.replicas)
        known = f"cluster_known_nodes:{count}".encode()
        return b"cluster_state:ok" in info and known in info

    def flush(self) -> None:
        """Delete all keys."""
        for node in self.nodes:
            node.flush()

    def keys(self) -> set[str]:
        """Return all keys."""
        return set().union(*(node.keys() for node in self.nodes))

    def close(self) -> None:
        """Stop all nodes."""
        for node in (*self.nodes, *self.replicas):
            node.close()


class TlsFront:
    """A TLS proxy for a server: ``front.url``, and the authority in ``front.ca``."""

    def __init__(self, server: Server) -> None:
        self._target = server.port
        self.ca = development_certificate("localhost", server.folder)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.ca)
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"rediss://localhost:{self.port}/0"
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for each in (self._listener, *self._sockets):
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            # Some tests let the handshake fail.
            with contextlib.suppress(OSError):
                outside = self._context.wrap_socket(plain, server_side=True)
                inside = socket.create_connection((HOST, self._target))
                self._sockets += [outside, inside]
                for source, target in ((outside, inside), (inside, outside)):
                    thread = threading.Thread(
                        target=_pump, args=(source, target), daemon=True
                    )
                    self._threads.append(thread)
                    thread.start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _raw(server: Server, *command: str) -> bytes:
    """A reply as the server worded it."""
    client = redis.Redis(host=HOST, port=server.port, password=server.password)
    with client:
        client.set_response_callback(" ".join(command[:2]), lambda reply, **_: reply)
        client.set_response_callback(command[0], lambda reply, **_: reply)
        reply = client.execute_command(*command)
    return reply if isinstance(reply, bytes) else str(reply).encode()


def _pairs(flat: Any) -> dict[str, str]:
    """A reply of alternating names and values, in whatever form redis-py gave it."""

    def text(value: Any) -> str:
        return value.decode() if isinstance(value, bytes) else str(value)

    if isinstance(flat, dict):
        return {text(name): text(value) for name, value in flat.items()}
    return {
        text(name): text(value)
        for name, value in zip(flat[::2], flat[1::2], strict=True)
    }
