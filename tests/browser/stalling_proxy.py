"""A TCP proxy that can fall silent, as a network does: nothing closes, nothing comes.

It knows bytes and nothing of what they mean.
"""

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
    """``with StallingProxy(port) as proxy``: ``proxy.port`` leads to ``port``.

    ``stall()`` swallows what present connections say from then on, both ways; new
    connections are carried as before.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._carriers: set[asyncio.Task[None]] = set()
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
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def stall(self) -> None:
        """Carry no byte more for the connections that are open now."""
        self._generation += 1

    def _call(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._carry, "127.0.0.1", 0)

    async def _end(self) -> None:
        self._server.close()
        for carrier in self._carriers:
            carrier.cancel()
        await asyncio.gather(*self._carriers, return_exceptions=True)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        carrier = asyncio.current_task()
        assert carrier is not None
        self._carriers.add(carrier)
        generation = self._generation
        far_reader, far_writer = await asyncio.open_connection(
            "127.0.0.1", self._target
        )
        try:
            await asyncio.gather(
                self._pour(reader, far_writer, generation),
                self._pour(far_reader, writer, generation),
            )
        finally:
            self._carriers.discard(carrier)
            for end in (writer, far_writer):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()

    async def _pour(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, generation: int
    ) -> None:
        while data := await source.read(65536):
            if generation == self._generation:
                sink.write(data)
                await sink.drain()
        if generation == self._generation:
            sink.close()
