"""Measures memory, Redis, SQLite and PostgreSQL as the layer between processes.

A server, a client that is subscribed to fifty topics with a history, and other processes
that publish. All engines are measured in the same run; the databases write to the disk
what is committed, and Redis keeps all in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import AsyncIterator, Iterator

import redis
from websockets.asyncio.client import ClientConnection, connect

from benchmarks import peers
from benchmarks.contenders import SITES, Contender, Server, served
from benchmarks.databases import OPENERS
from benchmarks.frames import RunFailed
from benchmarks.load_generator import Latencies
from benchmarks.plan import Plan
from benchmarks.report import Figure, Question

__all__ = ["QUESTIONS", "run"]

REDIS = "engine-redis"
LATENCY = Question(
    "engines",
    "From publish() in another process to the client, 500 publications per second",
    "ms",
    more_is_better=False,
    baseline=REDIS,
)
THROUGHPUT = Question(
    "engines, throughput",
    "Publications with a history per second, from 500 tasks of each process",
    "per s",
    baseline=REDIS,
)
CONNECTIONS = Question(
    "engines, connections",
    "Connections of a server's process to its database",
    "connections",
    more_is_better=False,
    baseline=REDIS,
)
LOG = Question(
    "engines, log",
    "What an idle process of a server writes to the log of its database in a minute",
    "kB",
    more_is_better=False,
    baseline=REDIS,
)
QUESTIONS = (LATENCY, THROUGHPUT, CONNECTIONS, LOG)
CONTENDERS = (REDIS, "engine-sqlite", "engine-postgresql", "engine-memory")
TOPICS = 50
RATE = 500
# Seconds without load after which only what repeats is written.
SETTLING = 5


async def run(plan: Plan) -> None:
    for contender in plan.alternate(CONTENDERS):
        with served(contender) as server:
            async with subscribed(server) as client:
                await measure_latency(plan, contender, server, client)
                if contender.layer != "memory":
                    measure_connections(plan, contender, server)
            if contender.layer != "memory":
                await measure_throughput(plan, contender, server)
        if contender.layer in OPENERS and not plan.quick:
            # A log that nothing else has been written to grows by what it gets.
            with served(contender) as server:
                await measure_log(plan, contender, server)


# From publish() to the client


async def measure_latency(
    plan: Plan, contender: Contender, server: Server, client: ClientConnection
) -> None:
    # The first ones open connections and files.
    await latencies(client, contender, server, 0.5)
    found = await latencies(client, contender, server, 2 if plan.quick else 10)
    add(plan, LATENCY, contender, "median", found.quantile(0.5) * 1000)
    add(plan, LATENCY, contender, "99th percentile", found.quantile(0.99) * 1000)
    if contender.layer == "postgresql" and not plan.quick:
        with program(contender, server, "hold", 60) as holding:
            await asyncio.to_thread(wait_until_ready, holding)
            found = await latencies(client, contender, server, 50)
        case = "99th percentile, while a transaction that published is open"
        add(plan, LATENCY, contender, case, found.quantile(0.99) * 1000)


async def latencies(
    client: ClientConnection, contender: Contender, server: Server, seconds: float
) -> Latencies:
    """Publish at a steady rate, and return how long each took to the client.

    Raises:
        RunFailed: when one was lost or came twice.
    """
    if contender.layer == "memory":
        publishing = asyncio.create_task(publish_in_server(server, seconds))
    else:
        publishing = asyncio.create_task(publish_beside(contender, server, seconds))
    try:
        return await receive(client, int(RATE * seconds))
    finally:
        await publishing


async def receive(client: ClientConnection, count: int) -> Latencies:
    found = Latencies()
    received = set()
    while len(found.seconds) < count:
        try:
            async with asyncio.timeout(20):
                text = await client.recv()
        except TimeoutError:
            missing = count - len(found.seconds)
            raise RunFailed(f"{missing} of {count} publications did not come") from None
        now = time.monotonic()
        for line in str(text).splitlines():
            push = json.loads(line)["push"]
            data = push["pub"]["data"]
            # Calls at the same time have no order.
            key = push["channel"], data["number"]
            if key in received:
                raise RunFailed(f"number {key[1]} of {key[0]} came twice")
            received.add(key)
            found.seconds.append(now - data["at"])
    return found


async def publish_in_server(server: Server, seconds: float) -> None:
    async with connect(f"ws://127.0.0.1:{server.ports[0]}/paced/") as client:
        await client.send(json.dumps({"rate": RATE, "seconds": seconds}))
        await client.wait_closed()


async def publish_beside(contender: Contender, server: Server, seconds: float) -> None:
    with program(contender, server, "paced", RATE, seconds) as publisher:
        if await asyncio.to_thread(publisher.wait, 120):
            raise RunFailed("the publishing process failed")


@contextlib.asynccontextmanager
async def subscribed(server: Server) -> AsyncIterator[ClientConnection]:
    """Yield a client that is subscribed to all topics."""
    url = f"ws://127.0.0.1:{server.ports[0]}/topics/"
    async with connect(url, max_queue=None, ping_interval=None) as client:
        commands = [{"id": 1, "connect": {}}]
        commands += [
            {"id": topic + 2, "subscribe": {"channel": f"numbered:{topic}"}}
            for topic in range(TOPICS)
        ]
        await client.send("\n".join(map(json.dumps, commands)))
        answered = 0
        while answered < len(commands):
            answered += len(str(await client.recv()).splitlines())
        yield client


# Publications per second


async def measure_throughput(plan: Plan, contender: Contender, server: Server) -> None:
    count = 2_000 if plan.quick else 20_000
    for case, processes, topics in (
        ("1,000 topics, one process", 1, 1_000),
        ("1,000 topics, four processes", 4, 1_000),
        ("one topic, one process", 1, 1),
    ):
        if not plan.has_time(contender, case):
            break
        value = await asyncio.to_thread(
            flood, contender, server, processes, count // processes, topics
        )
        add(plan, THROUGHPUT, contender, case, value)


def flood(
    contender: Contender, server: Server, processes: int, count: int, topics: int
) -> float:
    """Publish from processes that begin together; return the publications per second."""
    with contextlib.ExitStack() as running:
        programs = [
            running.enter_context(program(contender, server, "flood", count, topics))
            for _ in range(processes)
        ]
        for each in programs:
            wait_until_ready(each)
        for each in programs:
            print(file=each.stdin, flush=True)
        # The last one ends the measurement.
        seconds = max(float(each.stdout.readline()) for each in programs if each.stdout)
    return processes * count / seconds


# Connections, and what an idle process writes


def measure_connections(plan: Plan, contender: Contender, server: Server) -> None:
    if server.database is not None:
        [process] = server.processes
        count = server.database.connections(process.pid)
    else:
        with redis.Redis.from_url(server.broker["REDIS_URL"]) as client:
            count = len(client.client_list()) - 1
    add(plan, CONNECTIONS, contender, "one process", count)


async def measure_log(plan: Plan, contender: Contender, server: Server) -> None:
    assert server.database is not None
    async with subscribed(server):
        await asyncio.sleep(SETTLING)
        server.database.settle()
        before = server.database.logged_bytes()
        await asyncio.sleep(60)
        written = server.database.logged_bytes() - before
    add(plan, LOG, contender, f"subscribed to {TOPICS} topics", written / 1000)


def add(
    plan: Plan, question: Question, contender: Contender, case: str, value: float
) -> None:
    plan.report.add(Figure(question.name, contender.name, case, value))


# Programs


@contextlib.contextmanager
def program(
    contender: Contender, server: Server, *arguments: str | float
) -> Iterator[subprocess.Popen[str]]:
    """Run a program of the site beside the server; it is killed at the end."""
    process = subprocess.Popen(
        [peers.python("ours"), "engines_site.py", *map(str, arguments)],
        cwd=SITES,
        env=contender.variables(server.broker),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise RunFailed("a publishing process failed")
