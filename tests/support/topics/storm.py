"""A storm: clients disconnect, reconnect, read slowly and leave during publications.

Each visitor records what one client got, and checks that nothing is missing, doubled or
out of order without a reported loss.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from support.waiting import PATIENCE
from tiderace.testing import WebsocketCommunicator

__all__ = ["InProcess", "OverTheNetwork", "Storm", "Visitor"]

# Codes with which the server says that a client has missed, or may miss, something.
SIGNALLED = {3008, 3010}


class InProcess:
    """A socket of an application in this process, whose client may stop reading."""

    def __init__(self, app: Any, visitor: Visitor) -> None:
        self._visitor = visitor
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.reading = asyncio.Event()
        self.reading.set()
        scope = WebsocketCommunicator(app, "/connection/websocket").scope
        self._incoming.put_nowait({"type": "websocket.connect"})
        self._serving = asyncio.create_task(app(scope, self._incoming.get, self._send))

    async def _send(self, event: dict[str, Any]) -> None:
        if event["type"] == "websocket.send":
            await self.reading.wait()
            self._visitor.receive(self, event["text"])
        elif event["type"] == "websocket.close":
            self._visitor.closed(self, event["code"])

    async def say(self, text: str) -> None:
        self._incoming.put_nowait({"type": "websocket.receive", "text": text})

    async def drop(self) -> None:
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": 1006})
        await self._serving


class OverTheNetwork:
    """A socket of a server."""

    def __init__(self, connection: Any, visitor: Visitor) -> None:
        self._connection = connection
        self._visitor = visitor
        self.reading = asyncio.Event()
        self.reading.set()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, url: str, visitor: Visitor) -> OverTheNetwork:
        return cls(await connect(f"{url}/connection/websocket"), visitor)

    async def _read(self) -> None:
        try:
            while True:
                text = await self._connection.recv()
                await self.reading.wait()
                self._visitor.receive(self, text)
        except ConnectionClosed as closed:
            self._visitor.closed(self, closed.rcvd.code if closed.rcvd else 1006)

    async def say(self, text: str) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self._connection.send(text)

    async def drop(self) -> None:
        self._connection.transport.abort()
        self.reading.set()
        await self._reader
        await self._connection.wait_closed()


class Visitor:
    """One client, and the record of what it got.

    Args:
        open_socket: makes another socket for this visitor.
        topic: the topic that it subscribes to.
        chance: the source of its decisions.
    """

    def __init__(
        self,
        open_socket: Callable[[Visitor], Awaitable[Any]],
        topic: str,
        chance: random.Random,
    ) -> None:
        self._open_socket = open_socket
        self._topic = topic
        self._chance = chance
        self._ids = itertools.count(1)
        self._asked: dict[int, tuple[dict[str, Any], asyncio.Future[Any]]] = {}
        self._socket: Any = None
        self.subscribed = False
        # The position, as reported by the server.
        self.epoch = ""
        self.offset: int | None = None
        # All received publications, by position.
        self.heard: dict[tuple[str, int], Any] = {}
        # The losses reported by the server.
        self.signals: list[str] = []
        # The number of recoveries without a loss.
        self.recovered = 0
        # Errors; an exception here would count as one of the server.
        self.problems: list[AssertionError] = []

    # Pushes

    def receive(self, socket: Any, text: str) -> None:
        if socket is not self._socket:
            return  # sent before the socket was dropped
        for line in text.split("\n"):
            try:
                self._read(json.loads(line))
            except AssertionError as problem:
                self.problems.append(problem)

    def _read(self, frame: dict[str, Any]) -> None:
        if "push" in frame:
            self._hear(frame["push"])
        elif frame:
            asked, answer = self._asked.pop(frame["id"])
            try:
                if "subscribe" in asked:
                    self._begin(asked["subscribe"], frame)
            finally:
                if not answer.done():
                    answer.set_result(frame)

    def _hear(self, push: dict[str, Any]) -> None:
        if "pub" in push:
            assert self.subscribed, "it hears what it is not subscribed to"
            self._take(push["pub"])
        elif "unsubscribe" in push:
            code = push["unsubscribe"]["code"]
            assert code == 2500, push
            self.signals.append(f"unsubscribe {code}")
            self.subscribed = False

    def _take(self, pub: dict[str, Any]) -> None:
        assert self.offset is not None
        assert pub["offset"] == self.offset + 1, (pub["offset"], self.offset)
        self.offset = pub["offset"]
        self.heard[self.epoch, self.offset] = pub["data"]

    def _begin(self, asked: dict[str, Any], frame: dict[str, Any]) -> None:
        if "error" in frame:
            assert frame["error"]["code"] in (100, 112), frame
            if frame["error"]["code"] == 112:
                assert asked.get("recover"), "refused what it has not asked for"
                self.signals.append("error 112")
                self.offset = None
            return
        answer = frame["subscribe"]
        offset, epoch = answer.get("offset", 0), answer["epoch"]
        self.subscribed = True
        if asked.get("recover") and answer.get("recovered"):
            assert (offset, epoch) == (self.offset, self.epoch)
            self.recovered += 1
            for pub in answer.get("publications", ()):
                self._take(pub)
            return
        assert "publications" not in answer, "a part of what was missed"
        if asked.get("recover"):
            self.signals.append("recovered false")
        self.offset, self.epoch = offset, epoch

    def closed(self, socket: Any, code: int) -> None:
        if socket is not self._socket:
            return
        if code not in SIGNALLED:
            self.problems.append(AssertionError(f"closed with {code}"))
        self.signals.append(f"close {code}")
        self._gone()

    def _gone(self) -> None:
        self._socket, self.subscribed = None, False
        asked, self._asked = self._asked, {}
        for _, answer in asked.values():
            if not answer.done():
                answer.set_result(None)

    # Commands

    async def ask(self, **command: Any) -> Any:
        """Return the reply; None when the socket is closed first."""
        if self._socket is None:
            return None
        number = next(self._ids)
        answer = asyncio.get_running_loop().create_future()
        self._asked[number] = command, answer
        await self._socket.say(json.dumps({"id": number, **command}))
        async with asyncio.timeout(PATIENCE):
            return await answer

    async def connect(self) -> None:
        """Connect and subscribe, unless subscribed."""
        if self._socket is None:
            self._socket = await self._open_socket(self)
            await self.ask(connect={})
        if self._socket is not None and not self.subscribed:
            request: dict[str, Any] = {"channel": self._topic}
            if self.offset is not None:
                request |= {
                    "recover": True,
                    "offset": self.offset,
                    "epoch": self.epoch,
                    "flag": self._chance.choice([0, 2]),
                }
            await self.ask(subscribe=request)

    async def drop(self) -> None:
        """Drop the socket without a close frame."""
        socket = self._socket
        if socket is not None:
            self._gone()
            await socket.drop()

    async def unsubscribe(self) -> None:
        """Unsubscribe; the server may unsubscribe the client first."""
        if self.subscribed and await self.ask(unsubscribe={"channel": self._topic}):
            self.subscribed = False

    def doze(self) -> None:
        """Stop reading until the next command."""
        if self._socket is not None:
            self._socket.reading.clear()

    def wake(self) -> None:
        if self._socket is not None:
            self._socket.reading.set()

    async def live(self, rounds: int) -> None:
        """Run random actions."""
        for _ in range(rounds):
            if self.problems:
                return
            await self.connect()
            match self._chance.choice(["drop", "drop", "leave", "doze", "speak", "go"]):
                case "drop":
                    await self.drop()
                case "leave":
                    await self.unsubscribe()
                case "doze":
                    self.doze()
                    await pause(self._chance, 100)
                case "speak" if self.subscribed:
                    data = f"{id(self)}-{next(self._ids)}"
                    await self.ask(publish={"channel": self._topic, "data": data})
            await pause(self._chance, 12)
            self.wake()

    async def arrive(self, end: tuple[str, int]) -> None:
        """Read up to the end of the stream; resubscribe as often as needed."""
        async with asyncio.timeout(PATIENCE):
            while (self.epoch, self.offset) != end or not self.subscribed:
                if self.problems:
                    return
                await self.connect()
                await pause(self._chance, 12)


async def pause(chance: random.Random, turns: int) -> None:
    """Let other tasks run for some iterations of the loop."""
    for _ in range(chance.randrange(1, turns)):
        await asyncio.sleep(0)


class Storm:
    """Visitors and publishers together.

    Args:
        seed: of all random decisions.
        topic: the topic.
        open_socket: makes a socket for a visitor.
        publishers: coroutine functions that publish what they get.
        end: returns the end of the stream: epoch and offset.
        havoc: runs now and then.
    """

    def __init__(
        self,
        seed: int,
        topic: str,
        *,
        open_socket: Callable[[Visitor, random.Random], Awaitable[Any]],
        publishers: list[Callable[[Any], Awaitable[Any]]],
        end: Callable[[], Awaitable[tuple[str, int]]],
        havoc: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._chance = random.Random(seed)
        self._publishers = publishers
        self._end = end
        self._havoc = havoc
        self.visitors: list[Visitor] = []
        for _ in range(6):
            chance = random.Random(self._chance.random())
            self.visitors.append(
                Visitor(
                    lambda visitor, chance=chance: open_socket(visitor, chance),
                    topic,
                    chance,
                )
            )

    async def rage(self, *, rounds: int = 20, publications: int = 100) -> None:
        """Run the storm, bring every client to the end of the stream, and check."""
        try:
            # All clients subscribe at the beginning of the stream.
            for visitor in self.visitors:
                await visitor.connect()
            async with asyncio.TaskGroup() as tasks:
                for visitor in self.visitors:
                    tasks.create_task(visitor.live(rounds))
                for number, publish in enumerate(self._publishers):
                    tasks.create_task(self._publish(publish, number, publications))
                if self._havoc is not None:
                    tasks.create_task(self._wreak(self._havoc))
            end = await self._end()
            for visitor in self.visitors:
                await visitor.arrive(end)
        finally:
            for visitor in self.visitors:
                visitor.wake()
                await visitor.drop()
            problems = [each for visitor in self.visitors for each in visitor.problems]
            if problems:
                raise problems[0]
        self._compare()

    async def _publish(self, publish: Any, number: int, count: int) -> None:
        chance = random.Random(self._chance.random())
        for n in range(count):
            await publish(f"{number}-{n}")
            await pause(chance, 4)

    async def _wreak(self, havoc: Callable[[], Awaitable[None]]) -> None:
        chance = random.Random(self._chance.random())
        for _ in range(4):
            await pause(chance, 400)
            await havoc()

    def _compare(self) -> None:
        """Check that all clients got the same, and all of it without a reported loss."""
        all_of_it: dict[tuple[str, int], Any] = {}
        for visitor in self.visitors:
            for place, data in visitor.heard.items():
                assert all_of_it.setdefault(place, data) == data
        for visitor in self.visitors:
            assert visitor.offset is not None
            if not {"recovered false", "error 112"} & set(visitor.signals):
                offsets = [offset for _, offset in visitor.heard]
                assert offsets == list(range(1, visitor.offset + 1))
