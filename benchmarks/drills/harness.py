"""Starts the brokers, sites, clients and the sender of a drill, and stops them at its end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from benchmarks.peers import TOOLS
from support.servers.ports import free_port

from .clients import Member, TopicClient
from .ledger import Ledger, Row
from .processes import Process, Sender, Site
from .websocket import WebSocket

__all__ = ["Harness", "Traffic", "count_leftovers", "crowd", "until"]

T = TypeVar("T")


async def until(condition: Callable[[], object], timeout: float = 20) -> bool:
    """Wait until ``condition()`` is true; return whether it became true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


# Connections of pools and their tasks may stay.
SLACK = 10


async def count_leftovers(
    row: Row, site: Site, before: dict[str, int], *groups: str, timeout: float = 20
) -> None:
    """Add to ``row`` what a process holds beyond ``before`` when it should be idle again.

    Args:
        row: of the drill.
        site: the process.
        before: its earlier measurements.
        groups: those that should have no members.
        timeout: seconds that it may take to get rid of everything.
    """
    deadline = time.monotonic() + timeout
    while True:
        now = await site.measurements()
        grown = {name: now[name] - before[name] for name in ("tasks", "descriptors")}
        left = {name: count for name, count in grown.items() if count > SLACK}
        began, ended = (
            now[name] - before[name] for name in ("connects", "disconnects")
        )
        left["connections"] = began - ended
        left |= {group: await site.get("members", group) for group in groups}
        if not any(left.values()) or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.5)
    row.leaked += sum(abs(count) for count in left.values())
    if any(left.values()):
        row.notes.append(f"left behind: {left}")


async def crowd(path: str, port: int, number: int, **options: Any) -> list[WebSocket]:
    """Open ``number`` sockets, a hundred at a time."""
    sockets: list[WebSocket] = []
    for start in range(0, number, 100):
        opening = (
            WebSocket.open(port, path, **options)
            for _ in range(min(100, number - start))
        )
        sockets += await asyncio.gather(*opening)
    return sockets


