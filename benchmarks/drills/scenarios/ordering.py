"""Three processes send to one group and one topic; all receivers get the same order."""

from __future__ import annotations

import asyncio

from benchmarks.drills.harness import Harness, Traffic
from benchmarks.drills.ledger import Row
from support.servers.brokers import Server

STACKS = ("tiderace", "channels")


# Added to the numbers of each sender.
BASE = 1_000_000


async def drill(harness: Harness) -> Row:
    broker = harness.enter(Server())
    harness.configure(broker.url)
    topics = ["stream:0"] if harness.is_tiderace else []
    traffic = await harness.traffic(
        await harness.sites(),
        members=20,
        groups=1,
        direct=0,
        clients=20,
        topics=1,
        rate=20,
    )

    senders = [
        await harness.sender(["group-0"], topics=topics, rate=60, base=BASE * number)
        for number in (1, 2)
    ]
    await asyncio.sleep(8)
    sent = [await sender.stop() for sender in senders]
    await traffic.finish()

    row = Row()
    sent.append(traffic.ledger.sent)
    for stream in ("group-0", *topics):
        _judge(row, traffic, stream, [each[stream].total for each in sent])
    return row


def _judge(row: Row, traffic: Traffic, stream: str, totals: list[int]) -> None:
    """Compare the orders of all receivers of a stream."""
    bases = (BASE, 2 * BASE, 0)
    wanted = {
        base + number
        for base, total in zip(bases, totals, strict=True)
        for number in range(total)
    }
    receivers = [each for each in traffic.ledger.receivers if each.stream == stream]
    row.sent += len(wanted)
    for receiver in receivers:
        row.received += len(receiver.order)
        row.doubled += receiver.doubled
        missing = len(wanted - receiver.numbers)
        row.lost += missing
        row.silent += missing
        for base in bases:
            own = [each for each in receiver.order if base <= each < base + BASE]
            row.disordered += own != sorted(own)
    differing = sum(each.order != receivers[0].order for each in receivers)
    row.require(not differing, f"{differing} receivers of {stream} got another order")
    for client in traffic.clients:
        offsets = [offset for _, offset, _ in client.publications]
        contiguous = offsets == [*range(offsets[0], offsets[0] + len(offsets))]
        row.require(contiguous, "the offsets of a client are not contiguous")
