"""Measures clients of topics that connect, that return after a cut, and that are idle.

Each client does what a browser does: it opens a WebSocket with an Origin header through
the middleware of sessions and users, sends ``connect``, waits for the reply, and
subscribes to one of many rooms with a history. It is a visitor without a session.

* Connects: clients that come back with a position, and recover one publication.
* Storm: all clients are cut at once; while they are away and while they come back, each
  room gets publications. Every client has to get all of them, once and in order.
* Idle: the memory of a client, and the processor time for its pings and pongs.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, cast

import msgspec
from websockets.asyncio.client import connect

from benchmarks.contenders import Contender, Server, served
from benchmarks.frames import RunFailed, masked_frame, parse_frame
from benchmarks.plan import Plan
from benchmarks.report import Figure, Question

__all__ = ["QUESTIONS", "run"]

CONTENDER = "tiderace-clients-server"
CONNECTS = Question(
    "topic connects",
    "Topic clients connected and subscribed with recovery per second of server processor "
    "time",
    "per cpu-s",
    baseline=CONTENDER,
)
STORM = Question(
    "topic storm",
    "Seconds until all topic clients that were cut have recovered everything",
    "s",
    more_is_better=False,
    baseline=CONTENDER,
)
MEMORY = Question(
    "topic memory",
    "Resident memory per idle topic client with one topic",
    "KB",
    more_is_better=False,
    baseline=CONTENDER,
)
IDLE = Question(
    "topic idle",
    "Processor time per idle topic client with pings every 25 s",
    "µs per s",
    more_is_better=False,
    baseline=CONTENDER,
)
QUESTIONS = (CONNECTS, STORM, MEMORY, IDLE)
Publish: TypeAlias = Callable[..., Coroutine[Any, Any, None]]
ROOMS = 100
AT_ONCE = 64
# Seconds without progress after which a run is aborted.
TIMEOUT = 60.0
# Publications to each room of a storm: while its clients are away, and while they return.
AWAY = 3
RETURNING = 3
# The pings of a site, and those of a quick run with a tenth of the clients: as many per
# second.
PING = 25.0
QUICK_PING = 2.5
IDLE_CLIENTS = 9000
# The server's own ping, and the answer.
PING_FRAME = b"\x89\x00"
PONG_FRAME = b"\x8a\x80" + bytes(4)


async def run(plan: Plan) -> None:
    ping = QUICK_PING if plan.quick else PING
    for contender in plan.alternate((CONTENDER, "centrifugo")):
        with served(contender) as server:
            await measure_connects(plan, contender, server)
        if plan.has_time(contender, "the storm"):
            with served(contender) as server:
                await measure_storm(plan, contender, server)
        if plan.has_time(contender, "idle clients"):
            with served(contender, ping=ping) as server:
                await measure_idle(plan, contender, server)


async def measure_connects(plan: Plan, contender: Contender, server: Server) -> None:
    size = 1000 if plan.quick else 4000
    crowd = Crowd(contender, server, size + ROOMS)
    try:
        await crowd.open(range(ROOMS))
        async with publisher(contender, server) as publish:
            await publish(1)
        crowd.published += 1
        await crowd.received(range(ROOMS))
        for number in range(ROOMS, ROOMS + size):
            crowd.clients[number].follow(crowd.clients[number % ROOMS].epoch)
        before, started = server.cpu_seconds(), time.perf_counter()
        await crowd.open(range(ROOMS, ROOMS + size))
        await crowd.received(range(ROOMS, ROOMS + size))
        used = server.cpu_seconds() - before
        passed = time.perf_counter() - started
    finally:
        crowd.close()
    case = f"{size:,} clients"
    more = {"per s": size / passed}
    plan.report.add(Figure(CONNECTS.name, contender.name, case, size / used, more))


async def measure_storm(plan: Plan, contender: Contender, server: Server) -> None:
    """Cut all clients, and measure until the last one has recovered.

    All of them open a socket at once; the kernel's queue of a listening socket bounds
    how many are in the handshake.
    """
    size = 1000 if plan.quick else 10_000
    crowd = Crowd(contender, server, size)
    try:
        async with publisher(contender, server) as publish:
            await crowd.open(range(ROOMS))
            await publish(1)
            crowd.published += 1
            await crowd.open(range(ROOMS, size))
            await crowd.received(range(ROOMS))
            before = server.cpu_seconds()
            for client in crowd.clients:
                client.cut()
            crowd.published += AWAY + RETURNING
            started = time.perf_counter()
            await publish(AWAY)
            returning = asyncio.create_task(publish(RETURNING, pause=0.3))
            await crowd.open(range(size), at_once=1000)
            await returning
            await crowd.received(range(size))
            passed = time.perf_counter() - started
            used = server.cpu_seconds() - before
    finally:
        crowd.close()
    case = f"{size:,} clients"
    more = {"cpu-s": used}
    plan.report.add(Figure(STORM.name, contender.name, case, passed, more))


async def measure_idle(plan: Plan, contender: Contender, server: Server) -> None:
    share = PING / QUICK_PING if plan.quick else 1
    size = int(IDLE_CLIENTS / share)
    warm = 2 * ROOMS
    crowd = Crowd(contender, server, warm + size)
    try:
        await crowd.open(range(warm))
        async with publisher(contender, server) as publish:
            await publish(1)
        held = server.resident_bytes()
        await crowd.open(range(warm, warm + size))
        await asyncio.sleep(0.5)
        held = server.resident_bytes() - held
        case = f"{size:,} clients"
        kilobytes = held / size / 1024
        plan.report.add(Figure(MEMORY.name, contender.name, case, kilobytes))
        interval = QUICK_PING if plan.quick else PING
        # Until the first pings of all have come.
        await asyncio.sleep(interval * 1.1)
        pings = crowd.pings
        before, started = server.cpu_seconds(), time.perf_counter()
        await asyncio.sleep(interval * 2)
        used = server.cpu_seconds() - before
        passed = time.perf_counter() - started
        answered = (crowd.pings - pings) / len(crowd.clients) / (passed / interval)
        if not 0.9 < answered < 1.1:
            raise RunFailed(f"{answered:.2f} pings per client and interval")
    finally:
        crowd.close()
    micros = used / passed / (len(crowd.clients) * share) * 1e6
    case = f"{IDLE_CLIENTS:,} clients" + (", scaled" if plan.quick else "")
    plan.report.add(Figure(IDLE.name, contender.name, case, micros))


@asynccontextmanager
async def publisher(contender: Contender, server: Server) -> AsyncIterator[Publish]:
    """Yield a function that publishes ``count`` times to each room, ``pause`` seconds apart.

    The site publishes itself when it is asked to, and a client to Centrifugo. The
    connection is made before a storm, in which it would wait behind the clients.
    """
    address = f"ws://127.0.0.1:{server.ports[0]}"
    ours = contender.name == CONTENDER
    path = "/rooms/" if ours else contender.fan.path
    async with connect(f"{address}{path}", ping_interval=None) as client:
        if not ours:
            await client.send('{"id":1,"connect":{}}')
            await client.recv()

        async def order(count: int, pause: float = 0.0) -> None:
            fields = {"rooms": ROOMS, "count": count, "pause": pause}
            await client.send(json.dumps(fields))
            await client.recv()

        async def publish(count: int, pause: float = 0.0) -> None:
            for _ in range(count):
                await asyncio.sleep(pause)
                for number in range(ROOMS):
                    request = {"channel": f"room:{number}", "data": {"text": "x" * 40}}
                    await client.send(json.dumps({"id": 2, "publish": request}))
            answered = 0
            while answered < count * ROOMS:
                text = str(await client.recv())
                if '"error"' in text:
                    raise RunFailed(f"not published: {text}")
                answered += text.count('"id":')

        yield order if ours else publish


class Crowd:
    """The clients of a run, spread over the rooms."""

    def __init__(self, contender: Contender, server: Server, size: int) -> None:
        self.published = 0
        """The publications of each room that every client has to get."""
        self.pings = 0
        self._port = server.ports[0]
        self._failure: RunFailed | None = None
        self.clients = [
            TopicClient(self, contender.fan.path, f"room:{number % ROOMS}")
            for number in range(size)
        ]

    async def open(self, numbers: Sequence[int], at_once: int = AT_ONCE) -> None:
        """Open the connections of these clients, and wait until they have subscribed."""
        loop = asyncio.get_running_loop()
        slots = asyncio.Semaphore(at_once)

        async def connect_one(client: TopicClient) -> None:
            async with slots:
                done = client.reopen()
                await loop.create_connection(lambda: client, "127.0.0.1", self._port)
                async with asyncio.timeout(TIMEOUT):
                    await done

        await asyncio.gather(*(connect_one(self.clients[each]) for each in numbers))

    async def received(self, numbers: Sequence[int]) -> None:
        """Wait until these clients have received everything.

        Raises:
            RunFailed: when one does not, or got something twice or out of order.
        """
        deadline = time.monotonic() + TIMEOUT
        waiting = [self.clients[each] for each in numbers]
        while waiting := [each for each in waiting if each.offset < self.published]:
            if self._failure is not None:
                raise self._failure
            if time.monotonic() > deadline:
                raise RunFailed(f"{len(waiting)} clients have not got everything")
            await asyncio.sleep(0.005)

    def fail(self, problem: str) -> None:
        self._failure = self._failure or RunFailed(problem)

    def close(self) -> None:
        """Abort all connections, and raise the failure if there was one."""
        for client in self.clients:
            client.cut()
        if self._failure is not None:
            raise self._failure


class TopicClient(asyncio.Protocol):
    """A client of one topic that checks the offsets of what it gets."""

    def __init__(self, crowd: Crowd, path: str, topic: str) -> None:
        self.epoch = ""
        self.offset = 0
        self._crowd = crowd
        self._topic = topic
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\n"
            "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Firefox/128.0\r\n"
            "Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n"
        ).encode()
        self._transport: asyncio.Transport | None = None
        self._data = b""
        self._upgraded = False
        self._subscribed: asyncio.Future[None] | None = None

    def follow(self, epoch: str) -> None:
        """Begin with the position before the first publication of ``epoch``."""
        self.epoch = epoch

    def reopen(self) -> asyncio.Future[None]:
        """Return a future that is done when the next connection has subscribed."""
        self._subscribed = asyncio.get_running_loop().create_future()
        return self._subscribed

    def cut(self) -> None:
        """Abort the connection."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop does not register its transports as subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._data, self._upgraded = b"", False
        self._transport.write(self._request)

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is not None:
            self._fail(f"a socket was closed: {error}")

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        self._data += data
        try:
            self._read()
        except (RunFailed, ValueError, KeyError) as error:
            self._fail(repr(error))

    def _read(self) -> None:
        if not self._upgraded:
            head, found, rest = self._data.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                raise RunFailed(f"a client was turned away: {head[:80]!r}")
            self._data, self._upgraded = rest, True
            self._send('{"id":1,"connect":{}}')
        place = 0
        while True:
            if self._data.startswith(PING_FRAME, place):
                place += len(PING_FRAME)
                cast("asyncio.Transport", self._transport).write(PONG_FRAME)
                continue
            found_frame = parse_frame(self._data, place)
            if found_frame is None:
                break
            payload, place = found_frame
            for line in bytes(payload).split(b"\n"):
                self._take(msgspec.json.decode(line))
        self._data = self._data[place:]

    def _take(self, reply: dict[str, dict[str, dict[str, int]]]) -> None:
        if not reply:
            self._crowd.pings += 1
            self._send("{}")
        elif "connect" in reply:
            self._send(self._subscribe_command())
        elif "subscribe" in reply:
            self._begin(cast("dict[str, object]", reply["subscribe"]))
        elif "push" in reply:
            self._advance(reply["push"]["pub"]["offset"])
        else:
            raise RunFailed(f"a client was turned away: {reply}")

    def _subscribe_command(self) -> str:
        position = {"recover": True, "epoch": self.epoch, "offset": self.offset}
        subscribe = {"channel": self._topic, **(position if self.epoch else {})}
        return json.dumps({"id": 2, "subscribe": subscribe})

    def _begin(self, result: dict[str, object]) -> None:
        recovered = bool(result.get("recovered"))
        if self.epoch and not recovered:
            raise RunFailed(f"a client has lost publications: {result}")
        if not self.epoch:
            self.epoch = str(result["epoch"])
            self.offset = int(cast("int", result.get("offset", 0)))
        for each in cast("list[dict[str, int]]", result.get("publications", [])):
            self._advance(each["offset"])
        if self._subscribed is not None and not self._subscribed.done():
            self._subscribed.set_result(None)

    def _advance(self, offset: int) -> None:
        if offset != self.offset + 1:
            raise RunFailed(f"publication {offset} came after {self.offset}")
        self.offset = offset

    def _send(self, text: str) -> None:
        if self._transport is not None:
            self._transport.write(masked_frame(text))

    def _fail(self, problem: str) -> None:
        self._crowd.fail(problem)
        if self._subscribed is not None and not self._subscribed.done():
            self._subscribed.set_exception(RunFailed(problem))
