"""A topic client for tests: JSON frames to and from an ASGI application."""

from __future__ import annotations

import itertools
import json
from collections import deque
from typing import Any

from support.waiting import PATIENCE
from tiderace.asgi import ASGIApp
from tiderace.testing import WebsocketCommunicator


class WireClient:
    """``async with WireClient(app) as client``: connected when the block begins.

    Args:
        app: the ASGI application.
        user: the user of the session.
        connect: fields of the connect command; None leaves it to the test.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        user: Any = None,
        path: str = "/connection/websocket",
        connect: dict[str, Any] | None = {},  # noqa: B006 (read only)
        headers: list[tuple[bytes, bytes]] | None = None,
        subprotocols: list[str] | None = None,
    ) -> None:
        self.socket = WebsocketCommunicator(
            app, path, headers=headers, subprotocols=subprotocols
        )
        if user is not None:
            self.socket.scope["user"] = user
        self._connect = connect
        self._ids = itertools.count(1)
        self._pushes: deque[dict[str, Any]] = deque()
        self._replies: deque[dict[str, Any]] = deque()
        self.pings = 0
        self.connected: dict[str, Any] = {}

    async def __aenter__(self):
        accepted, _ = await self.socket.connect()
        assert accepted
        if self._connect is not None:
            self.connected = await self.ask("connect", **self._connect)
        return self

    async def __aexit__(self, *error):
        await self.socket.disconnect()

    @property
    def id(self) -> str:
        """The client's id, from the reply to connect."""
        return self.connected["connect"]["client"]

    async def say(self, *commands: dict[str, Any]) -> None:
        """Send commands in one message, as they are."""
        await self.socket.send_to("\n".join(json.dumps(each) for each in commands))

    async def ask(self, method: str, /, **request: Any) -> dict[str, Any]:
        """Send a command and return the whole reply."""
        number = next(self._ids)
        await self.say({"id": number, method: request})
        while not self._replies:
            await self._read()
        reply = self._replies.popleft()
        assert reply.pop("id") == number, reply
        return reply

    async def done(self, method: str, /, **request: Any) -> dict[str, Any]:
        """Send a command that must succeed, and return its result."""
        reply = await self.ask(method, **request)
        assert method in reply, reply
        return reply[method]

    async def refused(self, method: str, /, **request: Any) -> int:
        """Send a command that must fail, and return the code of its error."""
        reply = await self.ask(method, **request)
        assert "error" in reply, reply
        return reply["error"]["code"]

    async def subscribe(self, channel: str, **request: Any) -> dict[str, Any]:
        """Subscribe, and return the result."""
        return await self.done("subscribe", channel=channel, **request)

    async def push(self, kind: str | None = None) -> dict[str, Any]:
        """Return the next push, or the next one of this kind."""
        while True:
            while not self._pushes:
                await self._read()
            push = self._pushes.popleft()
            if kind is None or kind in push:
                return push

    async def publications(self, count: int) -> list[Any]:
        """Return the data of the next publications."""
        return [(await self.push("pub"))["pub"]["data"] for _ in range(count)]

    async def quiet(self) -> bool:
        """Return whether no push is left, after a ping so that all before it has arrived."""
        await self.ask("ping")
        return not self._pushes

    async def closed(self) -> tuple[int, str]:
        """Wait until the server closes, and return the code and reason."""
        while True:
            event = await self.socket.receive_output(PATIENCE)
            if event["type"] == "websocket.close":
                return event["code"], event.get("reason", "")
            self._sort(event["text"])

    async def _read(self) -> None:
        event = await self.socket.receive_output(PATIENCE)
        assert event["type"] == "websocket.send", event
        self._sort(event["text"])

    def _sort(self, text: str) -> None:
        for line in text.split("\n"):
            frame = json.loads(line)
            if not frame:
                self.pings += 1
            elif "push" in frame:
                self._pushes.append(frame["push"])
            else:
                self._replies.append(frame)
