"""Clients of topics that come back whenever they are sent away, and miss nothing.

They speak the wire as a client library does: the same delays, and recovery from where
they were. They know nothing of why they were sent away.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import websockets

from .sequence import Tally

__all__ = ["Returners"]

# Seconds before the first attempt to come back, and at the most.
_SOONEST, _LATEST = 0.5, 20.0


@dataclass
class _Client:
    """One client: its topic, where it is in it, what it has heard."""

    tally: Tally
    epoch: str = ""
    offset: int = 0
    joined: bool = False


@dataclass
class Returners:
    """Many of them; ``port`` says where the next one has to go."""

    port: Callable[[], int]
    clients: list[_Client] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    """When somebody was back, each time."""
    away: list[float] = field(default_factory=list)
    """How many seconds it took, each time."""
    refused: Counter[str] = field(default_factory=Counter)
    """Attempts in vain, by reason."""
    closes: Counter[int] = field(default_factory=Counter)
    unrecovered: int = 0
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _chance: random.Random = field(default_factory=lambda: random.Random(6))

    async def open(self, topics: Sequence[str], number: int) -> None:
        """Let so many clients come, and wait until all have subscribed."""
        for index in range(number):
            client = _Client(Tally(topics[index % len(topics)]))
            self.clients.append(client)
            self._tasks.append(asyncio.create_task(self._live(client)))
            if index % 20 == 19:
                await self._all_in()
        await self._all_in()

    async def _all_in(self) -> None:
        async with asyncio.timeout(60):
            while not all(client.joined for client in self.clients):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def hear_out(self, published: dict[str, int], *, timeout: float = 20) -> None:
        """Wait until all have heard the last number; note what never came."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while any(  # noqa: ASYNC110 (there is nothing that could tell)
                    client.tally.expects < published[client.tally.room]
                    for client in self.clients
                ):
                    await asyncio.sleep(0.05)
        for client in self.clients:
            client.tally.end(published[client.tally.room] - 1)

    def close(self) -> None:
        """Let all go."""
        for task in self._tasks:
            task.cancel()

    @property
    def busiest(self) -> float:
        """The largest share of the returns that fell into one tenth of a second."""
        tenths = Counter(int(moment * 10) for moment in self.returns)
        return max(tenths.values(), default=0) / max(len(self.returns), 1)

    async def _live(self, client: _Client) -> None:
        attempt, left = 0, 0.0
        while True:
            try:
                async with websockets.connect(
                    f"ws://127.0.0.1:{self.port()}/connection/",
                    compression=None,
                    max_queue=None,
                    ping_interval=None,
                    open_timeout=30,
                ) as socket:
                    await self._subscribe(socket, client)
                    if left:
                        self.returns.append(time.monotonic())
                        self.away.append(time.monotonic() - left)
                    client.joined, attempt, left = True, 0, 0.0
                    async for frame in socket:
                        await self._hear(socket, client, frame)
            except websockets.ConnectionClosed as closed:
                self.closes[closed.rcvd.code if closed.rcvd else 1006] += 1
            except websockets.InvalidStatus as refusal:
                self.refused[str(refusal.response.status_code)] += 1
            except (OSError, TimeoutError, websockets.InvalidHandshake) as error:
                self.refused[type(error).__name__] += 1
            left = left or time.monotonic()
            window = min(_LATEST, _SOONEST * 2**attempt)
            attempt += 1
            await asyncio.sleep(
                min(_LATEST, _SOONEST + self._chance.uniform(0, window))
            )

    async def _subscribe(self, socket: Any, client: _Client) -> None:
        """Connect and subscribe in one frame, as libraries do; take what was missed."""
        asked: dict[str, Any] = {"channel": client.tally.room}
        if client.epoch:
            asked |= {"recover": True, "offset": client.offset, "epoch": client.epoch}
        commands = ({"id": 1, "connect": {}}, {"id": 2, "subscribe": asked})
        await socket.send("\n".join(json.dumps(command) for command in commands))
        while not await self._hear(socket, client, await socket.recv()):
            pass

    async def _hear(self, socket: Any, client: _Client, frame: str) -> bool:
        """Take a frame; whether it said that the client has subscribed."""
        subscribed = False
        for line in frame.splitlines():
            said = json.loads(line)
            if not said:
                await socket.send("{}")
            elif error := said.get("error"):
                raise ConnectionError(f"refused with {error}")
            elif publication := said.get("push", {}).get("pub"):
                self._take(client, publication)
            elif result := said.get("subscribe"):
                subscribed = True
                self._resume(client, result)
        return subscribed

    def _resume(self, client: _Client, result: dict[str, Any]) -> None:
        if not client.epoch:
            client.tally.joined_at = client.offset = result.get("offset", 0)
        elif not result.get("recovered"):
            self.unrecovered += 1
        client.epoch = result["epoch"]
        for publication in result.get("publications", ()):
            self._take(client, publication)

    def _take(self, client: _Client, publication: dict[str, Any]) -> None:
        client.tally.hear(publication["data"]["n"])
        client.offset = publication["offset"]
