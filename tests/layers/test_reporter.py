"""When a process reports its statistics to its broker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from support.clock import FakeClock
from tiderace.layers.local import DropLog, LocalChannels
from tiderace.layers.pubsub.reporter import Reporter


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def local(clock):
    return LocalChannels(
        expiry=60,
        group_expiry=86400,
        capacity_of=lambda name: 100,
        clock=clock,
        drop_log=DropLog(),
    )


async def report_for(
    seconds: float, local: LocalChannels, *, lease: float
) -> list[float]:
    """Call ``report_if_due`` every tenth of a second; return when a report was made."""
    clock: Any = local.clock
    begun = clock.now
    reported = []

    async def report(process, data, *, lease):
        reported.append(round(clock.now - begun, 1))

    broker: Any = SimpleNamespace(memberships=SimpleNamespace(report=report))
    reporter = Reporter(local, lease=lease)
    while clock.now - begun < seconds:
        await reporter.report_if_due(broker, ready=True)
        clock.advance(0.1)
    return reported


async def test_an_idle_process_reports_each_half_of_its_lease(local):
    reported = await report_for(60, local, lease=30)

    assert reported == pytest.approx([0, 15, 30, 45], abs=0.5)


async def test_an_idle_process_reports_at_half_of_a_short_lease(local):
    reported = await report_for(6, local, lease=5)

    assert reported == pytest.approx([0, 2.5, 5], abs=0.3)


async def test_a_process_in_use_reports_every_two_seconds(local, monkeypatch):
    stats = local.stats
    sent = iter(range(1_000))
    monkeypatch.setattr(
        local,
        "stats",
        lambda **options: replace(stats(**options), groups=next(sent)),
    )

    reported = await report_for(7, local, lease=30)

    assert reported == pytest.approx([0, 2, 4, 6], abs=0.5)
