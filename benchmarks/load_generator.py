"""The load generator: many WebSocket clients in one process that check every delivery.

All clients of a generator receive the same bytes. So only the client that is ahead
parses frames; its bytes are kept as the reference stream, and the other clients compare
with it: one ``startswith`` for each chunk of a socket. This detects lost, duplicate,
changed and reordered messages, and the generator costs less than the fastest server.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from benchmarks.client_protocols import Script, Unpacker
from benchmarks.frames import RunFailed, masked_frame, parse_frame

__all__ = ["TEXT", "Latencies", "LoadGenerator"]

# A message and its frame are about the size of a line of chat.
TEXT = "x" * 120
NUMBER = re.compile(rb'"number": ?(\d+)')
# Seconds without a delivery after which a run is aborted.
IDLE_TIMEOUT = 60


@dataclass(slots=True)
class Latencies:
    """The latencies of messages, in seconds."""

    seconds: list[float] = field(default_factory=list)

    def quantile(self, share: float) -> float:
        """Return the seconds that ``share`` of the messages did not exceed."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class ReferenceStream:
    """The bytes received so far, and the end of each message in them."""

    __slots__ = ("data", "ends", "read", "script")

    def __init__(self, script: Script) -> None:
        self.script = script
        self.data = bytearray()
        self.ends: list[int] = []
        self.read = 0

    def extend(self, data: bytes) -> None:
        """Add the bytes of the client that is ahead.

        Raises:
            RunFailed: for a message that is not the next one, or differs from the sent one.
        """
        self.data += data
        while (found := self.script.decode(self.data, self.read)) is not None:
            payload, end = found
            number = NUMBER.search(payload)
            if number is None or TEXT.encode() not in payload:
                raise RunFailed(f"not what was sent: {bytes(payload[:80])!r}")
            if int(number[1]) != len(self.ends) + 1:
                raise RunFailed(f"message {int(number[1])} came after {len(self.ends)}")
            self.ends.append(end)
            self.read = end


class Client(asyncio.Protocol):
    """One client, which checks and counts the messages that it receives."""

    def __init__(self, generator: LoadGenerator, stream: ReferenceStream) -> None:
        self.generator = generator
        self.stream = stream
        self.position = 0
        self.received = 0
        self.connected = False
        # During the handshake: the unread bytes, and the number of greetings received.
        self.buffer = b""
        self.handshake_step = -1
        unpacker = generator.script.unpacker
        self.unpacker = None if unpacker is None else unpacker()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop does not register its transports as subclasses of asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self.generator.script.request())

    def data_received(self, data: bytes) -> None:
        try:
            if not self.connected:
                data = self.connect(data)
            elif self.unpacker is not None:
                data = self.unpack(self.unpacker, data)
            if not data:
                return
            if self.generator.unchecked:
                return
            stream = self.stream
            end = self.position + len(data)
            if not stream.data.startswith(data, self.position):
                self.extend_stream(data)
            self.position = end
            ends, received = stream.ends, self.received
            while received < len(ends) and ends[received] <= end:
                received += 1
                self.generator.on_delivered(self, received)
            self.received = received
        except RunFailed as error:
            self.generator.on_failure(error)

    def extend_stream(self, data: bytes) -> None:
        """Add new bytes to the reference stream; the known ones must be the same."""
        known = len(self.stream.data) - self.position
        if not self.stream.data.startswith(data[:known], self.position):
            raise RunFailed(
                f"a client received other bytes after message {self.received}"
            )
        self.stream.extend(data[known:])

    def connect(self, data: bytes) -> bytes:
        """Process the handshake and the greetings, and return the bytes after them."""
        script = self.generator.script
        greeting = script.greeting
        if self.handshake_step < 0:
            self.buffer += data
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return b""
            status = b"HTTP/1.1 200" if script.http else b"HTTP/1.1 101"
            if not head.startswith(status):
                raise RunFailed(f"the handshake was refused: {head[:80]!r}")
            self.buffer, self.handshake_step = b"", 0
            data = rest
            if script.opening and not script.http:
                self.transport.write(masked_frame(script.opening))
        if self.unpacker is not None:
            self.buffer += self.unpack(self.unpacker, data)
        else:
            self.buffer += data
        while self.handshake_step < len(greeting):
            found_greeting = self.greeting(self.buffer)
            if found_greeting is None:
                return b""
            text, end = found_greeting
            expected, answer = greeting[self.handshake_step]
            if not text.startswith(expected.encode()):
                raise RunFailed(f"not the greeting {expected!r}: {text[:80]!r}")
            if answer:
                self.transport.write(masked_frame(answer))
            self.buffer, self.handshake_step = (
                self.buffer[end:],
                self.handshake_step + 1,
            )
        self.connected = True
        self.generator.on_connected()
        return self.buffer

    def greeting(self, data: bytes) -> tuple[bytes | bytearray, int] | None:
        """Return the first greeting in ``data`` and its end, or None."""
        if self.unpacker is None:
            return parse_frame(data, 0)
        return self.generator.script.line(data, 0)

    def unpack(self, unpacker: Unpacker, data: bytes) -> bytes:
        try:
            return unpacker.feed(data)
        except ValueError as error:
            raise RunFailed(str(error)) from None

    def send(self, number: int) -> None:
        self.transport.write(self.generator.script.encode(message(number)))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.generator.closing:
            self.generator.on_failure(RunFailed(f"a socket was closed: {error}"))


