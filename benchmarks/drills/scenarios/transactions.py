"""100 requests save and publish in a transaction; half of them fail afterwards."""

from __future__ import annotations

from benchmarks.drills.clients import TopicClient
from benchmarks.drills.harness import Harness, until
from benchmarks.drills.ledger import Ledger, Row, Sent
from support.servers.brokers import Server

STACKS = ("tiderace",)


MIGRATE = """
from benchmarks.drills import site
from django.core.management import call_command
call_command("migrate", verbosity=0)
"""


async def drill(harness: Harness) -> Row:
    broker = harness.enter(Server())
    harness.configure(broker.url)
    migration = await harness.process("-c", MIGRATE)
    await migration.output()
    sites = await harness.sites()
    ledger = Ledger()
    clients = [
        await TopicClient(lambda: sites[0].port, ledger.receiver("stream:rows")).open()
        for _ in range(10)
    ]

    for number in range(100):
        outcome = ("ok", "fails")[number % 2]
        site = sites[number // 2 % 2]
        status = await site.status(f"save/{number}/{outcome}/")
        assert status == (200, 500)[number % 2], status
    await until(lambda: all(98 in each.numbers for each in ledger.receivers))

    for client in clients:
        client.close()
    # The failed half is not expected, and must not arrive.
    failed = set(range(1, 100, 2))
    ledger.record_sent({"stream:rows": Sent(100, failed, [0.0] * 100)})
    row = ledger.row()
    row.notes = []
    for receiver in ledger.receivers:
        row.require(
            not receiver.numbers & failed, "a publication of a failed request arrived"
        )
    return row
