"""Random and broken commands of topic clients, over the server's WebSockets."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from typing import Any

from benchmarks.drills.harness import Harness, count_leftovers
from benchmarks.drills.ledger import Row
from benchmarks.drills.websocket import WebSocket
from support.servers.brokers import Server

STACKS = ("tiderace",)


NAMES = (
    "connect", "subscribe", "unsubscribe", "publish", "presence", "presence_stats",
    "history", "ping", "send", "rpc", "refresh", "sub_refresh", "unheard-of",
)  # fmt: skip
FIELDS = (
    "channel", "data", "token", "recover", "epoch", "offset", "method", "client",
    "limit", "reverse", "since", "flag", "subs", "name", "join_leave", "delta",
)  # fmt: skip
RAW = (
    "", " ", "\n\n", "{", "[]", "null", "1", '"text"', '{"id": 1', "{}{}", "\u0000",
    '{"id": 1e400, "connect": {}}', '{"id": 2, "publish": {"data": NaN}}',
    '{"id": 3, "publish": {"channel": "stream:a", "data": "\\ud83d"}}',
    '{"id": 4, "id": 5, "ping": {}}', "[" * 2000, '{"a":' * 2000,
)  # fmt: skip

LAST = b'"id":100,'


async def drill(harness: Harness) -> Row:
    broker = harness.enter(Server())
    harness.configure(broker.url, tiderace={"TOPICS": {"CONNECTS": None}})
    sites = await harness.sites(1)
    traffic = await harness.traffic(sites, members=4, clients=4, rate=20)
    before = await sites[0].measurements()
    codes: Counter[int] = Counter()
    counts: Counter[str] = Counter()
    deadline = time.monotonic() + harness.seconds

    async def attack(seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < deadline and sites[0].running:
            await _connection(sites[0].port, rng, codes, counts)

    await asyncio.gather(*(attack(seed) for seed in range(12)))

    row = await traffic.finish()
    await count_leftovers(row, sites[0], before)
    row.notes.append(f"{dict(counts)}; closed with {dict(codes)}")
    for code in (1006, 1011):
        row.require(not codes[code], f"{codes[code]} connections closed with {code}")
    silent = counts["silent connections"]
    row.require(not silent, f"{silent} connections were not answered")
    harness.count_errors(row)
    return row


async def _connection(
    port: int, rng: random.Random, codes: Counter[int], counts: Counter[str]
) -> None:
    """Send some commands on one connection."""

    ended = asyncio.Event()

    def receive(text: bytes) -> None:
        counts["answers"] += text.count(b"\n") + 1
        if LAST in text:
            ended.set()

    socket = await WebSocket.open(port, "/connection/websocket", receive, ended.set)
    if rng.random() < 0.9:
        socket.send('{"id": 1, "connect": {}}')
    for _ in range(rng.randint(1, 20)):
        socket.send(_frame(rng))
        counts["commands"] += 1
        if rng.random() < 0.2:
            await asyncio.sleep(0)
    # Answered or closed: nothing may make a connection silent.
    socket.send('{"id": 100, "presence": {"channel": "stream:a"}}')
    try:
        await asyncio.wait_for(ended.wait(), 10)
    except TimeoutError:
        counts["silent connections"] += 1
    if socket.closed:
        codes[socket.code or 0] += 1
    else:
        socket.abort()


def _frame(rng: random.Random) -> str:
    """Return a command, several, or something else."""
    if rng.random() < 0.1:
        return rng.choice(RAW)
    text = "\n".join(json.dumps(_command(rng)) for _ in range(rng.choice((1, 1, 1, 4))))
    if rng.random() < 0.15:
        place = rng.randrange(len(text))
        text = text[:place] + chr(rng.randrange(128)) + text[place + 1 :]
    return text


def _command(rng: random.Random) -> Any:
    body: Any = {
        field: _value(rng, 2) for field in rng.sample(FIELDS, rng.randint(0, 5))
    }
    if rng.random() < 0.6:
        body["channel"] = rng.choice(("stream:a", "stream:b", "here:a", "exits", "ü:1"))
    if rng.random() < 0.1:
        body = _value(rng, 1)
    command = {"id": rng.randint(2, 99), rng.choice(NAMES): body}
    if rng.random() < 0.1:
        command["id"] = _value(rng, 1)
    return command


def _value(rng: random.Random, depth: int) -> Any:
    simple = (
        0, 1, -1, 2**31, 2**53, 2**64, -(2**63), 1e300, True, False, None, "", "a",
        "stream:a", "\ud83d", "\u0000", "x" * 2000, "..", "%00", "a b", "é" * 100,
    )  # fmt: skip
    if depth and rng.random() < 0.3:
        if rng.random() < 0.5:
            return [_value(rng, depth - 1) for _ in range(rng.randint(0, 4))]
        return {rng.choice(FIELDS): _value(rng, depth - 1)}
    return rng.choice(simple)