class Publisher(asyncio.Protocol):
    """A client that publishes for the others, and gets replies to its commands alone."""

    def __init__(self, generator: LoadGenerator, script: Script) -> None:
        self.generator = generator
        self.script = script
        self.connected = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self.script.request())

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 101"):
            self.transport.write(masked_frame(self.script.opening))
        elif b'"error"' in data or data.startswith(b"HTTP"):
            self.generator.on_failure(RunFailed(f"not published: {data!r}"))
        elif not self.connected:
            self.connected = True
            self.generator.on_connected()

    def send(self, number: int) -> None:
        self.transport.write(self.script.encode(message(number)))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.generator.closing:
            self.generator.on_failure(RunFailed(f"the publisher was closed: {error}"))


def message(number: int) -> str:
    return json.dumps({"number": number, "text": TEXT})


class LoadGenerator:
    """Clients of one site, and the deliveries to them.

    Args:
        script: the protocol of the site.
        ports: the ports of its processes; clients are spread over them evenly.
        shared: whether all clients receive each message; else only its sender does.
    """

    def __init__(
        self, script: Script, ports: list[int], *, shared: bool = True
    ) -> None:
        self.script = script
        self.ports = ports
        self.clients: list[Client] = []
        self.closing = False
        # Whether received messages are neither checked nor counted.
        self.unchecked = False
        self.deliveries = 0
        self._shared = shared
        self._publisher: Publisher | None = None
        self._stream = ReferenceStream(script)
        self._connecting = 0
        self._done: asyncio.Future[None] | None = None
        self._failure: RunFailed | None = None
        # How many clients have not received each message, and when each was sent.
        self._outstanding: list[int] = []
        self._sent_at: list[float] = []
        self._on_complete: Callable[[Client, int], None] = _nothing

    async def connect(self, size: int, at_once: int = 64) -> None:
        """Connect ``size`` more clients, at most ``at_once`` of them concurrently."""
        loop = asyncio.get_running_loop()
        slots = asyncio.Semaphore(at_once)
        self._connecting = size

        async def connect(number: int) -> None:
            port = self.ports[number % len(self.ports)]
            stream = self._stream if self._shared else ReferenceStream(self.script)
            async with slots:
                _, client = await loop.create_connection(
                    lambda: Client(self, stream), "127.0.0.1", port
                )
            self.clients.append(client)

        done = self._begin()
        publishing = self.script.publisher
        if publishing is not None and self._publisher is None:
            self._connecting += 1
            _, self._publisher = await loop.create_connection(
                lambda: Publisher(self, publishing), "127.0.0.1", self.ports[0]
            )
        await asyncio.gather(*(connect(number) for number in range(size)))
        await self._finish(done, "connections")

    async def fan_out(
        self, in_flight: int, seconds: float, least: int = 2
    ) -> Latencies:
        """Send from one client and keep ``in_flight`` messages undelivered.

        When the last client has received a message, the next one is sent.

        Args:
            seconds: how long new messages are sent.
            least: the smallest number of messages to send.

        Returns:
            For each message, the seconds until the last client received it.
        """
        latencies = Latencies()
        until = time.perf_counter() + seconds
        last = len(self._sent_at) + max(least, in_flight)
        done = self._begin()

        def on_complete(client: Client, number: int) -> None:
            now = time.perf_counter()
            latencies.seconds.append(now - self._sent_at[number - 1])
            if now < until or len(self._sent_at) < last:
                self._send()
            elif number == len(self._sent_at) and not done.done():
                done.set_result(None)

        self._on_complete = on_complete
        for _ in range(in_flight):
            self._send()
        await self._finish(done, "messages")
        received = {client.received for client in self.clients}
        if received != {len(self._sent_at)}:
            raise RunFailed(f"{len(self._sent_at)} were sent, but {received} received")
        return latencies

    async def echo(self, seconds: float, rate: float | None = None) -> Latencies:
        """Let each client send messages that the site echoes, for ``seconds``.

        Args:
            rate: messages per second over all clients, sent whether or not the previous
                echoes have arrived; None: each client sends after each echo.
        """
        latencies = Latencies()
        sent_at = {client: time.perf_counter() for client in self.clients}
        numbers = {client: client.received for client in self.clients}
        until = time.perf_counter() + seconds
        done = self._begin()
        outstanding = 0

        def send(client: Client) -> None:
            nonlocal outstanding
            outstanding += 1
            numbers[client] += 1
            sent_at[client] = time.perf_counter()
            client.send(numbers[client])

        def on_complete(client: Client, number: int) -> None:
            nonlocal outstanding
            outstanding -= 1
            now = time.perf_counter()
            if number == numbers[client]:
                latencies.seconds.append(now - sent_at[client])
            if now < until:
                if rate is None:
                    send(client)
            elif not outstanding and not done.done():
                done.set_result(None)

        self._on_complete = on_complete
        if rate is None:
            for client in self.clients:
                send(client)
        else:
            await self._send_at_rate(rate, until, send)
            if not outstanding and not done.done():
                done.set_result(None)
        await self._finish(done, "echoes")
        return latencies

    def close(self) -> None:
        """Abort all connections, and raise the failure if there was one."""
        self.closing = True
        if self._publisher is not None:
            self._publisher.transport.abort()
        for client in self.clients:
            client.transport.abort()
        self.clients.clear()
        if self._failure:
            raise self._failure

    # Called by the clients

    def on_connected(self) -> None:
        self._connecting -= 1
        if not self._connecting and self._done and not self._done.done():
            self._done.set_result(None)

    def on_delivered(self, client: Client, number: int) -> None:
        self.deliveries += 1
        if not self._shared:
            self._on_complete(client, number)
            return
        if number > len(self._outstanding):
            raise RunFailed(f"message {number} was received before it was sent")
        self._outstanding[number - 1] -= 1
        if not self._outstanding[number - 1]:
            self._on_complete(client, number)

    def on_failure(self, failure: RunFailed) -> None:
        """End the run; ``close`` raises a failure between two measurements."""
        self._failure = self._failure or failure
        if self._done and not self._done.done():
            self._done.set_exception(self._failure)

    def _send(self) -> None:
        self._outstanding.append(len(self.clients))
        self._sent_at.append(time.perf_counter())
        sender = self._publisher or self.clients[0]
        sender.send(len(self._sent_at))

    async def _send_at_rate(
        self, rate: float, until: float, send: Callable[[Client], None]
    ) -> None:
        started, count = time.perf_counter(), 0
        while (now := time.perf_counter()) < until and not self._failure:
            while count < (now - started) * rate:
                send(self.clients[count % len(self.clients)])
                count += 1
            await asyncio.sleep(0.001)

    def _begin(self) -> asyncio.Future[None]:
        self._done = asyncio.get_running_loop().create_future()
        if self._failure:
            self._done.set_exception(self._failure)
        return self._done

    async def _finish(self, done: asyncio.Future[None], what: str) -> None:
        """Wait for ``done`` as long as there is progress."""
        while not done.done():
            before = self.deliveries, self._connecting
            await asyncio.wait([done], timeout=IDLE_TIMEOUT)
            if not done.done() and before == (self.deliveries, self._connecting):
                raise RunFailed(f"no {what} for {IDLE_TIMEOUT} s")
        self._on_complete = _nothing
        done.result()


def _nothing(client: Client, number: int) -> None:
    """Ignore a delivery outside a measurement."""
