"""The load generator: many WebSocket clients in one process that check every delivery.

It knows frames, order and time; nothing of who serves, nor of processor seconds.

What all members of a crowd hear is the same, byte for byte. So only the member that is
ahead reads frames; what it heard is kept as the stream, and the others compare with it:
one ``startswith`` for whatever the socket delivers. A message lost, doubled, changed or
out of order cannot pass, and the generator costs less than the fastest server.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from benchmarks import nats

__all__ = ["TEXT", "Crowd", "Failed", "Latencies", "Script"]

# With its frame a message is about the size of a line of chat.
TEXT = "x" * 120
NUMBER = re.compile(rb'"number": ?(\d+)')
# Seconds without a single delivery after which a run is given up.
PATIENCE = 60


class Failed(Exception):
    """A run is no measurement: something was lost, doubled, late or out of order."""


@dataclass(frozen=True, slots=True)
class Script:
    """What a client says to a site before and around its messages.

    Attributes:
        path: the URL's path.
        greeting: for each text the server sends first, what it starts with, and the
            answer to it ("" for none). Socket.IO has such a handshake of its own.
        envelope: what stands around a message, with ``%s`` in its place.
        nats: whether frames only carry NATS' own protocol, cut into any pieces.
    """

    path: str
    greeting: tuple[tuple[str, str], ...] = ()
    envelope: str = "%s"
    nats: bool = False

    def says(self, text: str) -> bytes:
        """What a client sends so that all hear ``text``."""
        return masked(nats.publication(text) if self.nats else self.envelope % text)

    def hears(
        self, data: bytes | bytearray, start: int
    ) -> tuple[bytes | bytearray, int] | None:
        """The message at ``start`` and where it ends, or None while it is incomplete.

        Raises:
            Failed: for anything else than a message.
        """
        if not self.nats:
            return frame(data, start)
        try:
            return nats.message(data, start)
        except ValueError as error:
            raise Failed(str(error)) from None


@dataclass(slots=True)
class Latencies:
    """Seconds that messages took."""

    seconds: list[float] = field(default_factory=list)

    def quantile(self, share: float) -> float:
        """The seconds that ``share`` of the messages did not exceed."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Stream:
    """What was heard, as bytes, and where in it each message ends."""

    __slots__ = ("data", "ends", "read", "script")

    def __init__(self, script: Script) -> None:
        self.script = script
        self.data = bytearray()
        self.ends: list[int] = []
        self.read = 0

    def extend(self, data: bytes) -> None:
        """Add what the member ahead heard.

        Raises:
            Failed: for a message that is not the next one, or not what was sent.
        """
        self.data += data
        while (found := self.script.hears(self.data, self.read)) is not None:
            payload, end = found
            number = NUMBER.search(payload)
            if number is None or TEXT.encode() not in payload:
                raise Failed(f"not what was sent: {bytes(payload[:80])!r}")
            if int(number[1]) != len(self.ends) + 1:
                raise Failed(f"message {int(number[1])} came after {len(self.ends)}")
            self.ends.append(end)
            self.read = end


def frame(data: bytes | bytearray, start: int) -> tuple[bytes | bytearray, int] | None:
    """The text frame at ``start`` and where it ends, or None while it is incomplete.

    Raises:
        Failed: for anything else than one whole unmasked text message.
    """
    if len(data) < start + 2:
        return None
    if data[start] != 0x81:
        raise Failed(f"not a text frame: {bytes(data[start : start + 20])!r}")
    size, body = data[start + 1], start + 2
    if size == 126:
        size, body = int.from_bytes(data[body : body + 2]), body + 2
    if len(data) < body + size:
        return None
    return data[body : body + size], body + size


def masked(text: str) -> bytes:
    """A client's text frame; the mask is zero, which leaves the text as it is."""
    payload = text.encode()
    if len(payload) < 126:
        return bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload
    return bytes([0x81, 0xFE]) + len(payload).to_bytes(2) + bytes(4) + payload


