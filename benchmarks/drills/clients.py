"""The clients of the drills: members of groups, and topic clients that reconnect."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from .ledger import Receiver
from .websocket import Refused, WebSocket

__all__ = ["Member", "TopicClient"]

# The shortest and the longest delay before a reconnection, in seconds.
MIN_DELAY, MAX_DELAY = 0.5, 20.0


class Member:
    """A socket whose consumer has joined a group; it reconnects after a second.

    Args:
        port: returns the port for the next connection.
        receiver: records what it gets; a closed connection is a reported loss.
        direct: whether messages are sent to the consumer's channel, which it has until
            the connection ends, and not to the group.
    """

    socket: WebSocket

    def __init__(
        self, port: Callable[[], int], receiver: Receiver, *, direct: bool = False
    ) -> None:
        self.receiver = receiver
        self.codes: Counter[int] = Counter()
        """Close codes, and HTTP statuses of refusals."""
        self._port = port
        self._direct = direct
        self._joined = asyncio.Event()
        self._returning: asyncio.Task[None] | None = None

    async def open(self) -> Member:
        """Connect and wait until the consumer has joined."""
        self._joined.clear()
        path = f"/group/{'direct' if self._direct else self.receiver.stream}/"
        self.socket = await WebSocket.open(
            self._port(), path, self._receive, self._close
        )
        async with asyncio.timeout(20):
            await self._joined.wait()
        return self

    @property
    def connected(self) -> bool:
        """Whether it has joined the group."""
        return self._joined.is_set() and not self.socket.closed

    def leave(self) -> None:
        """Leave for good."""
        self.receiver.closed = True
        if self._returning is not None:
            self._returning.cancel()
        self.socket.abort()

    def _receive(self, text: bytes) -> None:
        message = json.loads(text)
        if "n" in message:
            self.receiver.record(message["n"])
        elif "gap" in message:
            self.receiver.record_report()
        elif "joined" in message:
            if self._direct:
                self.receiver.stream = message["joined"]
            self._joined.set()

    def _close(self) -> None:
        self.receiver.closed |= self._direct
        if not self.receiver.closed:
            self.codes[self.socket.code or 1006] += 1
            if self._returning is None or self._returning.done():
                self._returning = asyncio.create_task(self._return())

    async def _return(self) -> None:
        while not self.connected:
            await asyncio.sleep(random.uniform(0.5, 1.5))
            try:
                await self.open()
                self.receiver.record_report()
            except Refused as refusal:
                self.codes[refusal.status] += 1
            except (OSError, TimeoutError):
                self.codes[0] += 1


class TopicClient:
    """A client of one topic that reconnects and recovers, as client libraries do.

    Args:
        port: returns the port for the next connection.
        receiver: records what it gets.
        token: a connection token; "" for an anonymous client.
    """

    def __init__(
        self, port: Callable[[], int], receiver: Receiver, token: str = ""
    ) -> None:
        self.receiver = receiver
        self.codes: Counter[int] = Counter()
        """Close codes, HTTP statuses of refusals, and codes of errors."""
        self.away: list[float] = []
        """The seconds of each absence."""
        self.ended = ""
        """Why it does not reconnect."""
        self.publications: list[tuple[str, int, int]] = []
        """Epoch, offset and number of each publication."""
        self.socket: WebSocket | None = None
        self.subscribed = asyncio.Event()
        self._port = port
        self._connect = {"token": token} if token else {}
        self._epoch = ""
        self._offset = 0
        self._attempt = 0
        self._left = 0.0
        self._closed: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether it is subscribed."""
        return self.subscribed.is_set()

    async def open(self) -> TopicClient:
        """Connect and subscribe."""
        self._task = asyncio.create_task(self._run())
        async with asyncio.timeout(30):
            await self.subscribed.wait()
        return self

    def abort(self) -> None:
        """Cut the connection, as a reload of a page does; the client returns."""
        if self.socket is not None:
            self.socket.abort()

    def close(self) -> None:
        """Leave."""
        if self._task is not None:
            self._task.cancel()
        if self.socket is not None and not self.socket.closed:
            self.socket.close()

    async def _run(self) -> None:
        while not self.ended:
            self._closed = asyncio.get_running_loop().create_future()
            try:
                self.socket = await WebSocket.open(
                    self._port(), "/connection/websocket", self._receive, self._close
                )
                self._send({"id": 1, "connect": self._connect}, self._subscribe())
                await self._closed
                self._record_close(self.socket)
            except Refused as refusal:
                self.codes[refusal.status] += 1
            except (OSError, TimeoutError):
                self.codes[0] += 1
            self.subscribed.clear()
            self._left = self._left or time.monotonic()
            await asyncio.sleep(self._delay())

    def _record_close(self, socket: WebSocket) -> None:
        code = socket.code or 1006
        self.codes[code] += 1
        if 3500 <= code < 4000 or 4500 <= code < 5000:
            self._end(f"closed with {code} {socket.reason}")

    def _delay(self) -> float:
        """Return the seconds to wait, as the server asked or with full jitter."""
        reason = self.socket.reason if self.socket else ""
        if reason.startswith("retry-after=") and not self._attempt:
            self._attempt += 1
            return float(reason.partition("=")[2])
        window = min(MAX_DELAY, MIN_DELAY * 2**self._attempt)
        self._attempt += 1
        return MIN_DELAY + random.uniform(0, window)

    def _close(self) -> None:
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)

    def _end(self, why: str) -> None:
        self.ended = why
        self.receiver.closed = True

    def _send(self, *commands: dict[str, Any]) -> None:
        assert self.socket is not None
        self.socket.send("\n".join(json.dumps(command) for command in commands))

    def _subscribe(self) -> dict[str, Any]:
        request: dict[str, Any] = {"channel": self.receiver.stream}
        if self._epoch:
            request |= {"recover": True, "offset": self._offset, "epoch": self._epoch}
        return {"id": 2, "subscribe": request}

    def _receive(self, text: bytes) -> None:
        for line in text.splitlines():
            frame = json.loads(line)
            if not frame:
                self._send({})
            elif "error" in frame:
                self._refused(frame["error"])
            elif "subscribe" in frame:
                self._resume(frame["subscribe"])
            elif "push" in frame:
                self._push(frame["push"])

    def _refused(self, error: dict[str, Any]) -> None:
        self.codes[error["code"]] += 1
        if not error.get("temporary"):
            self._end(f"refused with {error['code']} {error['message']}")
        assert self.socket is not None
        self.socket.abort()

    def _resume(self, result: dict[str, Any]) -> None:
        if not self._epoch or not result.get("recovered"):
            if self._epoch:
                self.receiver.record_report()
            self._offset = result.get("offset", 0)
        self._epoch = result.get("epoch", "")
        for publication in result.get("publications", ()):
            self._record(publication)
        if self._left:
            self.away.append(time.monotonic() - self._left)
        self._left, self._attempt = 0.0, 0
        self.subscribed.set()

    def _push(self, push: dict[str, Any]) -> None:
        if "pub" in push:
            self._record(push["pub"])
        elif "unsubscribe" in push:
            code = push["unsubscribe"]["code"]
            self.codes[code] += 1
            if code < 2500:
                self._end(f"unsubscribed with {code}")
            elif self.socket is not None and not self.socket.closed:
                self._send(self._subscribe())

    def _record(self, publication: dict[str, Any]) -> None:
        self._offset = publication.get("offset", 0)
        number = publication["data"]["n"]
        self.receiver.record(number)
        self.publications.append((self._epoch, self._offset, number))
