"""One drill of the outbox: a database, a layer, and what is killed meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.drills.clients import TopicClient
from benchmarks.drills.harness import Harness, until
from benchmarks.drills.ledger import Receiver, Row

from . import servers
from .forks import Child, Forks
from .servers import Database, Killable
from .writer import WRITER, count_records, read_record

__all__ = ["run"]

WRITERS, RELAYS, TOPICS = 2, 2, 20

# Transactions a second, of all writers.
RATE = 100.0

# A relay that is killed is followed by another after five to six seconds, so a fifth of
# what is killed are relays.
RELAY_SHARE = 5

MIGRATE = """
from benchmarks.drills import site
from django.core.management import call_command
call_command("migrate", verbosity=0)
"""


class Subscriber(Receiver):
    """Records what arrives at a client, and when.

    Each topic has publications of all writers; the order is that of each writer.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.times: dict[int, float] = {}
        self._last: Counter[int] = Counter()

    def record(self, number: int) -> None:
        """Record a received number."""
        if number in self.times:
            self.doubled += 1
            return
        self.times[number] = time.monotonic()
        writer = number // WRITER
        self.disordered += number < self._last[writer]
        self._last[writer] = max(self._last[writer], number)


class _Trial:
    """The processes of a drill, and how they are killed and followed."""

    def __init__(
        self, harness: Harness, database: Database, killable: Mapping[str, Killable]
    ) -> None:
        self._harness = harness
        self._database = database
        self._servers = killable
        self._kills = max(harness.transactions // 100, 2)
        self._writers: dict[int, Child] = {}
        self._relays: list[Child] = []
        self.killed: Counter[str] = Counter()
        self.random = random.Random(11)

    async def start(self, forks: Forks, topics: Sequence[str]) -> None:
        """Start writers and relays."""
        self._forks, self._topics = forks, topics
        for number in range(1, WRITERS + 1):
            await self._start_writer(number)
        for _ in range(RELAYS):
            self._relays.append(await forks.start({"relay": {}}))

    def records(self) -> dict[int, float]:
        """Return all transactions that were about to end, with the time of that."""
        return {
            number: moment
            for writer in range(1, WRITERS + 1)
            for number, moment in read_record(self._record(writer))
        }

    async def kill_all(self) -> None:
        """Kill as often as is wanted, then let the writers end."""
        share = self._kills // RELAY_SHARE
        rest = self._kills - share
        others: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._kill_relay, share)
        ]
        if self._servers:
            others.append((self._kill_server, rest // 2))
            rest -= rest // 2
        others.append((self._kill_writer, rest))
        async with asyncio.TaskGroup() as group:
            for kill, times in others:
                group.create_task(self._repeat(kill, times))
        await self._until_made(self._harness.transactions)
        for writer in self._writers.values():
            await writer.stop()

    async def _repeat(self, kill: Callable[[], Awaitable[None]], times: int) -> None:
        """Kill in step with the transactions, so that the last ones are disturbed too."""
        for done in range(times):
            wanted = self._harness.transactions * done / times
            await self._until_made(wanted)
            await kill()

    async def _until_made(self, transactions: float) -> None:
        """Wait until this many transactions were about to end."""
        files = [self._record(writer) for writer in range(1, WRITERS + 1)]
        await until(
            lambda: sum(map(count_records, files)) >= transactions,
            60 + self._harness.transactions,
        )

    async def _kill_writer(self) -> None:
        await asyncio.sleep(self.random.uniform(0.1, 4))
        number = self.random.randint(1, WRITERS)
        assert await self._writers[number].kill(), "a writer has ended"
        self.killed["writer"] += 1
        await self._start_writer(number)

    async def _kill_server(self) -> None:
        await asyncio.sleep(self.random.uniform(0.1, 5))
        name = self.random.choice(list(self._servers))
        server = self._servers[name]
        await asyncio.to_thread(server.kill)
        self.killed[name] += 1
        await asyncio.sleep(self.random.choice([0, self.random.uniform(0, 1.5)]))
        await asyncio.to_thread(server.start)

    async def _kill_relay(self) -> None:
        """Kill the relay that is at work, within the first second of its work."""
        leader = None
        while leader is None:
            await asyncio.sleep(0.1)
            leader = await self._find_leader()
        await asyncio.sleep(self.random.uniform(0, 1))
        assert await leader.kill(), "a relay has ended"
        self.killed["relay"] += 1
        self._relays.remove(leader)
        self._relays.append(await self._forks.start({"relay": {}}))

    async def _find_leader(self) -> Child | None:
        fetch = self._database.fetch
        rows = await asyncio.to_thread(fetch, "SELECT holder FROM tiderace_relay_lease")
        for child in self._relays:
            if rows and f":{child.pid}:" in rows[0][0]:
                return child
        return None

    async def _start_writer(self, number: int) -> None:
        order = {
            "number": number,
            "topics": self._topics,
            "path": str(self._record(number)),
            "rate": RATE / WRITERS,
        }
        self._writers[number] = await self._forks.start({"writer": order})

    def _record(self, writer: int) -> Path:
        return self._harness.folder / f"writer-{writer}"


async def run(harness: Harness, *, database: str, layer: str) -> Row:
    """Run a drill.

    Args:
        harness: of the drill.
        database: of the site, ``sqlite`` or ``postgresql``.
        layer: ``redis``, or ``database`` for the engine over the site's database.

    Raises:
        Unavailable: when a server is not installed.
    """
    site = harness.enter(getattr(servers, database)(harness.folder))
    killable = dict(site.servers)
    backend: dict[str, Any] = {
        "BACKEND": "tiderace.layers.database.DatabaseChannelLayer"
    }
    if layer == "redis":
        broker = harness.enter(servers.redis())
        killable["Redis"] = broker
        backend = {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": [broker.url]},
        }
    settings = {
        "DATABASES": {"default": site.settings},
        "CHANNEL_LAYERS": {"default": backend},
        "INSTALLED_APPS": [
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "tiderace.layers.database",
            "tiderace.outbox",
            "tiderace",
        ],
    }
    harness.configure(tiderace={"RELAY_IN_SERVERS": False}, settings=settings)
    await (await harness.process("-c", MIGRATE)).output()
    (server,) = await harness.sites(1)
    topics = [f"stream:{number}" for number in range(TOPICS)]
    receivers = [Subscriber(topic) for topic in topics]
    clients = [
        await TopicClient(lambda: server.port, each).open() for each in receivers
    ]
    forks = Forks(await harness.process("-m", "benchmarks.drills.outbox.forks"))
    trial = _Trial(harness, site, killable)
    try:
        await trial.start(forks, topics)
        await trial.kill_all()
        saved = {int(name) for (name,) in site.fetch("SELECT name FROM auth_group")}
        await until(lambda: _arrived(receivers) >= saved, 60)
        await until(lambda: not site.fetch("SELECT id FROM tiderace_outbox"), 10)
        for client in clients:
            client.close()
        return _judge(trial, receivers, site, saved)
    finally:
        await forks.close()


def _arrived(receivers: Sequence[Subscriber]) -> set[int]:
    return set().union(*(each.times for each in receivers))


def _judge(
    trial: _Trial, receivers: Sequence[Subscriber], site: Database, saved: set[int]
) -> Row:
    records = trial.records()
    times = {number: at for each in receivers for number, at in each.times.items()}
    lost = saved - set(times)
    row = Row(
        sent=len(records),
        received=len(times),
        lost=len(lost),
        silent=len(lost),
        doubled=sum(each.doubled for each in receivers),
        disordered=sum(each.disordered for each in receivers),
        reported=sum(len(each.reports) for each in receivers),
        leaked=len(site.fetch("SELECT id FROM tiderace_outbox")),
    )
    never = set(times) - saved
    row.require(not never, f"{len(never)} publications that were rolled back arrived")
    early = [n for n, at in times.items() if n in records and at < records[n]]
    row.require(not early, f"{len(early)} publications came before their commit")
    killed = ", ".join(f"{name} {count}" for name, count in trial.killed.items())
    undone = len(records) - len(saved)
    row.notes.append(f"{trial.killed.total()} kills ({killed}), {undone} rolled back")
    return row
