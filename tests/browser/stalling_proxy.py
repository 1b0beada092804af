"""A TCP proxy that can stop forwarding without closing, as a network does."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

__all__ = ["StallingProxy"]

Result = TypeVar("Result")


class StallingProxy:
    """``with StallingProxy(port) as proxy``: ``proxy.port`` is forwarded to ``port``.

    After ``stall()`` the bytes of present connections are dropped, both ways; new
    connections are forwarded.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._tasks: set[asyncio.Task[None]] = set()
        self._generation = 0
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._call(self._listen())
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def stall(self) -> None:
        """Stop forwarding for the connections that are open now."""
        self._generation += 1

    def _call(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._forward, "127.0.0.1", 0)

    async def _close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        generation = self._generation
        target_reader, target_writer = await asyncio.open_connection(
            "127.0.0.1", self._target
        )
        try:
            await asyncio.gather(
                self._copy(reader, target_writer, generation),
                self._copy(target_reader, writer, generation),
            )
        finally:
            self._tasks.discard(task)
            for end in (writer, target_writer):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    async def _copy(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, generation: int
    ) -> None:
        while data := await source.read(65536):
            if generation == self._generation:
                sink.write(data)
                await sink.drain()
        if generation == self._generation:
            sink.close()
