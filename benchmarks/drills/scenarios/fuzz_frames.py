"""Random and broken frames; the parser agrees with websockets and with itself in pieces."""

from __future__ import annotations

import itertools
import random
import time
from typing import Any

from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, SERVER, Protocol

from benchmarks.drills.harness import Harness
from benchmarks.drills.ledger import Row
from tiderace.server.parser import FrameParser, ProtocolError

STACKS = ("tiderace",)

MAX_SIZE = 70_000
SIZES = (0, 1, 2, 7, 125, 126, 127, 200, 65535, 65536, MAX_SIZE, MAX_SIZE + 1)
TEXTS = ("", "plain", "ä€𝄞" * 5, "\u0000", "x" * 300)
CODES = (999, 1000, 1001, 1004, 1005, 1006, 1011, 1016, 2999, 3000, 4999, 5000)


async def drill(harness: Harness) -> Row:
    row, rng = Row(), random.Random(11)
    deadline = time.monotonic() + harness.seconds
    while time.monotonic() < deadline:
        data = b"".join(_message(rng) for _ in range(rng.randint(1, 6)))
        if rng.random() < 0.6:
            data = _damage(data, rng)
        whole, pieces, other = _parse([data]), _parse(_cut(data, rng)), _oracle(data)
        row.sent += 1
        row.received += len(whole) - 1
        if not (whole == pieces and _agree(whole, other, data)):
            (harness.folder / f"input-{row.sent}").write_bytes(data)
            row.failures.append(
                f"input {row.sent}: {whole!r:.200}, in pieces {pieces!r:.200}, "
                f"according to websockets {other!r:.200}"
            )
        if len(row.failures) > 5:
            break
    row.notes.append(f"{row.sent} streams of frames with {row.received} messages")
    return row


def _agree(ours: list[Any], theirs: list[Any], data: bytes) -> bool:
    """Return whether two parsers agree, but for what is known to differ."""
    *events, end = ours
    if end == "error":
        # Tiderace finds an error before the end of its frame or message.
        later = _oracle(data + bytes(2 * MAX_SIZE))
        return theirs[: len(events)] == events and later[-1] == "error"
    if events and events[-1][:1] == ("close",):
        # RFC 6455, 5.4 allows a close frame between fragments; websockets does not.
        return theirs in (ours, [*events[:-1], "error"])
    return theirs == ours


class Recorder:
    """Records what the parser reports."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def text_received(self, text: str) -> None:
        self.events.append(text)

    def bytes_received(self, data: bytes) -> None:
        self.events.append(data)

    def ping_received(self, payload: bytes) -> None:
        self.events.append(("ping", payload))

    def close_received(self, code: int | None, reason: str) -> None:
        self.events.append(("close", code, reason))


def _parse(pieces: list[bytes]) -> list[Any]:
    """Return the events of the parser, and whether it found an error."""
    recorder, parser = Recorder(), FrameParser(MAX_SIZE)
    try:
        for piece in pieces:
            parser.feed(piece, recorder)
    except ProtocolError:
        return [*recorder.events, "error"]
    return [*recorder.events, "fine"]


def _oracle(data: bytes) -> list[Any]:
    """Return the same according to websockets."""
    protocol = Protocol(SERVER, state=OPEN, max_size=MAX_SIZE)
    protocol.receive_data(data)
    events: list[Any] = []
    message = bytearray()
    kind = Opcode.TEXT
    for frame in protocol.events_received():
        assert isinstance(frame, Frame)
        payload = bytes(frame.data)
        if frame.opcode is Opcode.PONG:
            continue  # the parser does not report them
        if frame.opcode is Opcode.PING:
            events.append(("ping", payload))
        elif frame.opcode is Opcode.CLOSE:
            code = int.from_bytes(payload[:2]) if payload else None
            events.append(("close", code, payload[2:].decode()))
        else:
            kind = kind if frame.opcode is Opcode.CONT else frame.opcode
            message += payload
            try:
                text = message.decode() if kind is Opcode.TEXT and frame.fin else ""
            except UnicodeDecodeError:
                return [*events, "error"]
            if frame.fin:
                events.append(text if kind is Opcode.TEXT else bytes(message))
                message.clear()
    return [*events, "error" if protocol.parser_exc else "fine"]


def _message(rng: random.Random) -> bytes:
    """Return the frames of a message or of a control frame."""
    choice = rng.random()
    if choice < 0.2:
        return _frame(rng.choice((9, 10)), rng.randbytes(rng.randint(0, 125)), rng)
    if choice < 0.25:
        reason = rng.choice(TEXTS).encode()[:120]
        return _frame(8, rng.choice(CODES).to_bytes(2) + reason, rng)
    if choice < 0.6:
        opcode, payload = 1, rng.choice(TEXTS).encode() * rng.randint(1, 3)
    else:
        opcode, payload = 2, rng.randbytes(rng.choice(SIZES[: rng.randint(1, 12)]))
    if rng.random() < 0.5:
        return _frame(opcode, payload, rng)
    parts = _cut(payload, rng) or [b""]
    frames = []
    for number, part in enumerate(parts):
        final = number == len(parts) - 1
        frames.append(_frame(0 if number else opcode, part, rng, final=final))
        if rng.random() < 0.2:
            frames.append(_frame(9, b"between", rng))
    return b"".join(frames)


def _frame(
    opcode: int, payload: bytes, rng: random.Random, *, final: bool = True
) -> bytes:
    length = len(payload)
    if length < 126:
        size = bytes([0x80 | length])
    elif length < 65536:
        size = b"\xfe" + length.to_bytes(2)
    else:
        size = b"\xff" + length.to_bytes(8)
    mask = rng.randbytes(4)
    masked = bytes(a ^ b for a, b in zip(payload, itertools.cycle(mask), strict=False))
    return bytes([0x80 * final | opcode]) + size + mask + masked


def _cut(data: bytes, rng: random.Random) -> list[bytes]:
    """Cut data into a few pieces."""
    ends = sorted(rng.randint(0, len(data)) for _ in range(rng.randint(0, 6)))
    return [data[a:b] for a, b in itertools.pairwise([0, *ends, len(data)])]


def _damage(data: bytes, rng: random.Random) -> bytes:
    """Change, remove or insert some bytes, rather near the heads of frames."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        place = rng.randint(0, min(len(changed), rng.choice((4, 40, 100_000))))
        match rng.randrange(4):
            case 0:
                changed[place : place + 1] = rng.randbytes(1)
            case 1:
                del changed[place : place + rng.randint(1, 5)]
            case 2:
                changed[place:place] = rng.randbytes(rng.randint(1, 5))
            case _:
                del changed[place + 10 :]
    return bytes(changed)
