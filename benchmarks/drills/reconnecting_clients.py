"""Topic clients that reconnect and recover, with the delays of a client library."""

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

from .sequence import SequenceCheck

__all__ = ["ReconnectingClients"]

# The shortest and the longest delay before a reconnection, in seconds.
_MIN_DELAY, _MAX_DELAY = 0.5, 20.0


@dataclass
class _Client:
    """One client: its position in its topic, and the check of its messages."""

    check: SequenceCheck
    epoch: str = ""
    offset: int = 0
    joined: bool = False


@dataclass
class ReconnectingClients:
    """Many clients; ``port`` returns the port for the next connection."""

    port: Callable[[], int]
    clients: list[_Client] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    """The times of the reconnections."""
    away: list[float] = field(default_factory=list)
    """The seconds that each client was disconnected."""
    refused: Counter[str] = field(default_factory=Counter)
    """Failed attempts by reason."""
    closes: Counter[int] = field(default_factory=Counter)
    unrecovered: int = 0
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _rng: random.Random = field(default_factory=lambda: random.Random(6))

    async def open(self, topics: Sequence[str], number: int) -> None:
        """Connect ``number`` clients and wait until all have subscribed."""
        for index in range(number):
            client = _Client(SequenceCheck(topics[index % len(topics)]))
            self.clients.append(client)
            self._tasks.append(asyncio.create_task(self._run_client(client)))
            if index % 20 == 19:
                await self._wait_until_joined()
        await self._wait_until_joined()

    async def _wait_until_joined(self) -> None:
        async with asyncio.timeout(60):
            while not all(client.joined for client in self.clients):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def wait_for_last(
        self, published: dict[str, int], *, timeout: float = 20
    ) -> None:
        """Wait until all clients have received the last number, and record the missing."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while any(  # noqa: ASYNC110
                    client.check.next_number < published[client.check.room]
                    for client in self.clients
                ):
                    await asyncio.sleep(0.05)
        for client in self.clients:
            client.check.end(published[client.check.room] - 1)

    def close(self) -> None:
        """Disconnect all clients."""
        for task in self._tasks:
            task.cancel()

    @property
    def busiest(self) -> float:
        """The largest share of the reconnections within one tenth of a second."""
        tenths = Counter(int(moment * 10) for moment in self.returns)
        return max(tenths.values(), default=0) / max(len(self.returns), 1)

    async def _run_client(self, client: _Client) -> None:
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
                        await self._receive(socket, client, frame)
            except websockets.ConnectionClosed as closed:
                self.closes[closed.rcvd.code if closed.rcvd else 1006] += 1
            except websockets.InvalidStatus as refusal:
                self.refused[str(refusal.response.status_code)] += 1
            except (OSError, TimeoutError, websockets.InvalidHandshake) as error:
                self.refused[type(error).__name__] += 1
            left = left or time.monotonic()
            window = min(_MAX_DELAY, _MIN_DELAY * 2**attempt)
            attempt += 1
            await asyncio.sleep(
                min(_MAX_DELAY, _MIN_DELAY + self._rng.uniform(0, window))
            )

    async def _subscribe(self, socket: Any, client: _Client) -> None:
        """Connect and subscribe in one message, and recover the missed publications."""
        request: dict[str, Any] = {"channel": client.check.room}
        if client.epoch:
            request |= {"recover": True, "offset": client.offset, "epoch": client.epoch}
        commands = ({"id": 1, "connect": {}}, {"id": 2, "subscribe": request})
        await socket.send("\n".join(json.dumps(command) for command in commands))
        while not await self._receive(socket, client, await socket.recv()):
            pass

    async def _receive(self, socket: Any, client: _Client, frame: str) -> bool:
        """Process a message; return whether it contains the reply to ``subscribe``."""
        subscribed = False
        for line in frame.splitlines():
            reply = json.loads(line)
            if not reply:
                await socket.send("{}")
            elif error := reply.get("error"):
                raise ConnectionError(f"refused with {error}")
            elif publication := reply.get("push", {}).get("pub"):
                self._record(client, publication)
            elif result := reply.get("subscribe"):
                subscribed = True
                self._resume(client, result)
        return subscribed

    def _resume(self, client: _Client, result: dict[str, Any]) -> None:
        if not client.epoch:
            client.check.joined_at = client.offset = result.get("offset", 0)
        elif not result.get("recovered"):
            self.unrecovered += 1
        client.epoch = result["epoch"]
        for publication in result.get("publications", ()):
            self._record(client, publication)

    def _record(self, client: _Client, publication: dict[str, Any]) -> None:
        client.check.record(publication["data"]["n"])
        client.offset = publication["offset"]