class Harness:
    """The parts of one drill on one stack.

    Args:
        name: of the drill.
        stack: ``tiderace`` or ``channels``.
        seconds: how long drills of open length take.
        transactions: how many the drills of the outbox make.
    """

    def __init__(
        self, name: str, stack: str, seconds: float, transactions: int
    ) -> None:
        self.stack = stack
        self.seconds = seconds
        self.transactions = transactions
        self.folder = TOOLS / "drills" / f"{name}-{stack}"
        self.log = self.folder / "log"
        self._exits = contextlib.AsyncExitStack()
        self._spec: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._exits.aclose()

    @property
    def is_tiderace(self) -> bool:
        """Whether topics, and what else Channels does not have, can be used."""
        return self.stack == "tiderace"

    def count_errors(self, row: Row) -> None:
        """Record the errors that the processes have logged as failures."""
        text = self.log.read_text(errors="replace")
        errors = text.count("Traceback (most recent call last)")
        row.require(not errors, f"{errors} tracebacks in {self.log}")

    def enter(self, context: contextlib.AbstractContextManager[T]) -> T:
        """Enter a context until the end of the drill."""
        return self._exits.enter_context(context)

    async def enter_async(
        self, context: contextlib.AbstractAsyncContextManager[T]
    ) -> T:
        """Enter an asynchronous context until the end of the drill."""
        return await self._exits.enter_async_context(context)

    def configure(
        self,
        *hosts: Any,
        layer: Any = None,
        tiderace: Any = None,
        settings: Any = None,
    ) -> None:
        """Set the ``hosts`` and options of the layer, and settings of Tiderace and Django."""
        self._spec = {
            "stack": self.stack,
            "hosts": list(hosts),
            "layer": layer or {},
            "tiderace": tiderace or {},
            "settings": settings or {},
            "folder": str(self.folder),
        }

    async def sites(self, number: int = 2, *options: str) -> list[Site]:
        """Start processes of the site; ``options`` are uvicorn's."""
        sites = [
            Site(self._spec, free_port(), self.log, *options) for _ in range(number)
        ]
        for site in sites:
            self._exits.push_async_callback(site.kill)
        await asyncio.gather(*(site.start() for site in sites))
        return sites

    async def process(self, *command: str) -> Process:
        """Start another Python process with the settings of the site."""
        process = Process(self._spec, list(command), self.log)
        self._exits.push_async_callback(process.kill)
        await process.start()
        return process

    async def tokens(self, number: int) -> list[str]:
        """Return connection tokens of the users 1 to ``number``."""
        process = await self.process("-m", "benchmarks.drills.tokens", str(number))
        tokens: list[str] = json.loads(await process.output())
        return tokens

    async def sender(self, groups: Sequence[str] = (), **orders: Any) -> Sender:
        """Start a sender; see ``sender.py`` for its orders."""
        orders = {"groups": list(groups), "channels": [], "topics": [], **orders}
        sender = Sender(self._spec, orders, self.log)
        self._exits.push_async_callback(sender.kill)
        await sender.start()
        return sender

    async def traffic(
        self,
        sites: Sequence[Site],
        *,
        members: int = 40,
        groups: int = 10,
        clients: int = 20,
        topics: int = 5,
        direct: int = 5,
        rate: float = 200,
        port: Callable[[], int] | None = None,
        **orders: Any,
    ) -> Traffic:
        """Connect members of groups and topic clients, and start a sender.

        Args:
            sites: to which the clients connect in turn.
            members: how many sockets of consumers.
            groups: over how many groups they are distributed.
            clients: how many topic clients; none with Channels.
            topics: over how many topics they are distributed.
            direct: how many further sockets get numbers on their own channel.
            rate: numbers a second over all streams.
            port: returns the port for a connection, instead.
            orders: further ones for the sender.
        """
        if not self.is_tiderace:
            clients = topics = 0
        traffic = Traffic(Ledger())
        self._exits.callback(traffic.close)
        ports = [site.port for site in sites]
        names = [f"group-{number}" for number in range(groups)]
        for number in range(members):
            receiver = traffic.ledger.receiver(names[number % groups])
            turns = itertools.cycle(ports[number % len(ports) :] + ports)
            member = Member(port or turns.__next__, receiver)
            traffic.members.append(member)
            await member.open()
        turns = itertools.cycle(ports)
        for _ in range(direct):
            receiver = traffic.ledger.receiver("")
            member = Member(port or turns.__next__, receiver, direct=True)
            traffic.direct.append(await member.open())
        streams = [f"stream:{number}" for number in range(topics)]
        for number in range(clients):
            receiver = traffic.ledger.receiver(streams[number % topics])
            client = TopicClient(port or turns.__next__, receiver)
            traffic.clients.append(client)
            await client.open()
        channels = [member.receiver.stream for member in traffic.direct]
        traffic.sender = await self.sender(
            names, channels=channels, topics=streams, rate=rate, **orders
        )
        await traffic.wait_for_delivery()
        return traffic


class Traffic:
    """Clients that receive numbers, and the sender of the numbers."""

    sender: Sender

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.members: list[Member] = []
        self.direct: list[Member] = []
        self.clients: list[TopicClient] = []
        self.random = random.Random(3)

    @property
    def reconnecting(self) -> list[Member | TopicClient]:
        """All clients that return when their connection ends."""
        return [*self.members, *self.clients]

    async def wait_for_delivery(self, timeout: float = 10) -> bool:
        """Wait until every connected receiver has got another number."""
        before = [len(receiver.numbers) for receiver in self.ledger.receivers]
        return await until(
            lambda: all(
                len(receiver.numbers) > count or receiver.closed
                for receiver, count in zip(self.ledger.receivers, before, strict=True)
            ),
            timeout,
        )

    async def finish(self, timeout: float = 10) -> Row:
        """Stop sending, wait for what is under way, and sum up."""
        self.ledger.record_sent(await self.sender.stop())
        await until(lambda: not self.ledger.outstanding, timeout)
        for client in self.reconnecting:
            if not client.connected:
                client.receiver.record_report()
        row = self.ledger.row()
        row.notes.append(f"slowest send {self.sender.slowest:.1f} s")
        for topic_client in self.clients:
            gave_up = topic_client.ended
            row.require(not gave_up, f"a topic client gave up: {gave_up}")
        codes: Counter[int] = sum((each.codes for each in self.reconnecting), Counter())
        if codes:
            row.notes.append(f"clients were closed or refused with {dict(codes)}")
        away = [seconds for client in self.clients for seconds in client.away]
        if away:
            row.notes.append(
                f"{len(away)} returns of topic clients, away for at most {max(away):.1f} s"
            )
        return row

    def close(self) -> None:
        """Disconnect everything."""
        for member in (*self.members, *self.direct):
            member.leave()
        for client in self.clients:
            client.close()
