"""How much of a core do 1,000 growing answers take, and how soon is a late client there?

Each answer has one subscriber from its beginning; meanwhile others subscribe late. At the
end every text is compared with what was written, byte by byte, and each late subscriber
must have got the whole text so far in the two messages after its command.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import cast

from websockets.asyncio.client import connect

from benchmarks.contenders import Contender, Server, served
from benchmarks.frames import RunFailed, masked_frame, parse_frame
from benchmarks.load_generator import Latencies
from benchmarks.plan import Plan
from benchmarks.report import Figure, Question

__all__ = ["QUESTIONS", "run"]

CONTENDER = "tiderace-growing-server"
CORES = Question(
    "growing",
    "Cores that answers of 50 tokens per second take, each with a subscriber",
    "cores",
    more_is_better=False,
    baseline=CONTENDER,
)
LATE = Question(
    "growing, late",
    "From the subscribe command to the whole text so far",
    "ms",
    more_is_better=False,
    baseline=CONTENDER,
)
QUESTIONS = (CORES, LATE)
RATE = 50
LATE_PAUSE = 0.05
# Seconds for the last delivery after the last token.
TAIL = 10


async def run(plan: Plan) -> None:
    for size in plan.sizes or [1000]:
        for contender in plan.alternate((CONTENDER,)):
            with served(contender) as server:
                await measure(plan, contender, server, size)


async def measure(plan: Plan, contender: Contender, server: Server, size: int) -> None:
    port = server.ports[0]
    tokens = round(plan.seconds * 4) * RATE
    readers = [Reader(number) for number in range(size)]
    late: list[Reader] = []
    try:
        for reader in readers:
            await reader.open(port)
        async with asyncio.timeout(60):
            await asyncio.gather(*(reader.subscribed.wait() for reader in readers))
        before = server.cpu_seconds()
        async with writing(port, size, tokens) as written:
            number = 0
            while not written.done():
                number = (number + 617) % size
                late.append(await subscribed(port, number))
                await asyncio.wait([written], timeout=LATE_PAUSE)
            took = written.result()
            used = server.cpu_seconds() - before
        if took > tokens / RATE * 1.03:
            rate = tokens / took
            raise RunFailed(f"only {rate:.1f} tokens per second and answer were made")
        await verify([*readers, *late], tokens)
        latencies = Latencies()
        latencies.seconds.extend(reader.whole_after() for reader in late)
    finally:
        for reader in [*readers, *late]:
            reader.close()
    case = f"{size:,} answers, {RATE} tokens per s each"
    frames = sum(len(reader.frames) for reader in readers) / took
    more = {"messages per s": frames, "tokens per s": size * tokens / took}
    plan.report.add(Figure(CORES.name, contender.name, case, used / took, more))
    for part, quantile in (("median", 0.5), ("99th percentile", 0.99)):
        value = latencies.quantile(quantile) * 1000
        plan.report.add(Figure(LATE.name, contender.name, f"{case}: {part}", value))


@contextlib.asynccontextmanager
async def writing(
    port: int, answers: int, tokens: int
) -> AsyncIterator[asyncio.Task[float]]:
    """Have the server write the answers, and end them with the block.

    Yields:
        A task that returns the seconds that it took.
    """
    order = {"answers": answers, "rate": RATE, "tokens": tokens}
    url = f"ws://127.0.0.1:{port}/answer/"
    async with connect(url, ping_interval=None) as client:

        async def written() -> float:
            return float(await client.recv())

        await client.send(json.dumps(order))
        task = asyncio.create_task(written())
        try:
            yield task
        finally:
            task.cancel()
        await client.send("end")
        await client.wait_closed()


async def subscribed(port: int, number: int) -> Reader:
    """Return a new subscriber of an answer, when it has the reply."""
    reader = Reader(number)
    await reader.open(port)
    await reader.subscribed.wait()
    return reader


async def verify(readers: list[Reader], tokens: int) -> None:
    """Return when every reader has the whole text of its answer.

    Raises:
        RunFailed: when one does not get it, or gets another text.
    """
    deadline = time.monotonic() + TAIL
    for reader in readers:
        text = "".join(f"{reader.number}-{token} " for token in range(tokens))
        while not reader.ended:
            if time.monotonic() > deadline:
                raise RunFailed("a subscriber has not got the end of its answer")
            await asyncio.sleep(0.05)
        if reader.joined() != text:
            raise RunFailed(f"a subscriber has another text of answer {reader.number}")


class Reader(asyncio.Protocol):
    """A subscriber of one answer, which keeps what it receives."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.subscribed = asyncio.Event()
        self.frames: list[bytes] = []
        self.ended = False
        self._data = b""
        self._asked_at = 0.0
        self._whole_at = 0.0

    async def open(self, port: int) -> None:
        """Connect and subscribe."""
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, "127.0.0.1", port)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(
            b"GET /topics/websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket"
            b"\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
            b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._data.startswith(b"HTTP"):
            head, found, rest = self._data.partition(b"\r\n\r\n")
            if not found:
                return
            assert head.startswith(b"HTTP/1.1 101"), head
            self._data = rest
            self._transport.write(masked_frame('{"id":1,"connect":{}}'))
        place = 0
        while (found_frame := parse_frame(self._data, place)) is not None:
            payload, place = found_frame
            for line in bytes(payload).split(b"\n"):
                self._on_line(line)
        self._data = self._data[place:]

    def _on_line(self, line: bytes) -> None:
        if line.startswith(b'{"id":1,'):
            self._asked_at = time.perf_counter()
            command = {"id": 2, "subscribe": {"channel": f"answer:{self.number}"}}
            self._transport.write(masked_frame(json.dumps(command)))
        elif line.startswith(b'{"id":2,'):
            self.subscribed.set()
        else:
            if not self.frames:
                self._whole_at = time.perf_counter()
            self.frames.append(line)
            is_end = b'"finished"' in line and b'"offset"' in line
            self.ended = self.ended or is_end

    def joined(self) -> str:
        """Return the text of the answer, joined from the appends.

        Raises:
            RunFailed: when an append does not follow, or the end differs from them.
        """
        text = ""
        for number, frame in enumerate(self.frames):
            pub = json.loads(frame)["push"]["pub"]
            position = pub["tags"].get("grow_position")
            part = pub["data"]["text"]
            if position is not None:
                if int(position) != len(text):
                    raise RunFailed(
                        f"an append of answer {self.number} does not follow"
                    )
                text += part
            elif number and part != text:
                raise RunFailed(f"the end of answer {self.number} is another text")
            else:
                text = part
        return text

    def whole_after(self) -> float:
        """Return the seconds from the subscribe command to the whole text so far.

        Raises:
            RunFailed: when the message after the reply was not the whole text.
        """
        pub = json.loads(self.frames[0])["push"]["pub"]
        if "grow_position" in pub["tags"]:
            raise RunFailed("a late subscriber has not got the whole text first")
        return self._whole_at - self._asked_at

    def close(self) -> None:
        self._transport.abort()
