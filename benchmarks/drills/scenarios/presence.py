"""60 users come, leave and return, and a server is killed; the list is compared with the truth."""

from __future__ import annotations

import asyncio
import itertools
import time

from benchmarks.drills.clients import TopicClient
from benchmarks.drills.harness import Harness
from benchmarks.drills.ledger import Receiver, Row
from support.servers.brokers import Server

STACKS = ("tiderace",)


async def drill(harness: Harness) -> Row:
    broker = harness.enter(Server())
    harness.configure(
        broker.url,
        layer={"lease": 3},
        tiderace={"PRESENCE_TTL": 4, "PRESENCE_REFRESH": 1, "PRESENCE_LEASE": 4},
    )
    sites = await harness.sites()
    tokens = await harness.tokens(60)
    users = []
    for number, token in enumerate(tokens):
        ports = itertools.cycle([site.port for site in sites[number % 2 :] + sites])
        user = TopicClient(ports.__next__, Receiver("here:room"), token)
        users.append(await user.open())
    row = Row()

    async def compare(present: set[int], when: str) -> None:
        """Wait for the truth, and count how much the list differs from it."""
        wanted = sorted(str(number + 1) for number in present)
        deadline = time.monotonic() + 15
        while (listed := await sites[0].get("presence", "here:room")) != wanted:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        missing, ghosts = set(wanted) - set(listed), set(listed) - set(wanted)
        row.sent += len(wanted)
        row.received += len(wanted) - len(missing)
        row.lost += len(missing)
        row.silent += len(missing)
        row.leaked += len(ghosts)
        if missing or ghosts:
            row.notes.append(f"{when}: {len(missing)} missing, {len(ghosts)} ghosts")

    await compare(set(range(60)), "after all have come")
    for user in users[:10]:
        user.close()
    for user in users[10:20]:
        user.abort()
    await compare(set(range(10, 60)), "after ten have left and ten have reloaded")
    await sites[1].kill()
    for user in users[50:]:
        user.close()
    await compare(set(range(10, 50)), "after a server was killed and ten have left")
    # Until the grace of those who have left is over.
    await asyncio.sleep(4)
    last = {}
    for line in (harness.folder / "presence").read_text().splitlines():
        what, user_id, _ = line.split()
        last[user_id] = what
    present = {str(number + 1) for number in range(10, 50)}
    for user_id in (str(number + 1) for number in range(60)):
        wanted = "joined" if user_id in present else "left"
        row.require(
            last.get(user_id) == wanted,
            f"the last hook of user {user_id} is {last.get(user_id)}, not {wanted}",
        )
    for user in users:
        user.close()
    return row
