"""A client that sends ASGI events to an application and records its events.

Unlike the public communicators it reports events and the end of the application
separately, and records events after a close.
"""

from __future__ import annotations

import asyncio
from typing import Any

from support.waiting import PATIENCE, within
from tiderace.server.read_queue import ReadQueue

__all__ = ["Client", "ServerQueue"]


class ServerQueue(ReadQueue):
    """The events of a client of Tiderace's own server, for ``Client``."""

    def __init__(self) -> None:
        super().__init__(_Reading(), 32)  # type: ignore[arg-type]

    def put_nowait(self, event: dict[str, Any]) -> None:
        if event["type"] == "websocket.disconnect":
            self.disconnect(event["code"])
        else:
            self.put(event)


class _Reading:
    """A transport that is read from."""

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False


class Client:
    """One connection to ``application``, which runs as a task from the start.

    Args:
        application: the application.
        events: the queue of the client's events; that of another server by default.
        scope: more of the scope.
    """

    def __init__(
        self, application: Any, *, events: ServerQueue | None = None, **scope: Any
    ) -> None:
        self.scope: dict[str, Any] = {
            "type": "websocket",
            "path": "/ws/",
            "headers": [],
            "client": ("10.0.0.1", 5000),
            **scope,
        }
        self.sent: list[dict[str, Any]] = []
        self.fail_with: BaseException | None = None
        self._news = asyncio.Event()
        self._events: asyncio.Queue[dict[str, Any]] | ServerQueue
        self._events = asyncio.Queue() if events is None else events
        self.task = asyncio.create_task(
            application(self.scope, self._events.get, self._send)
        )
        self.task.add_done_callback(lambda task: self._news.set())

    async def _send(self, event: dict[str, Any]) -> None:
        if self.fail_with is not None:
            raise self.fail_with
        self.sent.append(event)
        self._news.set()

    def say(self, kind: str, **event: Any) -> None:
        """Send one event as the server."""
        self._events.put_nowait({"type": kind, **event})

    def text(self, text: str) -> None:
        """Send text as the client."""
        self.say("websocket.receive", text=text)

    async def connect(self) -> None:
        """Open the socket and wait until it is accepted."""
        self.say("websocket.connect")
        await self.until("websocket.accept")

    async def open(self) -> Client:
        """Connect and return the client."""
        await self.connect()
        return self

    async def until(self, kind: str, count: int = 1) -> dict[str, Any]:
        """Wait for ``count`` events of this kind; return the last of them.

        Raises:
            AssertionError: when the application ends without them.
        """
        async with asyncio.timeout(PATIENCE):
            while True:
                found = [event for event in self.sent if event["type"] == kind]
                if len(found) >= count:
                    return found[count - 1]
                if self.task.done() and not self.task.cancelled():
                    self.task.result()
                assert not self.task.done(), f"ended; it had sent {self.sent}"
                self._news.clear()
                await self._news.wait()

    @property
    def texts(self) -> list[str]:
        """The text messages that were sent."""
        return [event["text"] for event in self.sent if "text" in event]

    @property
    def kinds(self) -> list[str]:
        """The types of all events that were sent."""
        return [event["type"] for event in self.sent]

    async def leave(self, code: int = 1001) -> None:
        """Disconnect, and wait for the application to end without an error."""
        self.say("websocket.disconnect", code=code)
        await self.end()

    async def end(self) -> None:
        """Wait for the end of the application; raise its error."""
        await within(asyncio.wait([self.task]))
        self.task.result()

    async def error(self) -> BaseException:
        """Wait for the application to fail; return its error."""
        await within(asyncio.wait([self.task]))
        error = self.task.exception()
        assert error is not None, f"no error; it had sent {self.sent}"
        return error

    async def cancel(self) -> None:
        """Cancel the application as the server."""
        self.task.cancel()
        await within(asyncio.wait([self.task]))
        assert self.task.cancelled(), f"it ended otherwise: {self.task!r}"