class Member(asyncio.Protocol):
    """One client."""

    def __init__(self, crowd: Crowd, stream: Stream) -> None:
        self.crowd = crowd
        self.stream = stream
        self.position = 0
        self.heard = 0
        self.inside = False
        # Until it is inside: what came, and how many greetings are over.
        self.buffer = b""
        self.greeted = -1
        self.unpacker = nats.Unpacker() if crowd.script.nats else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are registered as no class of asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        key = base64.b64encode(os.urandom(16)).decode()
        self.transport.write(
            f"GET {self.crowd.script.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        try:
            if not self.inside:
                data = self.enter(data)
            elif self.unpacker is not None:
                data = self.unpacked(self.unpacker, data)
            if not data:
                return
            if self.crowd.deaf:
                return
            stream = self.stream
            end = self.position + len(data)
            if not stream.data.startswith(data, self.position):
                self.lead(data)
            self.position = end
            ends, heard = stream.ends, self.heard
            while heard < len(ends) and ends[heard] <= end:
                heard += 1
                self.crowd.delivered(self, heard)
            self.heard = heard
        except Failed as error:
            self.crowd.fail(error)

    def lead(self, data: bytes) -> None:
        """Hear what nobody has heard before; what others heard must be the same."""
        known = len(self.stream.data) - self.position
        if not self.stream.data.startswith(data[:known], self.position):
            raise Failed(f"a member heard something else after message {self.heard}")
        self.stream.extend(data[known:])

    def enter(self, data: bytes) -> bytes:
        """Go through handshake and greeting; returns what came after them."""
        greeting = self.crowd.script.greeting
        if self.greeted < 0:
            self.buffer += data
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return b""
            if not head.startswith(b"HTTP/1.1 101"):
                raise Failed(f"the handshake was refused: {head[:80]!r}")
            self.buffer, self.greeted = b"", 0
            data = rest
        if self.unpacker is not None:
            self.buffer += self.unpacked(self.unpacker, data)
        else:
            self.buffer += data
        while self.greeted < len(greeting):
            came = self.greeting(self.buffer)
            if came is None:
                return b""
            expected, answer = greeting[self.greeted]
            if not came[0].startswith(expected.encode()):
                raise Failed(f"not the greeting {expected!r}: {came[0][:80]!r}")
            if answer:
                self.transport.write(masked(answer))
            self.buffer, self.greeted = self.buffer[came[1] :], self.greeted + 1
        self.inside = True
        self.crowd.entered()
        return self.buffer

    def greeting(self, data: bytes) -> tuple[bytes | bytearray, int] | None:
        """What the server says before any message, and where it ends."""
        if self.unpacker is None:
            return frame(data, 0)
        line, found, _ = data.partition(b"\r\n")
        return (line, len(line) + 2) if found else None

    def unpacked(self, unpacker: nats.Unpacker, data: bytes) -> bytes:
        try:
            return unpacker.feed(data)
        except ValueError as error:
            raise Failed(str(error)) from None

    def say(self, number: int) -> None:
        text = json.dumps({"number": number, "text": TEXT})
        self.transport.write(self.crowd.script.says(text))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.crowd.leaving:
            self.crowd.fail(Failed(f"a socket was closed: {error}"))


class Crowd:
    """Members that are in the same place; knows when all have heard a message.

    Args:
        script: how to speak to the site.
        ports: where it listens; members are spread over them evenly.
        together: whether all hear what one says; else each hears only itself.
    """

    def __init__(
        self, script: Script, ports: list[int], *, together: bool = True
    ) -> None:
        self.script = script
        self.ports = ports
        self.members: list[Member] = []
        self.leaving = False
        # Whether what comes is neither checked nor counted: not ours.
        self.deaf = False
        self.deliveries = 0
        self._together = together
        self._stream = Stream(script)
        self._missing = 0
        self._done: asyncio.Future[None] | None = None
        self._failure: Failed | None = None
        # By message: how many have still to hear it, and when it was said.
        self._unheard: list[int] = []
        self._said_at: list[float] = []
        self._completed: Callable[[Member, int], None] = _nothing

    async def enter(self, size: int, at_once: int = 64) -> None:
        """Let ``size`` more members in, at most ``at_once`` of them at a time."""
        loop = asyncio.get_running_loop()
        door = asyncio.Semaphore(at_once)
        self._missing = size

        async def connect(number: int) -> None:
            port = self.ports[number % len(self.ports)]
            stream = self._stream if self._together else Stream(self.script)
            async with door:
                _, member = await loop.create_connection(
                    lambda: Member(self, stream), "127.0.0.1", port
                )
            self.members.append(member)

        done = self._start()
        await asyncio.gather(*(connect(number) for number in range(size)))
        await self._finish(done, "to enter")

    async def talk(self, in_flight: int, seconds: float, least: int = 2) -> Latencies:
        """One member speaks, keeping ``in_flight`` messages on their way.

        A message is over when the last member has heard it; then the next one is said.

        Args:
            seconds: how long new messages are said.
            least: how many are said at least.

        Returns:
            For each message, the seconds until the last one heard it.
        """
        latencies = Latencies()
        until = time.perf_counter() + seconds
        last = len(self._said_at) + max(least, in_flight)
        done = self._start()

        def completed(member: Member, number: int) -> None:
            now = time.perf_counter()
            latencies.seconds.append(now - self._said_at[number - 1])
            if now < until or len(self._said_at) < last:
                self._say()
            elif number == len(self._said_at) and not done.done():
                done.set_result(None)

        self._completed = completed
        for _ in range(in_flight):
            self._say()
        await self._finish(done, "to hear a message")
        heard = {member.heard for member in self.members}
        if heard != {len(self._said_at)}:
            raise Failed(f"{len(self._said_at)} were said, but {heard} heard")
        return latencies

    async def echo(self, seconds: float, rate: float | None = None) -> Latencies:
        """Each member speaks and hears itself, for ``seconds``.

        Args:
            rate: messages per second, said in turns by the members whether or not
                the ones before came back; None: each speaks again once it has heard.
        """
        latencies = Latencies()
        said = {member: time.perf_counter() for member in self.members}
        numbers = {member: member.heard for member in self.members}
        until = time.perf_counter() + seconds
        done = self._start()
        outstanding = 0

        def say(member: Member) -> None:
            nonlocal outstanding
            outstanding += 1
            numbers[member] += 1
            said[member] = time.perf_counter()
            member.say(numbers[member])

        def completed(member: Member, number: int) -> None:
            nonlocal outstanding
            outstanding -= 1
            now = time.perf_counter()
            if number == numbers[member]:
                latencies.seconds.append(now - said[member])
            if now < until:
                if rate is None:
                    say(member)
            elif not outstanding and not done.done():
                done.set_result(None)

        self._completed = completed
        if rate is None:
            for member in self.members:
                say(member)
        else:
            await self._in_turns(rate, until, say)
            if not outstanding and not done.done():
                done.set_result(None)
        await self._finish(done, "to hear their own message")
        return latencies

    def leave(self) -> None:
        """Cut all connections at once."""
        self.leaving = True
        for member in self.members:
            member.transport.abort()
        self.members.clear()
        if self._failure:
            raise self._failure

    # What members report

    def entered(self) -> None:
        self._missing -= 1
        if not self._missing and self._done and not self._done.done():
            self._done.set_result(None)

    def delivered(self, member: Member, number: int) -> None:
        self.deliveries += 1
        if not self._together:
            self._completed(member, number)
            return
        if number > len(self._unheard):
            raise Failed(f"message {number} was heard before it was said")
        self._unheard[number - 1] -= 1
        if not self._unheard[number - 1]:
            self._completed(member, number)

    def fail(self, failure: Failed) -> None:
        """End the run; a fault between two measurements is raised by ``leave``."""
        self._failure = self._failure or failure
        if self._done and not self._done.done():
            self._done.set_exception(self._failure)

    def _say(self) -> None:
        self._unheard.append(len(self.members))
        self._said_at.append(time.perf_counter())
        self.members[0].say(len(self._said_at))

    async def _in_turns(
        self, rate: float, until: float, say: Callable[[Member], None]
    ) -> None:
        started, count = time.perf_counter(), 0
        while (now := time.perf_counter()) < until and not self._failure:
            while count < (now - started) * rate:
                say(self.members[count % len(self.members)])
                count += 1
            await asyncio.sleep(0.001)

    def _start(self) -> asyncio.Future[None]:
        self._done = asyncio.get_running_loop().create_future()
        if self._failure:
            self._done.set_exception(self._failure)
        return self._done

    async def _finish(self, done: asyncio.Future[None], what: str) -> None:
        """Wait for ``done`` as long as anything comes in."""
        while not done.done():
            before = self.deliveries, self._missing
            await asyncio.wait([done], timeout=PATIENCE)
            if not done.done() and before == (self.deliveries, self._missing):
                raise Failed(f"{PATIENCE} s passed while nothing came; members {what}")
        self._completed = _nothing
        done.result()


def _nothing(member: Member, number: int) -> None:
    """Nobody waits for what comes now."""
