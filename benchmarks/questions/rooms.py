"""Measures the processor time of a message to a room of one client.

Each client has a topic with a history to itself, publishes to it and receives what it
has published; the next message follows at once. Or each consumer is alone in its group.
Nothing is shared by two messages, so this is what each one costs by itself.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import cast

import redis

from benchmarks.client_protocols import Script
from benchmarks.contenders import Contender, Server, served
from benchmarks.frames import RunFailed, masked_frame, parse_frame
from benchmarks.load_generator import TEXT, LoadGenerator
from benchmarks.plan import Plan
from benchmarks.report import Figure, Question

__all__ = ["QUESTIONS", "run"]

TOPICS = Question(
    "rooms",
    "Publications per second of server processor time, each client in its own topic",
    "per cpu-s",
    baseline="engine-memory",
)
GROUPS = Question(
    "groups-of-one",
    "Messages per second of server processor time, each consumer in its own group",
    "per cpu-s",
)
BROKER = Question(
    "rooms-broker",
    "Processor time of Redis for one message in a room of one",
    "µs",
    more_is_better=False,
    baseline="engine-redis",
)
QUESTIONS = (TOPICS, GROUPS, BROKER)
ENGINES = ("engine-memory", "engine-redis", "engine-sqlite", "engine-postgresql")
CENTRIFUGO = ("centrifugo", "centrifugo-redis")
CONSUMERS = ("channels", "tiderace-server", "tiderace-redis-server")
QUICK = ("engine-memory", "engine-redis", "tiderace-redis-server", *CENTRIFUGO)
ROOMS = 200
GROUP = Script("/room/")
TOPIC = Script("/topics/")
IDLE_TIMEOUT = 30  # seconds without a publication after which a run is aborted


async def run(plan: Plan) -> None:
    names = QUICK if plan.quick else ENGINES + CENTRIFUGO + CONSUMERS
    for contender in plan.alternate(names):
        with served(contender) as server:
            if contender.name not in CONSUMERS:
                await measure_topics(plan, contender, server)
            else:
                await measure_groups(plan, contender, server)


async def measure_topics(plan: Plan, contender: Contender, server: Server) -> None:
    script = contender.fan if contender.name in CENTRIFUGO else TOPIC
    rooms = Rooms(server.ports, script)
    try:
        await rooms.connect(ROOMS)
        await rooms.publish(min(plan.seconds, 0.5))
        started = cpu_seconds(server)
        count = await rooms.publish(plan.seconds)
        add(plan, TOPICS, contender, count, started, cpu_seconds(server))
    finally:
        rooms.close()


async def measure_groups(plan: Plan, contender: Contender, server: Server) -> None:
    generator = LoadGenerator(GROUP, server.ports, shared=False)
    try:
        await generator.connect(ROOMS)
        await generator.echo(min(plan.seconds, 0.5))
        started, before = cpu_seconds(server), generator.deliveries
        await generator.echo(plan.seconds)
        count = generator.deliveries - before
        add(plan, GROUPS, contender, count, started, cpu_seconds(server))
    finally:
        generator.close()


def add(
    plan: Plan,
    question: Question,
    contender: Contender,
    count: int,
    started: tuple[float, float],
    ended: tuple[float, float],
) -> None:
    server, broker = (end - start for start, end in zip(started, ended, strict=True))
    case, name = f"{ROOMS} rooms", contender.name
    plan.report.add(Figure(question.name, name, case, count / server))
    if broker:
        kind = "a topic with history" if question is TOPICS else "a group"
        plan.report.add(Figure(BROKER.name, name, kind, broker / count * 1e6))


def cpu_seconds(server: Server) -> tuple[float, float]:
    """Return the processor seconds so far of the server, and of its Redis; 0 for none."""
    url = server.broker.get("REDIS_URL")
    if url is None:
        return server.cpu_seconds(), 0.0
    with redis.Redis.from_url(url) as client:
        used = client.info("cpu")
    return server.cpu_seconds(), used["used_cpu_user"] + used["used_cpu_sys"]


class Room(asyncio.Protocol):
    """A client of the topics, which checks that it receives each of its publications.

    Args:
        rooms: all of them.
        number: of its topic.
    """

    def __init__(self, rooms: Rooms, number: int) -> None:
        self.rooms = rooms
        self.topic = f"room:{number}"
        self.buffer = b""
        # Commands are numbered from 1: connect, subscribe, and the publications.
        self.sent = 0
        self.answered = 0
        self.received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop does not register its transports as subclasses of asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self.rooms.script.request())

    def data_received(self, data: bytes) -> None:
        try:
            self.read(self.buffer + data)
        except RunFailed as error:
            self.rooms.fail(error)

    def read(self, data: bytes) -> None:
        if not self.sent:
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self.buffer = head
                return
            if not head.startswith(b"HTTP/1.1 101"):
                raise RunFailed(f"the handshake was refused: {head[:80]!r}")
            self.command("connect", {})
            self.command("subscribe", {"channel": self.topic})
        position = 0
        while (found_frame := parse_frame(data, position)) is not None:
            payload, position = found_frame
            for line in bytes(payload).splitlines():
                self.check(json.loads(line))
        self.buffer = data[position:]

    def check(self, reply: dict[str, object]) -> None:
        """Check one reply or push: each has to be the next one."""
        if reply.get("id") == self.answered + 1 and "error" not in reply:
            self.answered += 1
            if self.answered == 2:
                self.rooms.connected()
        elif "push" in reply:
            push = cast("dict[str, dict[str, object]]", reply["push"])
            expected = {"number": self.received + 1, "text": TEXT}
            if push["pub"]["data"] != expected or push["pub"]["offset"] != (
                self.received + 1
            ):
                raise RunFailed(f"{self.received + 1} was sent, not {push}")
            self.received += 1
        else:
            raise RunFailed(f"{reply} came after command {self.answered}")
        if self.answered == self.sent == self.received + 2:
            self.rooms.delivered(self)

    def publish(self) -> None:
        data = {"number": self.sent - 1, "text": TEXT}
        self.command("publish", {"channel": self.topic, "data": data})

    def command(self, name: str, request: dict[str, object]) -> None:
        self.sent += 1
        text = json.dumps({"id": self.sent, name: request})
        self.transport.write(masked_frame(text))

    def connection_lost(self, error: Exception | None) -> None:
        self.rooms.fail(RunFailed(f"a socket was closed: {error}"))


class Rooms:
    """Clients of the topics, each alone in its topic.

    Args:
        ports: of the servers, over which they are spread.
        script: with the path of the servers.
    """

    def __init__(self, ports: list[int], script: Script) -> None:
        self.script = script
        self._ports = ports
        self._rooms: list[Room] = []
        self._waiting = 0
        self._delivered = 0
        self._until = 0.0
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closing = False

    async def connect(self, count: int) -> None:
        """Connect and subscribe ``count`` clients."""
        loop = asyncio.get_running_loop()
        self._waiting = count
        for number in range(count):
            _, room = await loop.create_connection(
                lambda number=number: Room(self, number),  # type: ignore[misc]
                "127.0.0.1",
                self._ports[number % len(self._ports)],
            )
            self._rooms.append(room)
        await self._finish()

    async def publish(self, seconds: float) -> int:
        """Let all clients publish for ``seconds``; return the number of publications.

        Raises:
            RunFailed: when one was lost, changed, doubled or refused.
        """
        self._done = asyncio.get_running_loop().create_future()
        before, self._waiting = self._delivered, len(self._rooms)
        self._until = time.perf_counter() + seconds
        for room in self._rooms:
            room.publish()
        await self._finish()
        return self._delivered - before

    def close(self) -> None:
        """Abort all connections."""
        self._closing = True
        for room in self._rooms:
            room.transport.abort()

    def connected(self) -> None:
        """Note that a client is subscribed."""
        self._end_one()

    def delivered(self, room: Room) -> None:
        """Note that a client has received its publication, and let it publish again."""
        if room.sent == 2:
            return
        self._delivered += 1
        if time.perf_counter() < self._until:
            room.publish()
        else:
            self._end_one()

    def fail(self, failure: RunFailed) -> None:
        """End the run."""
        if not self._closing and not self._done.done():
            self._done.set_exception(failure)

    def _end_one(self) -> None:
        self._waiting -= 1
        if not self._waiting and not self._done.done():
            self._done.set_result(None)

    async def _finish(self) -> None:
        """Wait for all clients as long as there is progress."""
        while not self._done.done():
            before = self._delivered, self._waiting
            await asyncio.wait([self._done], timeout=IDLE_TIMEOUT)
            if not self._done.done() and before == (self._delivered, self._waiting):
                raise RunFailed(f"no progress in rooms for {IDLE_TIMEOUT} s")
        self._done.result()
